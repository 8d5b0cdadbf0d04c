"""`millrace webhooks attempts`, and the commands that send records again or pass over them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

import typer

from app.cli.client import Client, Verbose
from app.cli.log.topics import Json, Topic
from app.cli.server_url import Url
from app.cli.terminal.output import counted, emit_json, print_message, stdout_is_terminal
from app.cli.terminal.tables import emit_items, emit_rows, emit_table
from app.cli.webhooks.webhooks import Webhook, webhook_path

records = typer.Typer()

Execute = Annotated[bool, typer.Option("--execute", help="Carry it out; else only show the plan.")]
OnePartition = Annotated[
    int | None, typer.Option("--partition", "-p", min=0, help="Only this partition.", show_default="all")
]
ReplayId = Annotated[int, typer.Argument(metavar="REPLAY_ID", min=1, help="Id of the replay.")]

_ATTEMPT_COLUMNS = ("at", "record", "try", "outcome", "error")
_LARGEST_PAGE = 1_000


class Outcome(StrEnum):
    """What came of an attempt."""

    DELIVERED = "delivered"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    BLOCKED = "blocked"
    NOT_SENT = "not_sent"


@records.command()
def attempts(
    webhook: Webhook,
    url: Url,
    outcome: Annotated[Outcome | None, typer.Option("--outcome", help="Only attempts of this outcome.")] = None,
    topic: Annotated[str | None, typer.Option("--topic", help="Only attempts for records of this topic.")] = None,
    partition: OnePartition = None,
    offset: Annotated[int | None, typer.Option("--offset", min=0, help="Only attempts for this record.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many.")] = 20,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the last attempts of a webhook, the newest first."""
    params = {
        "outcome": outcome,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "limit": min(number, _LARGEST_PAGE),
    }
    with Client(url, verbose=verbose) as client:
        found = islice(client.list_items(f"{webhook_path(webhook)}/attempts", params), number)
        emit_items(found, _ATTEMPT_COLUMNS, _attempt_row, f"{webhook} has no such attempts", as_json=as_json)


@records.command()
def redeliver(
    webhook: Webhook,
    topic: Topic,
    partition: Annotated[int, typer.Argument(metavar="PARTITION", min=0, help="Number of the partition.")],
    offset: Annotated[int, typer.Argument(metavar="OFFSET", min=0, help="Offset of the record.")],
    url: Url,
    verbose: Verbose = False,
) -> None:
    """Send one record again, whatever became of it."""
    body = json.dumps({"topic": topic, "partition": partition, "offset": offset}).encode()
    with Client(url, verbose=verbose) as client:
        _show_replay(webhook, client.send("POST", f"{webhook_path(webhook)}/redeliver", body=body).json())


@records.command()
def replay(
    webhook: Webhook,
    topic: Topic,
    url: Url,
    start: Annotated[
        str, typer.Option("--from", metavar="OFFSET", help="First record: earliest, -N, @TIME or an offset.")
    ] = "earliest",
    to: Annotated[
        str | None, typer.Option("--to", metavar="OFFSET", help="End, exclusive.", show_default="end of the log")
    ] = None,
    partition: OnePartition = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only records that no attempt has delivered.")] = False,
    execute: Execute = False,
    verbose: Verbose = False,
) -> None:
    """Send a range of records again, to this webhook only. Without --execute, only show the plan."""
    given = {
        "topic": topic,
        "from": start,
        "to": to,
        "partition": partition,
        "only": "failed" if failed else None,
        "dry_run": not execute,
    }
    body = json.dumps({name: value for name, value in given.items() if value is not None}).encode()
    with Client(url, verbose=verbose) as client:
        _show_replay(webhook, client.send("POST", f"{webhook_path(webhook)}/replay", body=body).json())


@records.command()
def redrive(webhook: Webhook, url: Url, execute: Execute = False, verbose: Verbose = False) -> None:
    """Send the dead letters of a webhook again, to it only. Without --execute, only show the plan."""
    body = json.dumps({"dry_run": not execute}).encode()
    with Client(url, verbose=verbose) as client:
        _show_replay(webhook, client.send("POST", f"{webhook_path(webhook)}/redrive", body=body).json())


@records.command()
def skip(
    webhook: Webhook,
    topic: Topic,
    url: Url,
    to: Annotated[
        str, typer.Option("--to", metavar="OFFSET", help="First record that is still sent: latest, @TIME or an offset.")
    ] = "latest",
    partition: OnePartition = None,
    execute: Execute = False,
    verbose: Verbose = False,
) -> None:
    """Pass over the records that wait, and end those that are retried. Without --execute, only show the plan."""
    given = {"topic": topic, "to": to, "partition": partition, "dry_run": not execute}
    body = json.dumps({name: value for name, value in given.items() if value is not None}).encode()
    with Client(url, verbose=verbose) as client:
        done = client.send("POST", f"{webhook_path(webhook)}/skip", body=body).json()
    if stdout_is_terminal():
        columns = ("partition", "to_offset", "records")
        emit_table(columns, [[each[name] for name in columns] for each in done["partitions"]])
    else:
        emit_json(done)
    number = counted(done["records"], "record")
    print_message(f"passed over {number}" if execute else f"this would pass over {number}; add --execute")


@records.command("replay-status")
def replay_status(webhook: Webhook, replay_id: ReplayId, url: Url, verbose: Verbose = False) -> None:
    """Show how far a replay, redelivery or redrive is."""
    with Client(url, verbose=verbose) as client:
        emit_json(client.send("GET", f"{webhook_path(webhook)}/replays/{replay_id}").json())


@records.command("replay-cancel")
def replay_cancel(webhook: Webhook, replay_id: ReplayId, url: Url, verbose: Verbose = False) -> None:
    """End a replay; a record that is being sent still ends."""
    with Client(url, verbose=verbose) as client:
        client.send("DELETE", f"{webhook_path(webhook)}/replays/{replay_id}")
    print_message(f"cancelled replay {replay_id} of {webhook}")


def _show_replay(webhook: str, planned: dict[str, Any]) -> None:
    """Write a plan, or the replay that has begun."""
    if stdout_is_terminal():
        columns = ("partition", "from_offset", "to_offset")
        rows = ([each[name] for name in columns] for each in planned["ranges"])
        emit_rows(columns, rows, "there is no record in this range")
    else:
        emit_json(planned)
    number = counted(planned["records"], "record")
    if planned["dry_run"]:
        print_message(f"this would send up to {number} again; add --execute")
    else:
        replay_id = planned["replay_id"]
        print_message(
            f"sends up to {number} again; millrace webhooks replay-status {webhook} {replay_id} tells how far"
        )


def _attempt_row(attempt: dict[str, Any]) -> tuple[object, ...]:
    at = datetime.fromtimestamp(attempt["at_ms"] / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = "test" if attempt["topic"] is None else f"{attempt['topic']} {attempt['partition']}@{attempt['offset']}"
    return at, record, attempt["attempt"], attempt["outcome"], attempt["error"]
