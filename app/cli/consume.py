"""`millrace consume`: writes records to standard output, byte for byte as sent, alone or as a member of a group."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.client import Client, Verbose
from app.cli.completion import complete_group, complete_topic
from app.cli.log.topic_reader import TopicReader
from app.cli.server_url import Url
from app.cli.terminal.output import emit, stdout_is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GROUP_PANEL: Any = {"rich_help_panel": "With --group"}


class Format(StrEnum):
    """What each line of output contains."""

    records = "records"
    values = "values"
    text = "text"


class Reset(StrEnum):
    """Where to continue if the records at an offset were deleted."""

    earliest = "earliest"
    latest = "latest"


def consume(
    url: Url,
    topics: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOPIC", help="Name of the topic; with --group one or more.", autocompletion=complete_topic
        ),
    ] = None,
    partition: Annotated[
        int | None,
        typer.Option("--partition", "-p", min=0, help="Read only this partition; else all, merged by time."),
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            "--offset",
            "-o",
            metavar="OFFSET",
            help="Start at earliest, latest, -N (the last N of each partition), @TIME (epoch ms or RFC 3339), or with "
            "--partition at an offset.",
            show_default="earliest",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Exit after this many records.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for new records, also across restarts of the server.")
    ] = False,
    output: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Content of each line: the record as fetched, which `produce --format records` accepts unchanged; "
            "its value as JSON; or its value as text (bytes unchanged, an empty line for a tombstone).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format records.")] = False,
    offset_reset: Annotated[
        Reset | None, typer.Option(help="Where to continue if the records were deleted; else an error.")
    ] = None,
    max_wait_ms: Annotated[
        int, typer.Option(min=0, max=60_000, help="With --follow: longest wait of each request.")
    ] = 30_000,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            "-g",
            help="Join this group, and commit the records that were written.",
            autocompletion=complete_group,
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Subscribe to the topics that match a glob such as 'orders.*', including later ones.",
            **_GROUP_PANEL,
        ),
    ] = None,
    member_id: Annotated[
        str | None, typer.Option(help="Name of the member.", show_default="a unique name", **_GROUP_PANEL)
    ] = None,
    instance_id: Annotated[
        str | None,
        typer.Option(
            help="Join as a static member: do not leave on exit, and keep the partitions after a restart within the "
            "session.",
            **_GROUP_PANEL,
        ),
    ] = None,
    auto_offset_reset: Annotated[
        str | None,
        typer.Option(
            metavar="RESET",
            help="Where a new group starts: earliest, latest, none, by_duration:PT1H.",
            show_default="earliest",
            **_GROUP_PANEL,
        ),
    ] = None,
    session_timeout_ms: Annotated[
        int | None,
        typer.Option(
            min=1_000,
            max=1_800_000,
            help="Reassign the partitions of a member after this time without a heartbeat.",
            show_default="45000",
            **_GROUP_PANEL,
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Print the records of a topic: as JSON lines when piped, as readable lines on a terminal.

    With --group, read as a member of a group whose members share the partitions. Records that were written are
    committed. Without --follow, exit when the group has committed all records that existed at the start.
    """
    render = _renderer(Format.records if as_json else output)
    wait_ms = max_wait_ms if follow else None
    if group is None:
        group_options = {
            "--pattern": pattern,
            "--member-id": member_id,
            "--instance-id": instance_id,
            "--auto-offset-reset": auto_offset_reset,
            "--session-timeout-ms": session_timeout_ms,
        }
        _reject_options(group_options, "it needs --group")
        topic = _single_topic(topics)
        with Client(url, verbose=verbose) as client:
            reader = TopicReader(client, topic, partition, offset or "earliest", offset_reset and offset_reset.value)
            for lines in reader.pages(count, wait_ms):
                emit(render(lines))
        return
    topic_options = {"--partition": partition, "--offset": offset, "--offset-reset": offset_reset}
    _reject_options(
        topic_options,
        "a group continues at its committed offsets; see --auto-offset-reset and `millrace groups reset`",
    )
    if not topics and pattern is None:
        raise typer.BadParameter("name topics, or give --pattern", param_hint="TOPIC")
    from app.cli.groups.consume_group import consume_group, unique_member_id
    from app.cli.groups.membership import JoinOptions

    options = JoinOptions(
        member_id or unique_member_id(),
        topics or [],
        pattern,
        "millrace consume",
        instance_id,
        auto_offset_reset or "earliest",
        session_timeout_ms or 45_000,
    )
    with Client(url, verbose=verbose) as client:
        consume_group(client, group, options, render, count=count, max_wait_ms=wait_ms, verbose=verbose)


def _reject_options(options: Mapping[str, object], reason: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(reason, param_hint=name)


def _single_topic(topics: list[str] | None) -> str:
    if topics is None or len(topics) != 1:
        raise typer.BadParameter("name one topic, or read several with --group", param_hint="TOPIC")
    return topics[0]


def _renderer(output: Format | None) -> Callable[[bytes], bytes]:
    if output is Format.records or (output is None and not stdout_is_terminal()):
        return bytes
    from app.cli.log import rendering

    if output is None:
        return rendering.readable
    return rendering.values if output is Format.values else rendering.text
