"""The key and the CA certificates of the client commands."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.cli.access.conftest import ADMIN_KEY
from tests.cli.processes import Cli, Serving

if TYPE_CHECKING:
    from pathlib import Path


def without(cli: Cli, name: str, value: str | None = None) -> Cli:
    """Return commands without a variable, or with another value."""
    others = {each: kept for each, kept in cli.variables.items() if each != name}
    return replace(cli, variables=others | ({} if value is None else {name: value}))


def test_records_go_both_ways_over_https_with_a_key(secure_server: Serving, admin: Cli, topic: str) -> None:
    assert f"  docs   {secure_server.url}/docs" in secure_server.banner
    assert secure_server.url.startswith("https://127.0.0.1:")
    values = [json.dumps({"n": number, "text": "x" * 20_000}) for number in range(200)]

    admin.ok("produce", topic, "--key", "/n", stdin="\n".join(values).encode())
    consumed = admin.ok("consume", topic, "--format", "values").lines

    assert sorted(json.loads(line)["n"] for line in consumed) == [*range(200)]
    group = admin.ok("consume", topic, "--group", topic, "-n", "7").lines
    assert len(group) == 7


def test_a_stream_goes_on_over_https_and_its_process_does_not_show_the_key(admin: Cli, topic: str) -> None:
    admin.ok("produce", topic, stdin=b"1\n")
    with admin.started("consume", topic, "--follow", "--format", "values") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        words = ["ps", "-ww", "-o", "args=", "-p", str(process.pid)]
        shown = subprocess.run(words, capture_output=True, check=True, text=True).stdout
        assert topic in shown
        assert ADMIN_KEY not in shown
        admin.ok("produce", topic, stdin=b"2\n")
        assert process.stdout.readline() == b"2\n"


def test_without_a_key_the_variable_is_named(admin: Cli) -> None:
    done = without(admin, "MILLRACE_API_KEY")("topics", "list")

    assert (done.code, done.out) == (4, b"")
    assert done.err.startswith("millrace: set MILLRACE_API_KEY to a key of the server: ")
    assert done.err.endswith("(SASL_AUTHENTICATION_FAILED)\n")


def test_a_key_that_is_not_accepted_is_not_repeated(admin: Cli) -> None:
    for wrong in ("mr_abcdefghijkl_" + "z" * 38, "secret-of-another-server"):
        done = without(admin, "MILLRACE_API_KEY", wrong)("topics", "list", "-v")
        assert done.code == 4
        assert "millrace: the server does not accept what is in MILLRACE_API_KEY: " in done.err
        assert wrong not in done.err

    done = without(admin, "MILLRACE_API_KEY", "two words")("topics", "list")
    assert (done.code, done.err) == (
        1,
        "millrace: MILLRACE_API_KEY must be a key or a token, in one line and without spaces\n",
    )


def test_a_line_end_after_the_key_does_not_count(admin: Cli) -> None:
    without(admin, "MILLRACE_API_KEY", f"{ADMIN_KEY}\n").ok("topics", "list")


def test_the_readiness_needs_no_key(admin: Cli) -> None:
    without(admin, "MILLRACE_API_KEY").ok("health")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_curl_command_of_verbose_has_the_key_as_a_variable(admin: Cli, topic: str) -> None:
    created = admin.ok("topics", "create", topic, "-v")

    line = next(line for line in created.err.splitlines() if line.startswith("curl "))
    assert ADMIN_KEY not in created.err
    assert '-H "authorization: Bearer $MILLRACE_API_KEY"' in line
    assert json.loads(admin.shell(line.replace("curl ", "curl --silent ", 1)).out) == json.loads(created.out)


def test_an_unknown_authority_is_refused_with_what_to_set(admin: Cli) -> None:
    done = without(admin, "MILLRACE_CA_FILE")("topics", "list")

    assert done.code == 5
    assert done.err.endswith("set MILLRACE_CA_FILE to a file with the certificate of its authority\n")


def test_the_option_for_the_authority_precedes_the_variable(admin: Cli, tmp_path: Path) -> None:
    without(admin, "MILLRACE_CA_FILE", "missing.pem").ok(
        "--ca-file", admin.variables["MILLRACE_CA_FILE"], "topics", "list"
    )

    (tmp_path / "text.pem").write_text("no certificate")
    for path, reason in (
        ("missing.pem", "cannot read the CA certificates in missing.pem: No such file or directory"),
        ("text.pem", "text.pem must have CA certificates in PEM format"),
    ):
        done = admin("--ca-file", path, "topics", "list")
        assert (done.code, done.err) == (1, f"millrace: {reason} (MILLRACE_CA_FILE)\n")


def test_http_to_a_server_with_https_names_the_url_with_https(secure_server: Serving, admin: Cli) -> None:
    done = admin("topics", "list", "--url", secure_server.url.replace("https:", "http:"))

    assert done.code == 5
    assert done.err.endswith(f"the server closed the connection; if the server speaks TLS, use {secure_server.url}\n")
