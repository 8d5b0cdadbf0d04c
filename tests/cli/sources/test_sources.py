"""`millrace sources`: create, list, describe, rotate, refusals and delete; the secret is no argument."""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from tests.cli.processes import Cli, Serving, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server"), "--port", "0") as running:
        yield running


def deliver(server: Serving, path: str, body: bytes, secret: str) -> int:
    signature = "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()
    request = Request(server.url + path, body, {"X-Hub-Signature-256": signature})  # noqa: S310 - of this test
    with urlopen(request) as answer:  # noqa: S310 - of this test
        return int(answer.status)


def test_a_source_is_created_listed_rotated_and_deleted(own_server: Serving, tmp_path: Path) -> None:
    cli = Cli(tmp_path, own_server.url)
    (tmp_path / "secret").write_text("the first secret\n")
    arguments = ("sources", "create", "hub", "events", "--scheme", "github", "--key-from", "header:X-GitHub-Event")

    created = cli.ok(*arguments, "--secret-file", str(tmp_path / "secret"))
    assert created.err == "millrace: created hub and the topic events, which did not exist\n"
    path = json.loads(created.out)["delivery_url"]
    assert deliver(own_server, path, b"{}", "the first secret") == 200
    again = cli.ok(*arguments, "--secret-file", "-", stdin=b"the first secret")
    assert again.err == "millrace: hub already exists\n"
    assert cli(*arguments, "--secret-file", "-", stdin=b"another secret").code == 4
    assert cli(*arguments).code == 2
    differs = cli(*arguments[:-1], "/id", "--secret-file", "-", stdin=b"the first secret")
    assert "millrace sources change SOURCE changes it, and millrace sources rotate SOURCE its secret" in differs.err

    changed = cli.ok("sources", "change", "hub", "--header", "X-GitHub-Event", "--key-from", "", "--topic", "other")
    assert changed.err == "millrace: created the topic other, which did not exist\n"
    assert [json.loads(changed.out)[name] for name in ("headers", "key_from")] == [["X-GitHub-Event"], None]
    assert cli("sources", "change", "hub").code == 2
    cli.ok("sources", "change", "hub", "--key-from", "header:X-GitHub-Event")
    cli.ok("sources", "rotate", "hub", "--secret-file", "-", stdin=b"the second secret\n")
    assert deliver(own_server, path, b"{}", "the second secret") == 200
    assert [json.loads(line)["name"] for line in cli.ok("sources", "list").lines] == ["hub"]
    assert json.loads(cli.ok("sources", "describe", "hub").out)["key_from"] == "header:X-GitHub-Event"
    assert cli.ok("sources", "refusals", "hub").out == b""
    assert cli("sources", "delete", "hub").code == 2
    cli.ok("sources", "delete", "hub", "--yes")
    assert cli("sources", "describe", "hub").code == 3


def test_a_source_without_signatures_shows_its_url_once(own_server: Serving, tmp_path: Path) -> None:
    cli = Cli(tmp_path, own_server.url)

    created = cli.ok("sources", "create", "open", "events", "--scheme", "none")

    assert "shown only now" in created.err
    found = json.loads(created.out)
    assert found["token"] in found["delivery_url"]
    assert found["token"].encode() not in cli.ok("sources", "describe", "open").out


def test_more_fields_of_the_verification_are_json(own_server: Serving, tmp_path: Path) -> None:
    cli = Cli(tmp_path, own_server.url)
    arguments = ("sources", "create", "own", "events", "--scheme", "hmac", "--secret-file", "-", "--verify")

    assert (
        json.loads(cli.ok(*arguments, '{"header":"X-Own"}', stdin=b"a secret of it").out)["verify"]["header"] == "X-Own"
    )
    assert cli(*arguments, "[1]", stdin=b"a secret of it").code == 2
