"""`millrace webhooks`: create, change, pause, list, describe, test, replay, skip and delete."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.pseudo_terminal import on_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.processes import Cli

URL = "https://receiver.example/hooks"


def test_a_webhook_is_created_changed_paused_listed_and_deleted(cli: Cli, topic: str, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization: Bearer abc\n\nx-team: shop\n")
    arguments = ("webhooks", "create", topic, URL, topic, "--headers-file", str(tmp_path / "headers"), "--paused")

    created = cli.ok(*arguments, "--filter", '{"value":"/type","equals":"paid"}')
    assert created.err == (
        f"millrace: created {topic} and the topic {topic}, which did not exist\n"
        "millrace: the receiver verifies with the secret, which is shown only now\n"
    )
    assert json.loads(created.out)["secret"].startswith("whsec_")
    assert cli.ok(*arguments).err == f"millrace: {topic} already exists\n"
    assert cli(*arguments, "--timeout-ms", "2000").code == 4
    assert cli("webhooks", "create", topic, "https://other.example").code == 4

    letters = f"{topic}.undelivered"
    moved = cli.ok("webhooks", "change", topic, "--dead-letter-topic", letters)
    assert moved.err == f"millrace: created the topic {letters}, which did not exist\n"
    changed = cli.ok("webhooks", "change", topic, "--reset", "filter", "--retry-delays-ms", "", "--max-in-flight", "2")
    found = json.loads(changed.out)
    assert (found["filter"], found["retry_delays_ms"], found["max_in_flight"]) == (None, [], 2)
    assert json.loads(cli.ok("webhooks", "resume", topic).out)["status"] == "active"
    assert json.loads(cli.ok("webhooks", "pause", topic).out)["status"] == "paused"
    assert topic in [json.loads(line)["name"] for line in cli.ok("webhooks", "list").lines]
    assert json.loads(cli.ok("webhooks", "describe", topic).out)["counts"]["delivered"] == 0

    assert cli("webhooks", "delete", topic).code == 2
    cli.ok("webhooks", "delete", topic, "--yes")
    assert cli("webhooks", "describe", topic).code == 3


def test_secrets_and_headers_are_shown_once_and_never_again(cli: Cli, topic: str, tmp_path: Path) -> None:
    secret = "whsec_bm90IGEgc2VjcmV0IGFueSBtb3JlLCByZWFsbHk="
    (tmp_path / "headers").write_text("x-token: hush-hush\n")
    arguments = ("webhooks", "create", topic, URL, topic, "--headers-file", "headers", "--secret-file", "-", "--paused")
    assert json.loads(cli.ok(*arguments, stdin=f"{secret}\n".encode()).out)["secret"] == secret

    new = json.loads(cli.ok("webhooks", "rotate-secret", topic, "--overlap-ms", "1000").out)["secret"]

    assert new.startswith("whsec_")
    assert new != secret
    shown = cli.ok("webhooks", "describe", topic).out + cli.ok("webhooks", "change", topic, "--mode", "envelope").out
    for word in (secret, new, "hush-hush"):
        assert word.encode() not in shown


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--filter", "[1]"), 2, "--filter must be a JSON object"),
        (("--filter", '{"value":"/a","like":1}'), 4, "has the unknown field 'like'"),
        (("--retry-delays-ms", "5s"), 2, "must be milliseconds such as 5000,300000"),
        (("--retry-delays-ms", "-1"), 4, "--retry-delays-ms must be at most 99 delays"),
        (("--mode", "xml"), 2, "'record'"),
        (("--on-exhausted", "dead_letter"), 4, "dead_letter_topic is required"),
        (("--headers-file", "-"), 2, "must have lines such as"),
    ],
)
def test_a_wrong_option_is_refused_with_what_it_must_be(
    cli: Cli, topic: str, options: tuple[str, str], code: int, message: str
) -> None:
    done = cli("webhooks", "create", topic, URL, topic, *options, stdin=b"no header\n")

    assert done.code == code
    assert message in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9999", "http://localhost:9999"])
def test_a_refused_address_names_the_setting_that_allows_it(cli: Cli, topic: str, url: str) -> None:
    cli.ok("webhooks", "create", topic, url, topic, "--paused")

    done = cli("webhooks", "test", topic)

    assert done.code == 1
    attempt = json.loads(done.out)
    assert done.err.startswith("millrace: blocked: ")
    assert "MILLRACE_WEBHOOK_ALLOWED_NETWORKS (127.0.0.0/8 for loopback)" in done.err
    listed = [json.loads(line) for line in cli.ok("webhooks", "attempts", topic, "--outcome", "blocked").lines]
    assert listed == [attempt]
    assert cli.ok("webhooks", "attempts", topic, "--outcome", "delivered").out == b""


def test_plans_change_nothing(cli: Cli, topic: str) -> None:
    cli.ok("webhooks", "create", topic, URL, topic, "--paused")
    cli.ok("produce", topic, "--key", "/n", stdin=b'{"n":1}\n{"n":2}\n')

    plan = cli.ok("webhooks", "replay", topic, topic, "--from", "earliest", "--failed")
    assert (json.loads(plan.out)["records"], plan.err) == (
        0,
        "millrace: this would send up to 0 records again; add --execute\n",
    )
    assert json.loads(cli.ok("webhooks", "replay", topic, topic).out)["records"] == 2
    skip = cli.ok("webhooks", "skip", topic, topic)
    assert (json.loads(skip.out)["records"], skip.err) == (
        2,
        "millrace: this would pass over 2 records; add --execute\n",
    )
    assert json.loads(cli.ok("webhooks", "describe", topic).out)["counts"]["waiting"] == 2
    assert cli.ok("webhooks", "skip", topic, topic, "--execute").err == "millrace: passed over 2 records\n"
    assert json.loads(cli.ok("webhooks", "describe", topic).out)["counts"]["waiting"] == 0
    assert cli("webhooks", "redrive", topic).code == 4


def test_a_replay_is_described_and_cancelled(cli: Cli, topic: str) -> None:
    cli.ok("webhooks", "create", topic, URL, topic, "--paused")
    cli.ok("produce", topic, "--partition", "0", stdin=b"1\n2\n")

    begun = cli.ok("webhooks", "redeliver", topic, topic, "0", "1")
    replay = str(json.loads(begun.out)["replay_id"])
    assert f"millrace webhooks replay-status {topic} {replay} tells how far" in begun.err
    assert json.loads(cli.ok("webhooks", "replay-status", topic, replay).out)["status"] == "running"
    cli.ok("webhooks", "replay-cancel", topic, replay)
    assert json.loads(cli.ok("webhooks", "replay-status", topic, replay).out)["status"] == "cancelled"
    assert cli("webhooks", "replay-status", topic, "987654").code == 3


def test_tables_fit_into_80_columns(cli: Cli) -> None:
    cli.variables["COLUMNS"] = "80"
    cli.ok("webhooks", "create", "narrow", "http://127.0.0.1:9999/path/of/a/receiver", "tables", "--paused")
    cli("webhooks", "test", "narrow")

    for words in (("describe", "narrow"), ("attempts", "narrow")):
        code, coloured = on_terminal(cli, "webhooks", *words)
        shown = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
        assert code == 0
        assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert "MILLRACE_WEBHOOK_ALLOWED_NETWORKS" in shown
