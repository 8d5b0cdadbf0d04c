"""What all commands have in common: help, exit codes, curl lines, and what they import."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.cli.running import Cli, environment, free_port

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
    )
)


def test_help_names_every_command_and_exit_code(cli: Cli) -> None:
    text = cli.ok("--help").out.decode()
    for command in ("serve", "migrate", "openapi", "health", "topics", "groups", "produce", "consume"):
        assert f" {command} " in text
    words = " ".join(text.split())
    assert (
        "Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 refused (4xx), 5 server error or unreachable, "
        "130 interrupted." in words
    )


def test_version(cli: Cli) -> None:
    assert cli.ok("--version").out == b"millrace 0.1.0\n"


def test_the_program_and_client_commands_import_no_server() -> None:
    look = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    heavy = {"fastapi", "starlette", "sqlalchemy", "uvicorn", "pydantic", "alembic"}
    for code, absent in (
        ("import app.cli.program", heavy | {"httpx2", "rich", "msgspec"}),
        (f"import {CLIENT_MODULES}; app.cli.client.Client('http://a')", heavy),
    ):
        done = subprocess.run([sys.executable, "-c", f"{code}; {look}"], capture_output=True, check=True, text=True)
        assert set(done.stdout.split()) & absent == set()


def test_a_client_reads_the_port_of_the_environment_and_no_env_file(cli: Cli) -> None:
    (cli.folder / ".env").write_text(f"MILLRACE_URL={cli.url}\nMILLRACE_PORT={cli.url.rpartition(':')[2]}\n")
    port = str(free_port())
    assert (
        f"cannot reach http://127.0.0.1:{port}:" in Cli(cli.folder, "", {"MILLRACE_PORT": port})("topics", "list").err
    )
    assert Cli(cli.folder, "", {"MILLRACE_PORT": cli.url.rpartition(":")[2]})("topics", "list").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["topics", "describe", "nowhere"],
            3,
            "there is no topic nowhere; millrace topics create nowhere creates it (U",
        ),
        (["queues", "describe", "none"], 3, "there is no queue none; millrace queues create none TOPIC creates it (U"),
        (["queue", "work", "none", "--", "true"], 3, "there is no queue none; millrace queues create none TOPIC"),
        (
            ["groups", "describe", "none"],
            3,
            "there is no group none; millrace consume TOPIC --group none creates it (G",
        ),
        (["topics", "create", "a topic"], 4, "(INVALID_TOPIC_EXCEPTION)"),
        (["topics", "create"], 2, "Missing argument"),
        (["topics", "create", "t", "--config", "retention_ms"], 2, "is not NAME=VALUE"),
        (["topics", "list", "--url", "nonsense"], 1, "'nonsense' is not the URL of a server"),
    ],
)
def test_the_exit_code_tells_what_went_wrong(cli: Cli, words: list[str], code: int, said: str) -> None:
    done = cli(*words)
    assert (done.code, done.out) == (code, b"")
    assert said in done.err


def test_an_unreachable_server_is_5(cli: Cli) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = cli("topics", "list", "--url", url)
    assert (done.code, done.out) == (5, b"")
    assert done.err == (
        f"millrace: cannot reach {url}: [Errno 111] Connection refused; start one with millrace serve, or "
        "name it with --url or MILLRACE_URL\n"
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_curl_line_of_verbose_gives_the_same_answer(cli: Cli, topic: str) -> None:
    create = cli.ok("topics", "create", topic, "-p", "2", "-c", "retention_ms=-1", "-v")
    line = next(line for line in create.err.splitlines() if line.startswith("curl "))
    answer = cli.shell(line.replace("curl ", "curl --silent ", 1))
    assert json.loads(answer.out) == json.loads(create.out)

    produce = cli.ok("produce", topic, "-v", "--key", "/it's", stdin=b'{"it\'s":"$HOME `x` \\u00e9"}\n')
    line = produce.err.partition("sent ")[0]
    answer = cli.shell(line.replace("curl ", "curl --silent ", 1))
    assert json.loads(answer.out)["duplicate"] is True

    consume = cli.ok("consume", topic, "-v", "-n", "1")
    answer = cli.shell(consume.err.replace("curl ", "curl --silent ", 1))
    assert answer.out == consume.out
    assert json.loads(answer.out)["key"] == "$HOME `x` é"


def test_nothing_of_the_environment_of_the_tests_is_used() -> None:
    assert [name for name in environment() if name.startswith("MILLRACE_")] == []
