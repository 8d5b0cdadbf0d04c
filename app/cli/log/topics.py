"""`millrace topics`: list, create, describe, alter and delete topics, and delete records."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import Client, Verbose
from app.cli.completion import complete_topic
from app.cli.server_url import Url
from app.cli.terminal.output import emit_json, print_message, print_warnings, stdout_is_terminal
from app.cli.terminal.tables import emit_items, emit_table

topics = typer.Typer(no_args_is_help=True, help="Manage topics: list, create, describe, alter and delete them.")

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.", autocompletion=complete_topic)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, as when piped.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Partitions = Annotated[int | None, typer.Option("--partitions", "-p", min=1, max=1_000, help="Number of partitions.")]
Config = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="NAME=VALUE",
        help="Set a configuration value; `NAME=` restores its default. Repeatable.",
    ),
]

_INTEGER = re.compile(r"-?\d{1,19}")


def topic_path(topic: str) -> str:
    """Return the path of a topic."""
    return f"/v1/topics/{quote(topic, safe='')}"


@topics.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the topics."""
    with Client(url, verbose=verbose) as client:
        items = client.list_items("/v1/topics")
        emit_items(
            items,
            ("topic", "partitions", "cleanup_policy", "retention_ms"),
            _row,
            "there are no topics yet",
            as_json=as_json,
        )


@topics.command()
def create(
    topic: Topic, url: Url, partitions: Partitions = None, config: Config = None, verbose: Verbose = False
) -> None:
    """Create a topic, or check that it exists with these settings."""
    with Client(url, verbose=verbose) as client:
        response = client.send("PUT", topic_path(topic), body=_settings_body(partitions, config))
    print_message(f"created {topic}" if response.status_code == 201 else f"{topic} already exists")
    _show(response.json())


@topics.command()
def alter(
    topic: Topic, url: Url, partitions: Partitions = None, config: Config = None, verbose: Verbose = False
) -> None:
    """Change a topic's configuration, or add partitions. Adding partitions maps keys to other partitions."""
    if partitions is None and not config:
        raise typer.BadParameter("give --partitions or --config")
    with Client(url, verbose=verbose) as client:
        _show(client.send("PATCH", topic_path(topic), body=_settings_body(partitions, config)).json())


@topics.command()
def describe(topic: Topic, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show a topic's configuration, and the offsets and sizes of its partitions."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", topic_path(topic)).json()
        partitions = client.send("GET", f"{topic_path(topic)}/partitions").json()["items"]
    if not stdout_is_terminal() or as_json:
        emit_json({"topic": found, "partitions": partitions})
        return
    emit_table(("config", "value"), list(found["config"].items()))
    print()
    columns = ("partition", "log_start_offset", "log_end_offset", "size_bytes")
    emit_table(columns, [[partition[name] for name in columns] for partition in partitions])


@topics.command()
def delete(topic: Topic, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Delete a topic and all its records."""
    with Client(url, verbose=verbose) as client:
        client.confirm(topic_path(topic), f"Delete {topic} and all its records?", yes=yes)
        client.send("DELETE", topic_path(topic))
    print_message(f"deleted {topic}")


@topics.command("delete-records")
def delete_records(
    topic: Topic,
    partition: Annotated[int, typer.Argument(metavar="PARTITION", min=0, help="Number of the partition.")],
    before_offset: Annotated[int, typer.Argument(metavar="BEFORE_OFFSET", min=0, help="First offset to keep.")],
    url: Url,
    yes: Yes = False,
    verbose: Verbose = False,
) -> None:
    """Delete a partition's records before an offset."""
    path = f"{topic_path(topic)}/partitions/{partition}"
    with Client(url, verbose=verbose) as client:
        client.confirm(
            path,
            f"Delete the records of {topic}, partition {partition}, before offset {before_offset}?",
            yes=yes,
        )
        emit_json(client.send("DELETE", f"{path}/records", params={"before_offset": before_offset}).json())


def _show(topic: dict[str, Any]) -> None:
    print_warnings(topic)
    if stdout_is_terminal():
        emit_table(("topic", "partitions", "cleanup_policy", "retention_ms"), [_row(topic)])
    else:
        emit_json(topic)


def _row(topic: dict[str, Any]) -> tuple[object, ...]:
    config = topic["config"]
    return topic["name"], topic["partitions"], config["cleanup_policy"], config["retention_ms"]


def _settings_body(partitions: int | None, config: list[str] | None) -> bytes:
    document: dict[str, object] = {} if partitions is None else {"partitions": partitions}
    if config:
        document["config"] = dict(map(_setting, config))
    return json.dumps(document).encode()


def _setting(text: str) -> tuple[str, int | str | None]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, int(value) if _INTEGER.fullmatch(value) else value or None


def created_topics(answer: dict[str, Any]) -> list[str]:
    """Return what to print of the topics that were created with something else, and remove them from the answer."""
    names = sorted(answer.pop("created_topics", []))
    if not names:
        return []
    return [f"the topic{'s' if len(names) > 1 else ''} {' and '.join(names)}, which did not exist"]
