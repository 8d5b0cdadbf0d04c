"""The HTTP client of the commands: the server's URL, failures and curl commands."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.processes import Cli, free_port


def test_the_port_comes_from_the_environment_and_not_from_an_env_file(cli: Cli) -> None:
    (cli.folder / ".env").write_text(f"MILLRACE_URL={cli.url}\nMILLRACE_PORT={cli.url.rpartition(':')[2]}\n")
    port = str(free_port())
    assert (
        f"cannot reach http://127.0.0.1:{port}:" in Cli(cli.folder, "", {"MILLRACE_PORT": port})("topics", "list").err
    )
    assert Cli(cli.folder, "", {"MILLRACE_PORT": cli.url.rpartition(":")[2]})("topics", "list").code == 0


def test_an_unreachable_server_exits_with_5(cli: Cli) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = cli("topics", "list", "--url", url)
    assert (done.code, done.out) == (5, b"")
    assert done.err == (
        f"millrace: cannot reach {url}: [Errno 111] Connection refused; start one with millrace serve, or "
        "name it with --url or MILLRACE_URL\n"
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
