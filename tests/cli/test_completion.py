"""The shell completes the names of topics, groups and queues."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import Cli, environment, free_port

if TYPE_CHECKING:
    from pathlib import Path

AS_MILLRACE = [sys.executable, "-c", "import sys; sys.argv[0] = 'millrace'; from app.cli import main; main()"]


def completed(words: list[str], **variables: str) -> list[str]:
    """Return what bash shows after `millrace` and these words."""
    variables |= {
        "_MILLRACE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["millrace", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(AS_MILLRACE, env=environment(**variables), capture_output=True, check=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def names(cli: Cli, topic: str) -> str:
    """Create a topic, a queue and a group of this name."""
    cli.ok("produce", topic, stdin=b"1\n")
    cli.ok("queues", "create", topic, topic)
    cli.ok("consume", topic, "--group", topic)
    return topic


@pytest.mark.parametrize(
    "words",
    [
        ["topics", "describe"],
        ["topics", "delete-records"],
        ["produce"],
        ["consume"],
        ["consume", "--group"],
        ["groups", "describe"],
        ["queues", "purge"],
        ["queue", "work"],
        ["queues", "create", "new"],
        ["groups", "reset", "billing"],
        ["queues", "alter", "new", "--dead-letter-topic"],
    ],
)
def test_the_names_of_the_server_complete_arguments_and_options(cli: Cli, names: str, words: list[str]) -> None:
    assert names in completed([*words, names[:-1]], MILLRACE_URL=cli.url)


def test_only_names_that_begin_with_the_text_are_shown(cli: Cli, topic: str) -> None:
    for name in (f"{topic}-a", f"{topic}-b", f"x-{topic}"):
        cli.ok("topics", "create", name)
    assert completed(["consume", f"{topic}-"], MILLRACE_URL=cli.url) == [f"{topic}-a", f"{topic}-b"]


def test_the_url_of_the_command_line_is_used(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    assert completed(["consume", "--url", cli.url, topic[:-1]]) == [topic]


@pytest.mark.parametrize("url", ["", "no url", "http://127.0.0.1:PORT"])
def test_without_a_server_nothing_is_completed(url: str, tmp_path: Path) -> None:
    port = str(free_port())
    assert completed(["consume", "o"], MILLRACE_URL=url.replace("PORT", port), MILLRACE_PORT=port) == []
