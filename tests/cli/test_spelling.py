"""Messages of the server name the options and commands of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.cli.spelling import in_spelling_of_options

if TYPE_CHECKING:
    from tests.cli.processes import Cli


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["alter", "TOPIC", "-c", "retention=1"], "--config: there is no configuration retention; did you mean"),
        (["create", "TOPIC", "-c", "retention_ms=abc"], "--config retention_ms: must be an integer"),
    ],
)
def test_a_wrong_configuration_is_refused_in_the_spelling_of_the_options(
    cli: Cli, topic: str, words: list[str], message: str
) -> None:
    cli.ok("topics", "create", topic)
    done = cli("topics", *[topic if word == "TOPIC" else word for word in words])
    assert done.code == 4
    assert done.err.startswith(f"millrace: {message}")


def test_an_offset_out_of_range_names_the_option(cli: Cli, topic: str) -> None:
    cli.ok("produce", topic, "-p", "0", stdin=b"0\n")
    done = cli("consume", topic, "-p", "0", "-o", "99")
    assert done.code == 4
    assert "--offset-reset earliest" in done.err
    assert "offset_reset" not in done.err


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("key_from and timestamp_from need lines=values", "--key and --timestamp need --format values"),
        ("join with another auto_offset_reset", "join with another --auto-offset-reset"),
        ("to must be from 0 to 1 in partition 0", "--to must be from 0 to 1 in partition 0"),
        ("offset takes milliseconds after @", "--offset takes milliseconds after @"),
        ("start must be a number from 0", "--start must be a number from 0"),
        ("there is no topic of this name", "there is no topic of this name"),
        (
            "there is no topic of this name; GET /v1/topics lists the topics, PUT /v1/topics/{topic} creates one",
            "there is no topic of this name; millrace topics list shows all, millrace topics create TOPIC creates one",
        ),
        (
            "there is no queue of this name; GET /v1/queues lists the queues, PUT /v1/queues/{queue} creates one",
            (
                "there is no queue of this name; millrace queues list shows all, "
                "millrace queues create QUEUE TOPIC creates one"
            ),
        ),
    ],
)
def test_fields_and_parameters_become_options(detail: str, shown: str) -> None:
    assert in_spelling_of_options(detail) == shown


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["topics", "delete", "nope"], "there is no topic nope; millrace topics list shows all, "),
        (["topics", "delete-records", "nope", "0", "1"], "there is no topic nope; millrace topics list shows all"),
        (["topics", "delete-records", "TOPIC", "9", "1"], "the topic has the partitions 0 to 3 (UNKNOWN_TOPIC"),
        (["queues", "delete", "nope"], "there is no queue nope; millrace queues list shows all, "),
        (["queues", "purge", "nope"], "there is no queue nope; millrace queues "),
        (["groups", "delete", "nope"], "there is no group nope; millrace groups list shows all, "),
    ],
)
def test_what_does_not_exist_is_refused_before_a_confirmation(
    cli: Cli, topic: str, words: list[str], hint: str
) -> None:
    cli.ok("topics", "create", topic)
    for more in ([], ["--yes"]):
        done = cli(*[topic if word == "TOPIC" else word for word in words], *more)
        assert done.code == 3
        assert done.err.startswith(f"millrace: {hint}")
