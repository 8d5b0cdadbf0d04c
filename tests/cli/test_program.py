"""The program: its help, its exit codes and its imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.processes import Cli, environment

CLIENT_MODULES = ", ".join(
    f"app.cli.{name}"
    for name in (
        "client",
        "consume",
        "groups.consume_group",
        "groups.groups",
        "log.produce",
        "log.rendering",
        "log.topics",
        "server.health",
        "webhooks.listen",
        "webhooks.records",
    )
)


def test_help_names_every_command_and_exit_code(cli: Cli) -> None:
    text = cli.ok("--help").out.decode()
    for command in (
        "serve",
        "migrate",
        "openapi",
        "health",
        "topics",
        "groups",
        "produce",
        "consume",
        "webhooks",
        "listen",
    ):
        assert f" {command} " in text
    words = " ".join(text.split())
    assert (
        "Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 refused (4xx), 5 server error or unreachable, "
        "130 interrupted." in words
    )


def test_version(cli: Cli) -> None:
    assert cli.ok("--version").out == b"millrace 0.1.0\n"


def test_the_program_and_client_commands_import_no_server() -> None:
    modules = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    heavy = {"fastapi", "starlette", "sqlalchemy", "uvicorn", "pydantic", "alembic"}
    for code, absent in (
        ("import app.cli.program", heavy | {"httpx2", "rich", "msgspec"}),
        (f"import {CLIENT_MODULES}; app.cli.client.Client('http://a')", heavy),
    ):
        done = subprocess.run([sys.executable, "-c", f"{code}; {modules}"], capture_output=True, check=True, text=True)
        assert set(done.stdout.split()) & absent == set()


def test_the_server_imports_what_few_servers_need_only_if_it_is_used() -> None:
    absent = {"psycopg", "jwt", "httpcore2", "opentelemetry.sdk", "opentelemetry.exporter"}
    code = f"import sys; import app.main; print({absent} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["topics", "describe", "nowhere"],
            3,
            "there is no topic nowhere; millrace topics list shows all, millrace topics create nowhere creates it (U",
        ),
        (
            ["queues", "describe", "none"],
            3,
            "there is no queue none; millrace queues list shows all, millrace queues create none TOPIC creates it (U",
        ),
        (["queue", "work", "none", "--", "true"], 3, "there is no queue none; millrace queues list shows all, "),
        (
            ["groups", "describe", "none"],
            3,
            "there is no group none; millrace groups list shows all, millrace consume TOPIC --group none creates it (G",
        ),
        (
            ["webhooks", "describe", "none"],
            3,
            "there is no webhook none; millrace webhooks list shows all",
        ),
        (["sources", "describe", "none"], 3, "there is no source none; millrace sources list shows all"),
        (["topics", "create", "a topic"], 4, "(INVALID_TOPIC_EXCEPTION)"),
        (["topics", "create"], 2, "Missing argument"),
        (["topics", "create", "t", "--config", "retention_ms"], 2, "is not NAME=VALUE"),
        (["topics", "list", "--url", "nonsense"], 1, "'nonsense' is not the URL of a server"),
    ],
)
def test_each_failure_has_its_exit_code(cli: Cli, words: list[str], code: int, message: str) -> None:
    done = cli(*words)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_the_environment_of_the_tests_is_not_used() -> None:
    assert [name for name in environment() if name.startswith("MILLRACE_")] == []
