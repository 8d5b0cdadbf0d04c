"""`millrace queues`: list, create, alter, pause, resume, describe, delete, purge and redrive."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import Client, Url, Verbose
from app.cli.log.topics import Json, Yes, topic_path
from app.cli.terminal.output import ask, emit_json, emit_table, tell, to_terminal

queues = typer.Typer(no_args_is_help=True, help="Create, list, alter, pause, purge, redrive and delete queues.")

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")]
Lock = Annotated[int | None, typer.Option("--lock-duration-ms", min=1_000, max=3_600_000, help="How long a lock is.")]
Count = Annotated[
    int | None, typer.Option("--max-delivery-count", min=1, max=100, help="Deliveries before a record is archived.")
]

_COLUMNS = ("name", "topic", "lock_duration_ms", "max_delivery_count", "dead_letter_topic", "ordering", "paused")


class Ordering(StrEnum):
    """Whether records of a key wait for each other."""

    none = "none"
    key = "key"


def queue_path(queue: str) -> str:
    """Return the path of a queue."""
    return f"/v1/queues/{quote(queue, safe='')}"


@queues.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the queues."""
    with Client(url, verbose=verbose) as client:
        if not to_terminal() or as_json:
            for queue in client.pages("/v1/queues"):
                emit_json(queue)
            return
        found = list(client.pages("/v1/queues"))
    if found:
        emit_table(_COLUMNS, [_row(queue) for queue in found])
    else:
        tell("there are no queues yet")


@queues.command()
def create(
    queue: Queue,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic whose records it hands out.")],
    url: Url,
    lock_duration_ms: Lock = None,
    max_delivery_count: Count = None,
    dead_letter_topic: Annotated[
        str | None, typer.Option("--dead-letter-topic", help="Where archived records are copied to.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", metavar="POSITION", help="earliest, latest, -N, @TIME or an offset.")
    ] = None,
    ordering: Annotated[
        Ordering | None, typer.Option("--ordering", help="key: one record of a key at a time, in order.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Create a queue over a topic, or confirm that it is there as asked."""
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
        missing = [name for name in (topic, dead_letter_topic) if name and not client.has(topic_path(name))]
        response = client.send("PUT", queue_path(queue), body=body)
    if response.status_code == 201:
        tell(" and ".join([f"created {queue}", *(f"the topic {name}, which was not there" for name in missing)]))
    else:
        tell(f"{queue} is there already")
    _show(response.json())


@queues.command()
def alter(
    queue: Queue,
    url: Url,
    lock_duration_ms: Lock = None,
    max_delivery_count: Count = None,
    dead_letter_topic: Annotated[
        str | None, typer.Option("--dead-letter-topic", help="Where archived records are copied to; '' for nowhere.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Change a queue."""
    given: dict[str, object] = {"lock_duration_ms": lock_duration_ms, "max_delivery_count": max_delivery_count}
    change = {name: value for name, value in given.items() if value is not None}
    if dead_letter_topic is not None:
        change["dead_letter_topic"] = dead_letter_topic or None
    if not change:
        raise typer.BadParameter("say what is to change; see --help")
    _patch(url, queue, change, verbose=verbose)


@queues.command()
def pause(queue: Queue, url: Url, verbose: Verbose = False) -> None:
    """Hand out no more records of a queue; those that are held go on."""
    _patch(url, queue, {"paused": True}, verbose=verbose)


@queues.command()
def resume(queue: Queue, url: Url, verbose: Verbose = False) -> None:
    """Hand out records of a paused queue again."""
    _patch(url, queue, {"paused": False}, verbose=verbose)


@queues.command()
def describe(queue: Queue, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show a queue's configuration and how many records are in which state."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", queue_path(queue)).json()
    if not to_terminal() or as_json:
        emit_json(found)
        return
    counts = found.pop("counts")
    emit_table(("queue", "value"), [(name, str(value)) for name, value in found.items()])
    print()
    emit_table(tuple(counts), [tuple(counts.values())])


@queues.command()
def delete(queue: Queue, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Delete a queue and all it knows; its topics stay."""
    ask(f"Delete the queue {queue}, and forget which records are done?", yes=yes)
    with Client(url, verbose=verbose) as client:
        client.send("DELETE", queue_path(queue))
    tell(f"deleted {queue}")


@queues.command()
def purge(queue: Queue, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Archive all records that wait in a queue, without dead letters."""
    ask(f"Archive all records that wait in {queue}?", yes=yes)
    with Client(url, verbose=verbose) as client:
        emit_json(client.send("POST", f"{queue_path(queue)}/purge").json())


@queues.command()
def redrive(
    queue: Queue,
    url: Url,
    execute: Annotated[bool, typer.Option("--execute", help="Do it; else only the plan is shown.")] = False,
    dead_letter_topic: Annotated[
        str | None, typer.Option("--dead-letter-topic", help="Where to look; the queue's own if not given.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Send a queue's dead letters back to the topic and partition they came from: first without --execute."""
    body = json.dumps({"dry_run": not execute, "dead_letter_topic": dead_letter_topic}).encode()
    with Client(url, verbose=verbose) as client:
        done = client.send("POST", f"{queue_path(queue)}/redrive", body=body).json()
    emit_json(done)
    if done["dead_letter_topic"] is None:
        tell(f"{queue} has no dead_letter_topic; name the one it had with --dead-letter-topic")
    if not execute and done["records"]:
        tell("nothing was sent back yet; add --execute")


def _patch(url: str, queue: str, change: dict[str, object], *, verbose: bool) -> None:
    with Client(url, verbose=verbose) as client:
        _show(client.send("PATCH", queue_path(queue), body=json.dumps(change).encode()).json())


def _show(queue: dict[str, Any]) -> None:
    if to_terminal():
        emit_table(_COLUMNS, [_row(queue)])
    else:
        emit_json(queue)


def _row(queue: dict[str, Any]) -> list[object]:
    return ["" if queue[name] is None else str(queue[name]) for name in _COLUMNS]
