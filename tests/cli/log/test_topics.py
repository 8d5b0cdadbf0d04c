"""`millrace topics`: list, create, describe, alter, delete and delete-records."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.processes import Cli
from tests.cli.pseudo_terminal import on_terminal


def test_create_prints_the_topic_and_can_be_repeated(cli: Cli, topic: str) -> None:
    words = (
        "topics",
        "create",
        topic,
        "--partitions",
        "3",
        "--config",
        "retention_ms=-1",
        "-c",
        "cleanup_policy=compact",
    )
    first = cli.ok(*words)
    created = json.loads(first.out)
    assert (created["name"], created["partitions"]) == (topic, 3)
    assert (created["config"]["retention_ms"], created["config"]["cleanup_policy"]) == (-1, "compact")
    assert first.err == f"millrace: created {topic}\n"
    again = cli.ok(*words)
    assert (again.out, again.err) == (first.out, f"millrace: {topic} already exists\n")
    other = cli("topics", "create", topic, "--partitions", "5")
    assert other.code == 4
    assert "TOPIC_ALREADY_EXISTS" in other.err


def test_alter_sets_values_and_restores_defaults(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1", "-c", "retention_ms=1000")
    altered = json.loads(
        cli.ok("topics", "alter", topic, "-p", "2", "-c", "retention_ms=", "-c", "retention_bytes=5").out
    )
    assert altered["partitions"] == 2
    assert (altered["config"]["retention_ms"], altered["config"]["retention_bytes"]) == (604_800_000, 5)
    assert cli("topics", "alter", topic).code == 2
    assert cli("topics", "alter", topic, "-p", "1").code == 4


def test_list_prints_a_line_of_json_for_each_topic(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    assert topic in [json.loads(line)["name"] for line in cli.ok("topics", "list").lines]


def test_describe_prints_config_and_partitions(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "2")
    cli.ok("produce", topic, "-p", "1", stdin=b"1\n22\n")
    described = json.loads(cli.ok("topics", "describe", topic).out)
    assert described["topic"]["config"]["cleanup_policy"] == "delete"
    assert described["partitions"] == [
        {"partition": 0, "log_start_offset": 0, "log_end_offset": 0, "size_bytes": 0},
        {"partition": 1, "log_start_offset": 0, "log_end_offset": 2, "size_bytes": 3},
    ]


def test_a_terminal_shows_tables(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-p", "1")
    code, shown = on_terminal(cli, "topics", "describe", topic)
    assert code == 0
    assert "log_end_offset" in shown
    assert "retention_ms" in shown
    assert "{" not in shown
    code, shown = on_terminal(cli, "topics", "list", "--json")
    assert topic in [json.loads(line)["name"] for line in shown.splitlines()]


def test_tables_show_null_booleans_and_numbers_as_the_options_take_them(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic, "-c", "retention_ms=123456789")
    cli.ok("queues", "create", topic, topic)
    _, described = on_terminal(cli, "topics", "describe", topic)
    assert "123456789" in described
    _, queue = on_terminal(cli, "queues", "describe", topic)
    assert re.search(r"paused +false", queue)
    assert re.search(r"dead_letter_topic +-", queue)
    assert "None" not in queue


def test_delete_asks_for_confirmation_on_a_terminal(cli: Cli, topic: str) -> None:
    cli.ok("topics", "create", topic)
    code, shown = on_terminal(cli, "topics", "delete", topic, typed=b"n\n")
    assert code == 1
    assert f"Delete {topic} and all its records?" in shown
    cli.ok("topics", "describe", topic)
    code, shown = on_terminal(cli, "topics", "delete", topic, typed=b"y\n")
    assert (code, f"deleted {topic}" in shown) == (0, True)
    assert cli("topics", "delete", topic, "--yes").code == 3


def test_delete_records_raises_the_log_start_offset(cli: Cli, topic: str) -> None:
    cli.ok("produce", topic, "-p", "0", stdin=b"0\n1\n2\n")
    assert cli.ok("topics", "delete-records", topic, "0", "2", "--yes").out == b'{"log_start_offset":2}\n'
    assert cli.ok("consume", topic, "--format", "values").out == b"2\n"
    refused = cli("consume", topic, "-p", "0", "-o", "1")
    assert (refused.code, "OFFSET_OUT_OF_RANGE" in refused.err) == (4, True)
    reset = cli.ok("consume", topic, "-p", "0", "-o", "1", "--offset-reset", "earliest", "--format", "values")
    assert reset.out == b"2\n"


@pytest.mark.parametrize("command", ["create", "alter"])
def test_a_retention_in_seconds_is_warned_of(cli: Cli, topic: str, command: str) -> None:
    cli.ok("topics", "create", topic, "--config", "retention_ms=86400")
    done = cli.ok("topics", command, topic, "--config", "retention_ms=86400")
    assert done.err.splitlines()[-1] == (
        "millrace: warning: config.retention_ms is 86.4 seconds, because it is in milliseconds; "
        "if 86400 is in seconds, send 86400000"
    )
    assert "warnings" not in json.loads(done.out)
