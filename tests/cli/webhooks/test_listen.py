"""`millrace listen`: a signed delivery, a retry and a dead letter on the screen of a newcomer."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.cli.processes import DEADLINE_S, Cli, await_line, free_port, wait_until
from tests.cli.pseudo_terminal import on_terminal

if TYPE_CHECKING:
    import subprocess

    from tests.cli.webhooks.conftest import Listening

SECRET = "whsec_bm90IGEgc2VjcmV0IGFueSBtb3JlLCByZWFsbHk="


def printed(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Wait for the end of a receiver, and return what it has printed."""
    assert process.stdout is not None
    lines = [json.loads(line) for line in process.stdout]
    assert process.wait(DEADLINE_S) == 0
    return lines


def progress(cli: Cli, webhook: str, begun: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of a replay, and return its progress."""
    found: dict[str, Any] = {}

    def is_done() -> bool:
        found.update(json.loads(cli.ok("webhooks", "replay-status", webhook, str(begun["replay_id"])).out))
        return bool(found["status"] == "done")

    wait_until(is_done)
    return found


def test_a_newcomer_sees_a_signed_delivery_a_retry_and_a_dead_letter(
    posting: Cli, listening: Listening, topic: str
) -> None:
    port = str(free_port())
    with listening("--port", port, "--secret", SECRET, "--fail", "2", "-n", "3") as (receiver, url):
        posting.variables["MILLRACE_WEBHOOK_SECRET"] = SECRET
        posting.ok(
            "webhooks", "create", topic, url, topic, "--retry-delays-ms", "1", "--dead-letter-topic", f"{topic}.dead"
        )
        posting.ok("produce", topic, "--key", "/n", stdin=b'{"n":1}\n')
        posting.ok("produce", topic, "--key", "/n", stdin=b'{"n":2}\n')
        first, failed, again = printed(receiver)

    assert (first["status"], first["verified"], first["key"], first["body"]) == (204, True, "1", '{"n":1}')
    assert (failed["status"], failed["seen"], failed["body"]) == (500, 1, '{"n":2}')
    assert (again["status"], again["seen"], again["body"]) == (204, 2, '{"n":2}')
    assert failed["webhook_id"] == again["webhook_id"] != first["webhook_id"]

    with listening("--port", port, "--secret", SECRET, "--fail", "1", "-n", "2") as (receiver, _):
        posting.ok("produce", topic, "--key", "/n", stdin=b'{"n":3}\n')
        lost, _ = printed(receiver)
    assert lost["status"] == 500
    dead = json.loads(posting.ok("consume", f"{topic}.dead", "--follow", "-n", "1").out)
    assert dead["value"] == {"n": 3}

    with listening("--port", port, "--secret", SECRET, "-n", "1") as (receiver, _):
        plan = posting.ok("webhooks", "redrive", topic)
        assert "this would send up to 1 record again; add --execute" in plan.err
        assert json.loads(plan.out)["dry_run"] is True
        begun = json.loads(posting.ok("webhooks", "redrive", topic, "--execute").out)
        (redriven,) = printed(receiver)
    assert redriven == lost | {"status": 204}

    assert progress(posting, topic, begun)["delivered"] == 1
    wait_until(lambda: b'"delivered"' in posting.ok("webhooks", "attempts", topic, "-n", "1").out)
    begun = json.loads(posting.ok("webhooks", "redrive", topic, "--execute").out)
    assert progress(posting, topic, begun)["delivered"] == 0


def test_a_forged_attempt_is_not_accepted(listening: Listening) -> None:
    with listening("--port", "0", "--secret", SECRET, "-n", "1") as (receiver, url):
        headers = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(url, b"{}", headers))  # noqa: S310 - of this test
        with refused.value:
            assert refused.value.code == 401
        (attempt,) = printed(receiver)

    assert (attempt["status"], attempt["verified"]) == (401, False)
    assert "time" in attempt["problem"]


def test_a_public_key_verifies_too(posting: Cli, listening: Listening, topic: str) -> None:
    port = str(free_port())
    created = posting.ok("webhooks", "create", topic, f"http://127.0.0.1:{port}", topic, "--signature", "ed25519")
    assert "the receiver verifies with the public key, which is shown only now" in created.err

    with listening("--port", port, "--secret", json.loads(created.out)["secret"], "-n", "1") as (receiver, _):
        assert json.loads(posting.ok("webhooks", "test", topic).out)["outcome"] == "delivered"
        assert [each["verified"] for each in printed(receiver)] == [True]


def test_without_a_secret_it_shows_the_command_that_creates_the_webhook(posting: Cli, topic: str) -> None:
    with posting.started("listen", "--port", "0") as process:
        line = await_line(process, containing="millrace webhooks create")
        words = line.removeprefix("millrace: ").replace("TOPIC", topic).replace("local", topic).split()
        name, _, secret = words[0].partition("=")
        posting.variables[name] = secret
        posting.ok(*words[2:])
        assert json.loads(posting.ok("webhooks", "test", topic).out)["outcome"] == "delivered"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130


def test_a_secret_of_another_form_and_a_port_in_use_are_refused(posting: Cli, listening: Listening) -> None:
    assert "must be whsec_… or whpk_…" in posting("listen", "--secret", "whsec_!").err
    assert posting("listen", "--secret", "whsec_AAAA").code == 2
    with listening("--port", "0") as (_, url):
        taken = posting("listen", "--port", url.rpartition(":")[2])
    assert taken.code == 1
    assert "choose another --port" in taken.err


def test_on_a_terminal_an_attempt_is_one_line(posting: Cli, topic: str) -> None:
    port = free_port()
    created = posting.ok("webhooks", "create", topic, f"http://127.0.0.1:{port}", topic)
    posting.variables["MILLRACE_WEBHOOK_SECRET"] = json.loads(created.out)["secret"]

    def is_listening() -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    with ThreadPoolExecutor() as threads:
        ended = threads.submit(on_terminal, posting, "listen", "--port", str(port), "-n", "1")
        wait_until(is_listening)
        posting.ok("produce", topic, "--key", "/n", stdin=b'{"n":1}\n')
        code, shown = ended.result(DEADLINE_S)

    assert code == 0
    assert f"   1  204  verified  {topic} " in shown
    assert '@0  key 1  {"n":1}\n' in shown
