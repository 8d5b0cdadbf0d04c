"""The HTTP client of the commands: the server's URL, failures and curl commands."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import Cli, free_port

if TYPE_CHECKING:
    from pathlib import Path


def test_the_port_comes_from_the_environment_and_not_from_an_env_file(cli: Cli) -> None:
    (cli.folder / ".env").write_text(f"MILLRACE_URL={cli.url}\nMILLRACE_PORT={cli.url.rpartition(':')[2]}\n")
    port = str(free_port())
    assert (
        f"cannot reach http://127.0.0.1:{port}:" in Cli(cli.folder, "", {"MILLRACE_PORT": port})("topics", "list").err
    )
    assert Cli(cli.folder, "", {"MILLRACE_PORT": cli.url.rpartition(":")[2]})("topics", "list").code == 0


@pytest.mark.parametrize(
    "name", ["MILLRACE_ULR", "MILLRACE_URI", "MILRACE_URL", "MILLRACE_SERVER_URL", "MILLRACE_URLS", "millrace_url"]
)
def test_a_misspelt_url_is_reported_since_another_server_is_used(tmp_path: Path, name: str) -> None:
    port = str(free_port())
    done = Cli(tmp_path, "", {name: "http://log.example.com", "MILLRACE_PORT": port})("topics", "list")
    warning = f"millrace: {name} has no effect; did you mean MILLRACE_URL? Using http://127.0.0.1:{port}\n"
    assert done.err.startswith(warning)


def test_other_variables_are_no_misspelt_url(tmp_path: Path) -> None:
    variables = {"MILLRACE_PORT": str(free_port()), "MILLRACE_DATABASE_URL": "x", "MILLRACE_HOST": "x", "MILES": "1"}
    done = Cli(tmp_path, "", variables)("topics", "list")
    assert done.err.startswith("millrace: cannot reach ")


def test_a_port_that_is_none_is_refused_with_what_to_set(tmp_path: Path) -> None:
    done = Cli(tmp_path, "", {"MILLRACE_PORT": "tcp://10.0.0.1:8400"})("topics", "list")
    assert (done.code, done.err) == (
        1,
        "millrace: MILLRACE_PORT is not a port; set it to a number, or name the server with MILLRACE_URL\n",
    )


def test_an_unreachable_server_exits_with_5(cli: Cli) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = cli("topics", "list", "--url", url)
    assert (done.code, done.out) == (5, b"")
    assert done.err == (
        f"millrace: cannot reach {url}: Connection refused; start a server with millrace serve, or "
        "name one with --url or MILLRACE_URL\n"
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_curl_command_of_verbose_gets_the_same_answer(cli: Cli, topic: str) -> None:
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
