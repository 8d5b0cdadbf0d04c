"""`millrace queues`: list, create, alter, pause, resume, describe, delete, purge and redrive."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import Client, Verbose
from app.cli.completion import complete_queue, complete_topic
from app.cli.log.topics import Json, Yes, created_topics
from app.cli.server_url import Url
from app.cli.terminal.output import emit_json, print_message, print_warnings, stdout_is_terminal
from app.cli.terminal.tables import emit_items, emit_table

queues = typer.Typer(
    no_args_is_help=True, help="Manage queues: create, list, alter, pause, purge, redrive and delete them."
)

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.", autocompletion=complete_queue)]
Lock = Annotated[int | None, typer.Option("--lock-duration-ms", min=1_000, max=3_600_000, help="Duration of a lock.")]
Count = Annotated[
    int | None,
    typer.Option("--max-delivery-count", min=1, max=100, help="Archive a record after this many deliveries."),
]

_COLUMNS = ("name", "topic", "lock_duration_ms", "max_delivery_count", "dead_letter_topic", "ordering", "paused")


class Ordering(StrEnum):
    """Whether records of one key or one partition are delivered in order, one at a time."""

    NONE = "none"
    KEY = "key"
    PARTITION = "partition"


def queue_path(queue: str) -> str:
    """Return the path of a queue."""
    return f"/v1/queues/{quote(queue, safe='')}"


@queues.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the queues."""
    with Client(url, verbose=verbose) as client:
        items = client.list_items("/v1/queues")
        emit_items(items, _COLUMNS, _row, "there are no queues yet", as_json=as_json)


@queues.command()
def create(
    queue: Queue,
    topic: Annotated[
        str,
        typer.Argument(metavar="TOPIC", help="Topic whose records the queue delivers.", autocompletion=complete_topic),
    ],
    url: Url,
    lock_duration_ms: Lock = None,
    max_delivery_count: Count = None,
    dead_letter_topic: Annotated[
        str | None,
        typer.Option(
            "--dead-letter-topic",
            help="Topic that archived records are copied to.",
            autocompletion=complete_topic,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="OFFSET", help="First record: earliest, latest, -N, @TIME or an offset."),
    ] = None,
    ordering: Annotated[
        Ordering | None,
        typer.Option("--ordering", help="key or partition: deliver the records of one in order, one at a time."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Create a queue over a topic, or check that it exists with these settings."""
    settings = {
        "topic": topic,
        "lock_duration_ms": lock_duration_ms,
        "max_delivery_count": max_delivery_count,
        "dead_letter_topic": dead_letter_topic,
        "start": start,
        "ordering": ordering and ordering.value,
    }
    body = json.dumps({name: value for name, value in settings.items() if value is not None}).encode()
    with Client(url, verbose=verbose) as client:
        response = client.send("PUT", queue_path(queue), body=body)
    answer = response.json()
    topics = created_topics(answer)
    if response.status_code == 201:
        print_message(" and ".join([f"created {queue}", *topics]))
    else:
        print_message(f"{queue} already exists")
    _show(answer)


@queues.command()
def alter(
    queue: Queue,
    url: Url,
    lock_duration_ms: Lock = None,
    max_delivery_count: Count = None,
    dead_letter_topic: Annotated[
        str | None,
        typer.Option(
            "--dead-letter-topic",
            help="Topic that archived records are copied to; '' for none.",
            autocompletion=complete_topic,
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Change a queue's settings."""
    given: dict[str, object] = {"lock_duration_ms": lock_duration_ms, "max_delivery_count": max_delivery_count}
    change = {name: value for name, value in given.items() if value is not None}
    if dead_letter_topic is not None:
        change["dead_letter_topic"] = dead_letter_topic or None
    if not change:
        raise typer.BadParameter("give at least one setting to change; see --help")
    _patch(url, queue, change, verbose=verbose)


@queues.command()
def pause(queue: Queue, url: Url, verbose: Verbose = False) -> None:
    """Stop the delivery of records; records that are acquired can still be acknowledged."""
    _patch(url, queue, {"paused": True}, verbose=verbose)


@queues.command()
def resume(queue: Queue, url: Url, verbose: Verbose = False) -> None:
    """Resume the delivery of records of a paused queue."""
    _patch(url, queue, {"paused": False}, verbose=verbose)


@queues.command()
def describe(queue: Queue, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show a queue's configuration, and the number of records in each state."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", queue_path(queue)).json()
    if not stdout_is_terminal() or as_json:
        emit_json(found)
        return
    counts = found.pop("counts")
    emit_table(("queue", "value"), list(found.items()))
    print()
    emit_table(tuple(counts), [tuple(counts.values())])


@queues.command()
def delete(queue: Queue, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Delete a queue and the state of its records; its topics stay."""
    with Client(url, verbose=verbose) as client:
        client.confirm(queue_path(queue), f"Delete the queue {queue} and the state of its records?", yes=yes)
        client.send("DELETE", queue_path(queue))
    print_message(f"deleted {queue}")


@queues.command()
def purge(queue: Queue, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Archive all available and delayed records of a queue, without dead letters."""
    with Client(url, verbose=verbose) as client:
        client.confirm(queue_path(queue), f"Archive all available and delayed records of {queue}?", yes=yes)
        emit_json(client.send("POST", f"{queue_path(queue)}/purge").json())


@queues.command()
def redrive(
    queue: Queue,
    url: Url,
    execute: Annotated[bool, typer.Option("--execute", help="Send the records; else only show the plan.")] = False,
    dead_letter_topic: Annotated[
        str | None,
        typer.Option(
            "--dead-letter-topic",
            help="Topic of the dead letters; by default the queue's own.",
            autocompletion=complete_topic,
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Send a queue's dead letters back to their topic and partition. Without --execute, only show the plan."""
    body = json.dumps({"dry_run": not execute, "dead_letter_topic": dead_letter_topic}).encode()
    with Client(url, verbose=verbose) as client:
        done = client.send("POST", f"{queue_path(queue)}/redrive", body=body).json()
    emit_json(done)
    if done["dead_letter_topic"] is None:
        print_message(f"{queue} has no dead_letter_topic; give its earlier one with --dead-letter-topic")
    if not execute and done["records"]:
        print_message("this is the plan; add --execute to carry it out")


def _patch(url: str, queue: str, change: dict[str, object], *, verbose: bool) -> None:
    with Client(url, verbose=verbose) as client:
        answer = client.send("PATCH", queue_path(queue), body=json.dumps(change).encode()).json()
    if topics := created_topics(answer):
        print_message(f"created {' and '.join(topics)}")
    _show(answer)


def _show(queue: dict[str, Any]) -> None:
    print_warnings(queue)
    if stdout_is_terminal():
        emit_table(_COLUMNS, [_row(queue)])
    else:
        emit_json(queue)


def _row(queue: dict[str, Any]) -> list[object]:
    return [queue[name] for name in _COLUMNS]
