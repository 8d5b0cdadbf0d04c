"""`millrace groups`: list, describe, offsets and lag, rebalances, reset and delete."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.client import Client, Verbose
from app.cli.completion import complete_group
from app.cli.groups.partitions import format_partitions, group_path
from app.cli.log.topics import Json, Topic, Yes
from app.cli.server_url import Url
from app.cli.terminal.output import emit_json, print_message, stdout_is_terminal
from app.cli.terminal.tables import emit_items, emit_rows, emit_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

groups = typer.Typer(
    no_args_is_help=True, help="Manage consumer groups: list, describe, reset and delete them, and show their lag."
)

Group = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.", autocompletion=complete_group)]

_SUMMARY = ("group", "state", "members", "group_epoch", "assignment_epoch")
_OFFSETS = ("topic", "partition", "committed_offset", "log_end_offset", "lag", "lag_ms")
_MEMBERS = ("member", "state", "member_epoch", "last_heartbeat", "partitions", "lag")


@groups.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the groups."""
    with Client(url, verbose=verbose) as client:
        items = client.list_items("/v1/groups")
        emit_items(
            items, _SUMMARY, lambda group: _summary(group, group["members"]), "there are no groups yet", as_json=as_json
        )


@groups.command()
def describe(group: Group, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show a group's state, its members and their partitions, and its offsets and lag."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", group_path(group)).json()
        offsets = client.send("GET", f"{group_path(group)}/offsets").json()["offsets"]
    if not stdout_is_terminal() or as_json:
        emit_json({"group": found, "offsets": offsets})
        return
    owners = {
        (entry["topic"], number): member["member_id"]
        for member in found["members"]
        for entry in member["assignment"]
        for number in entry["partitions"]
    }
    lag_of: dict[str, int] = {}
    for entry in offsets:
        owner = owners.get((entry["topic"], entry["partition"]), "")
        lag_of[owner] = lag_of.get(owner, 0) + entry["lag"]
    emit_table(_SUMMARY, [_summary(found, len(found["members"]))])
    print()
    rows = (_member(member, lag_of.get(member["member_id"], 0)) for member in found["members"])
    emit_rows(_MEMBERS, rows, "the group has no members now")
    print()
    owned = ((*_offset(entry), owners.get((entry["topic"], entry["partition"]), "")) for entry in offsets)
    emit_rows((*_OFFSETS, "member"), owned, "the group has no offsets yet")


@groups.command()
def offsets(group: Group, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show the committed offset and the lag of each partition: in records, and as age of the oldest unread record."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", f"{group_path(group)}/offsets").json()["offsets"]
    if stdout_is_terminal() and not as_json:
        emit_rows(_OFFSETS, map(_offset, found), "the group has no offsets yet")
        return
    for entry in found:
        emit_json(entry)


@groups.command()
def rebalances(group: Group, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show the last rebalances of a group, newest first: time, reasons, and each member's partitions."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", f"{group_path(group)}/rebalances").json()["rebalances"]
    if not stdout_is_terminal() or as_json:
        for rebalance in found:
            emit_json(rebalance)
        return
    columns = ("at", "epoch", "reasons", "moved", "member", "before", "after")
    emit_rows(
        columns, (row for rebalance in found for row in _rebalance(rebalance)), "the group has not been rebalanced yet"
    )


@groups.command()
def reset(
    group: Group,
    topic: Topic,
    url: Url,
    to: Annotated[
        str,
        typer.Option(
            metavar="OFFSET",
            help="earliest, latest, an offset, -N (the last N of each partition), or @TIME (epoch ms or RFC 3339).",
        ),
    ],
    partitions: Annotated[
        str | None, typer.Option(metavar="0,2", help="Reset only these partitions.", show_default="all of the topic")
    ] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Commit the offsets; else only show the plan.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Set the committed offsets of a group without members. Without --execute, only show the plan."""
    fields = {"topic": topic, "to": to, "partitions": _numbers(partitions), "dry_run": not execute}
    body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    with Client(url, verbose=verbose) as client:
        plan = client.send("POST", f"{group_path(group)}/offsets/reset", body=body).json()["offsets"]
    if stdout_is_terminal() and not as_json:
        columns = ("topic", "partition", "committed_offset", "offset")
        emit_table(columns, [[_or_dash(entry[name]) for name in columns] for entry in plan])
    else:
        for entry in plan:
            emit_json(entry)
    if all(entry["committed_offset"] is None for entry in plan):
        print_message(f"{group} had no committed offsets in {topic}; if it is not a new group, its name is mistyped")
    print_message(f"moved {group}" if execute else "this is the plan; add --execute to carry it out")


@groups.command()
def delete(group: Group, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Delete a group without members, and its committed offsets."""
    with Client(url, verbose=verbose) as client:
        client.confirm(group_path(group), f"Delete {group} and its committed offsets?", yes=yes)
        client.send("DELETE", group_path(group))
    print_message(f"deleted {group}")


def _numbers(text: str | None) -> list[int] | None:
    """Parse a list of numbers such as `0,2`.

    Raises:
        BadParameter: The text is not such a list.
    """
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0,2", param_hint="--partitions") from None


def _summary(group: Mapping[str, Any], members: int) -> tuple[object, ...]:
    return group["name"], group["state"], members, group["group_epoch"], group["assignment_epoch"]


def _member(member: Mapping[str, Any], lag: int) -> tuple[object, ...]:
    partitions = format_partitions(member["assignment"])
    if member["revoking"]:
        partitions += f"; revoking {format_partitions(member['revoking'])}"
    return (
        member["member_id"],
        member["state"],
        member["member_epoch"],
        _time(member["last_heartbeat_ms"]),
        partitions,
        lag,
    )


def _offset(entry: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(_or_dash(entry[name]) for name in _OFFSETS)


def _rebalance(rebalance: Mapping[str, Any]) -> Iterable[tuple[object, ...]]:
    """Return a row for each member; the first row contains the columns of the rebalance."""
    common: tuple[object, ...] = (
        _time(rebalance["at_ms"]),
        str(rebalance["group_epoch"]),
        ", ".join(rebalance["reasons"]),
        str(rebalance["moved_partitions"]),
    )
    for member in rebalance["members"] or [{"member_id": "", "before": [], "after": []}]:
        yield *common, member["member_id"], format_partitions(member["before"]), format_partitions(member["after"])
        common = ("", "", "", "")


def _or_dash(value: object) -> object:
    return "-" if value is None else value


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec='seconds')[:-6]}Z"
