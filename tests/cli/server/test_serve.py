"""`millrace serve`."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from app.storage.db.schema import HEAD
from tests.cli.processes import Cli, Serving, serving

if TYPE_CHECKING:
    from pathlib import Path

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")


def test_the_banner_names_the_api_the_docs_and_the_database(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0") as server:
        assert server.banner.splitlines() == [
            "millrace 0.1.0 is ready",
            f"  API    {server.url}/v1",
            f"  docs   {server.url}/docs",
            f"  data   {tmp_path / 'millrace.db'} (SQLite)",
            "",
            f'Try: curl --json \'{{"value":"hi"}}\' {server.url}/v1/topics/orders/records',
        ]
        assert server.terminate() == 0


@needs_curl
def test_the_curl_command_of_the_banner_works(server: Serving, cli: Cli) -> None:
    line = re.search(r"^Try: (.*)$", server.banner, re.MULTILINE)
    assert line is not None
    answer = cli.shell(line[1].replace("curl", "curl --silent --fail"))
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["offsets"][0]["offset"] == 0


def test_options_override_variables_and_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MILLRACE_DATABASE_URL=sqlite:///from-file.db\nMILLRACE_PORT=1\n")
    with serving(tmp_path, "--port", "0") as server:
        assert f"{tmp_path / 'from-file.db'} (SQLite)" in server.banner


def test_it_creates_the_database_in_an_empty_folder(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0") as server:
        assert f"{tmp_path / 'millrace.db'} (SQLite)" in server.banner
    assert (tmp_path / "millrace.db").exists()


@pytest.mark.postgres
def test_the_banner_names_postgresql_without_its_password(postgres_url: str, alone: Cli, tmp_path: Path) -> None:
    alone.ok("migrate", "--database-url", postgres_url)
    with serving(tmp_path, "--port", "0", "--database-url", postgres_url) as server:
        line = re.search(r"^  data   (.*)$", server.banner, re.MULTILINE)
        assert line is not None
        assert re.fullmatch(r"postgresql://\w+@[^:]*(:\d+)?/\w+", line[1])


@pytest.mark.postgres
def test_an_empty_postgresql_is_refused_with_the_migrate_command(postgres_url: str, alone: Cli) -> None:
    done = alone("serve", "--port", "0", "--database-url", postgres_url)
    assert (done.code, done.err) == (
        1,
        (
            f"millrace: the database is at revision none and this release needs {HEAD}; "
            "run millrace migrate with the same database URL\n"
        ),
    )


def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path, alone: Cli) -> None:
    with serving(tmp_path, "--port", "0"):
        done = alone("serve", "--port", "0")
    assert done.code == 1
    assert done.err.startswith(f"millrace: another millrace process has {tmp_path / 'millrace.db'} open; ")
    assert done.err.count("\n") == 1


def test_a_port_in_use_is_refused_and_the_database_is_closed(server: Serving, alone: Cli, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = alone("serve", "--port", port)
    cure = "stop the server that uses it, or choose another with --port or MILLRACE_PORT."
    assert (done.code, done.err) == (1, f"millrace: port {port} on 127.0.0.1 is in use: {cure}\n")
    assert not (tmp_path / "millrace.db-wal").exists(), "the database was not closed"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:secret@h/x", "--database-url must be sqlite:///path or postgresql://"),
        ("nonsense", "--database-url must be sqlite:///path or postgresql://"),
        ("postgresql://u:secret@h:x/db", "MILLRACE_DATABASE_URL is not a URL"),
        (
            "sqlite:////no where/x.db",
            "the folder /no where of the database file /no where/x.db does not exist; create it with mkdir -p ",
        ),
        ("sqlite:///garbage.db", "{folder}/garbage.db is not an SQLite database; give another file"),
        ("postgresql://u:secret@127.0.0.1:1/db", "the database cannot be reached: connection failed"),
    ],
)
def test_a_database_that_cannot_be_opened_is_refused_in_one_line(alone: Cli, url: str, message: str) -> None:
    (alone.folder / "garbage.db").write_bytes(b"not a database" * 100)
    done = alone("serve", "--port", "0", "--database-url", url)
    assert done.code == 1
    assert done.err.startswith(f"millrace: {message.format(folder=alone.folder)}")
    assert done.err.count("\n") == 1
    assert "secret" not in done.err


def test_all_wrong_settings_are_named_at_once(alone: Cli) -> None:
    alone.variables = {"MILLRACE_PORT": "many", "MILLRACE_DEFAULT_PARTITIONS": "0"}
    done = alone("serve")
    assert (done.code, done.err.splitlines()) == (
        1,
        [
            "millrace: 2 settings are wrong:",
            "  MILLRACE_PORT must be a whole number from 0 to 65535, and is 'many'",
            "  MILLRACE_DEFAULT_PARTITIONS must be a whole number from 1 to 1000, and is '0'",
        ],
    )


def test_a_certificate_that_cannot_be_used_is_refused_before_the_database_is_opened(alone: Cli) -> None:
    (alone.folder / "text.pem").write_text("no certificate")
    done = alone("serve", "--port", "0", "--tls-cert", "text.pem")

    assert done.code == 1
    assert done.err == (
        "millrace: no HTTPS: text.pem must have a certificate and its private key, in PEM format; or set --tls-key\n"
    )
    assert not (alone.folder / "millrace.db").exists()
