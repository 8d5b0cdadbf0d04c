"""`millrace groups`: list, describe, offsets with their lag, rebalances, reset and delete."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.client import Client, Url, Verbose
from app.cli.groups.partitions import group_path, in_words
from app.cli.log.topics import Json, Topic, Yes
from app.cli.terminal.output import ask, emit_json, emit_rows, emit_table, tell, to_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

groups = typer.Typer(no_args_is_help=True, help="List, describe, reset and delete consumer groups; see their lag.")

Group = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")]

_SUMMARY = ("group", "state", "members", "group_epoch", "assignment_epoch")
_OFFSETS = ("topic", "partition", "committed_offset", "log_end_offset", "lag", "lag_ms")
_MEMBERS = ("member", "state", "member_epoch", "last_heartbeat", "partitions", "lag")


@groups.command("list")
def list_(url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """List the groups."""
    with Client(url, verbose=verbose) as client:
        if not to_terminal() or as_json:
            for group in client.pages("/v1/groups"):
                emit_json(group)
            return
        rows = [_summary(group, group["members"]) for group in client.pages("/v1/groups")]
    emit_rows(_SUMMARY, rows, "there are no groups yet")


@groups.command()
def describe(group: Group, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show a group's state, its members with what they hold, and how far behind it is in each partition."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", group_path(group)).json()
        offsets = client.send("GET", f"{group_path(group)}/offsets").json()["offsets"]
    if not to_terminal() or as_json:
        emit_json({"group": found, "offsets": offsets})
        return
    holders = {
        (one["topic"], number): member["member_id"]
        for member in found["members"]
        for one in member["assignment"]
        for number in one["partitions"]
    }
    lags: dict[str, int] = {}
    for one in offsets:
        holder = holders.get((one["topic"], one["partition"]), "")
        lags[holder] = lags.get(holder, 0) + one["lag"]
    emit_table(_SUMMARY, [_summary(found, len(found["members"]))])
    print()
    rows = (_member(member, lags.get(member["member_id"], 0)) for member in found["members"])
    emit_rows(_MEMBERS, rows, "the group has no members now")
    print()
    held = ((*_offset(one), holders.get((one["topic"], one["partition"]), "")) for one in offsets)
    emit_rows((*_OFFSETS, "member"), held, "the group has no offsets yet")


@groups.command()
def offsets(group: Group, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show where a group stands in each partition, and its lag: in records, and the age of the oldest unread one."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", f"{group_path(group)}/offsets").json()["offsets"]
    if to_terminal() and not as_json:
        emit_rows(_OFFSETS, map(_offset, found), "the group has no offsets yet")
        return
    for one in found:
        emit_json(one)


@groups.command()
def rebalances(group: Group, url: Url, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show the last rebalances of a group, the newest first: when, why, who was to hold what."""
    with Client(url, verbose=verbose) as client:
        found = client.send("GET", f"{group_path(group)}/rebalances").json()["rebalances"]
    if not to_terminal() or as_json:
        for one in found:
            emit_json(one)
        return
    columns = ("at", "epoch", "reasons", "moved", "member", "before", "after")
    emit_rows(columns, (row for one in found for row in _rebalance(one)), "the group was never assigned anything")


@groups.command()
def reset(
    group: Group,
    topic: Topic,
    url: Url,
    to: Annotated[
        str,
        typer.Option(
            metavar="POSITION",
            help="earliest, latest, an offset, -N (the last N of each partition), or @TIME (epoch ms or RFC 3339).",
        ),
    ],
    partitions: Annotated[
        str | None, typer.Option(metavar="0,2", help="Only these.", show_default="all of the topic")
    ] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Move the group; else only show the plan.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Move a group without members to another place in a topic. Shows the plan; does nothing without --execute."""
    document = {"topic": topic, "to": to, "partitions": _numbers(partitions), "dry_run": not execute}
    body = json.dumps({name: value for name, value in document.items() if value is not None}).encode()
    with Client(url, verbose=verbose) as client:
        plan = client.send("POST", f"{group_path(group)}/offsets/reset", body=body).json()["offsets"]
    if to_terminal() and not as_json:
        columns = ("topic", "partition", "committed_offset", "offset")
        emit_table(columns, [[_or_dash(one[name]) for name in columns] for one in plan])
    else:
        for one in plan:
            emit_json(one)
    tell(f"moved {group}" if execute else "this is the plan; add --execute to carry it out")


@groups.command()
def delete(group: Group, url: Url, yes: Yes = False, verbose: Verbose = False) -> None:
    """Delete a group without members, and its committed offsets."""
    ask(f"Delete {group} and its committed offsets?", yes=yes)
    with Client(url, verbose=verbose) as client:
        client.send("DELETE", group_path(group))
    tell(f"deleted {group}")


def _numbers(text: str | None) -> list[int] | None:
    """Return the numbers of a list such as `0,2`.

    Raises:
        BadParameter: It is none.
    """
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 0,2", param_hint="--partitions") from None


def _summary(group: Mapping[str, Any], members: int) -> tuple[object, ...]:
    return group["name"], group["state"], members, group["group_epoch"], group["assignment_epoch"]


def _member(member: Mapping[str, Any], lag: int) -> tuple[object, ...]:
    held = in_words(member["assignment"])
    if member["revoking"]:
        held += f"; giving up {in_words(member['revoking'])}"
    return (
        member["member_id"],
        member["state"],
        member["member_epoch"],
        _time(member["last_heartbeat_ms"]),
        held,
        lag,
    )


def _offset(one: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(_or_dash(one[name]) for name in _OFFSETS)


def _rebalance(one: Mapping[str, Any]) -> Iterable[tuple[object, ...]]:
    """Return a row for each member; what they have in common stands in the first."""
    common: tuple[object, ...] = (
        _time(one["at_ms"]),
        str(one["group_epoch"]),
        ", ".join(one["reasons"]),
        str(one["moved_partitions"]),
    )
    for member in one["members"] or [{"member_id": "", "before": [], "after": []}]:
        yield *common, member["member_id"], in_words(member["before"]), in_words(member["after"])
        common = ("", "", "", "")


def _or_dash(value: object) -> object:
    return "-" if value is None else value


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec='seconds')[:-6]}Z"
