"""Unknown commands and options name the one that is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.processes import Cli

URL = "name the server with --url http://HOST:PORT or MILLRACE_URL"


def refused(cli: Cli, *words: str) -> str:
    """Return the error of a command line on one line, without the frame around it."""
    done = cli(*words)
    assert (done.code, done.out) == (2, b"")
    return " ".join(done.err.replace("\u2502", " ").split())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("ls", "No such command 'ls'; use millrace topics list"),
        ("list", "use millrace topics list, millrace groups list or millrace queues list"),
        ("show orders", "use millrace topics describe TOPIC"),
        ("version", "use millrace --version"),
        ("help", "use millrace --help"),
        ("status", "use millrace health"),
        ("xyzzy", "the commands are serve, migrate, openapi, health, verify, backup, restore, nodes, produce,"),
        ("consumer", "Did you mean 'consume'?"),
        ("topics ls", "use millrace topics list"),
        ("topics show orders", "use millrace topics describe"),
        ("groups rm billing", "use millrace groups delete"),
        ("queues help", "use millrace queues --help"),
        ("queue list", "use millrace queues list"),
        ("topics orders", "the commands are list, create, alter, describe, delete, delete-records"),
    ],
)
def test_an_unknown_command_names_the_one_that_is_meant(cli: Cli, words: str, hint: str) -> None:
    assert hint in refused(cli, *words.split())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("consume --bootstrap-server localhost:9092 --topic orders", URL),
        ("produce orders --broker-list localhost:9092", URL),
        ("topics --bootstrap-server localhost:9092 --list", URL),
        ("consume --topic orders", "it is an argument without a name: millrace consume TOPIC"),
        ("produce -t orders", "it is an argument without a name: millrace produce TOPIC"),
        ("groups describe --group billing", "it is an argument without a name: millrace groups describe GROUP"),
        ("groups reset --group billing", "it is an argument without a name: millrace groups reset GROUP TOPIC"),
        ("consume orders --from-beginning", "it is the default: consume starts at the first record"),
        ("consume orders --max-messages 5", "use --count NUMBER"),
        ("topics --list", "use millrace topics list"),
        ("topics --create --topic orders", "use millrace topics create"),
        ("topics create orders --replication-factor 3", "leave it out"),
        ("topics create orders --retention-ms 1000", "use --config retention_ms=VALUE"),
        ("topics alter orders --cleanup.policy=compact", "use --config cleanup_policy=VALUE"),
        ("groups reset billing orders --to-earliest", "use millrace groups reset GROUP TOPIC --to earliest"),
        ("-v", "use millrace --version"),
    ],
)
def test_an_unknown_option_names_the_one_that_is_meant(cli: Cli, words: str, hint: str) -> None:
    assert hint in refused(cli, *words.split())


@pytest.mark.parametrize("words", [[], ["topics"], ["groups"], ["queues"], ["queue"]])
def test_the_program_and_its_groups_alone_print_their_help(cli: Cli, words: list[str]) -> None:
    done = cli.ok(*words)
    assert done.out == cli.ok(*words, "--help").out
    assert done.err == ""
