"""`millrace consume`: records to standard output, byte for byte as the server gave them; alone or in a group."""

from __future__ import annotations

import itertools
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.client import Client, ServerRefused, Unreachable, Url, Verbose
from app.cli.log.topics import topic_path
from app.cli.terminal.output import emit, tell, to_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PAGE_RECORDS = 500
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_SPARE_S = 30.0


_MEMBER: Any = {"rich_help_panel": "With --group"}


class Format(StrEnum):
    """What a line of output is."""

    records = "records"
    values = "values"
    text = "text"


class Reset(StrEnum):
    """Where to go on if the records of a position are gone."""

    earliest = "earliest"
    latest = "latest"


def consume(
    url: Url,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="TOPIC", help="Name of the topic; with --group of several.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, help="Only this partition; else all, merged by time.")
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            "--offset",
            "-o",
            metavar="POSITION",
            help="earliest, latest, -N (the last N of each partition), @TIME (epoch ms or RFC 3339), or with "
            "--partition an offset.",
            show_default="earliest",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after so many records.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more at the end, through restarts of the server.")
    ] = False,
    output: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Each line is a record as fetched, which `produce --format records` takes back unchanged; its value "
            "as JSON; or its value as text (bytes as they are, nothing for a tombstone).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format records.")] = False,
    offset_reset: Annotated[
        Reset | None, typer.Option(help="Where to go on if the records of the position are gone; else an error.")
    ] = None,
    max_wait_ms: Annotated[int, typer.Option(min=0, max=60_000, help="With --follow: wait of a request.")] = 30_000,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Read as a member of this group, and commit what is written.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Topics by a glob such as 'orders.*', those created later too.", **_MEMBER),
    ] = None,
    member_id: Annotated[
        str | None, typer.Option(help="Name of the member.", show_default="one that nobody else has", **_MEMBER)
    ] = None,
    instance_id: Annotated[
        str | None,
        typer.Option(help="Keep the partitions through a restart within the session; does not leave.", **_MEMBER),
    ] = None,
    auto_offset_reset: Annotated[
        str | None,
        typer.Option(
            metavar="RESET",
            help="Where a new group begins: earliest, latest, none, by_duration:PT1H.",
            show_default="earliest",
            **_MEMBER,
        ),
    ] = None,
    session_timeout_ms: Annotated[
        int | None,
        typer.Option(
            min=1_000,
            max=1_800_000,
            help="After so long without a sign of life the others take over.",
            show_default="45000",
            **_MEMBER,
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Read a topic to its end: records as JSON lines when piped, something readable on a terminal.

    With --group as one of its consumers, which share the partitions: what is written is committed, and who is killed
    is replaced. Without --follow it ends when the group has committed all that was there at the start.
    """
    render = _renderer(Format.records if as_json else output)
    wait_ms = max_wait_ms if follow else None
    alone = {"--partition": partition, "--offset": offset, "--offset-reset": offset_reset}
    member = {
        "--pattern": pattern,
        "--member-id": member_id,
        "--instance-id": instance_id,
        "--auto-offset-reset": auto_offset_reset,
        "--session-timeout-ms": session_timeout_ms,
    }
    if group is None:
        _refuse(member, "it needs --group")
        if topics is None or len(topics) != 1:
            raise typer.BadParameter("name one topic, or read several with --group", param_hint="TOPIC")
        with Client(url, verbose=verbose) as client:
            reader = Reader(client, topics[0], partition, offset or "earliest", offset_reset and offset_reset.value)
            for lines in reader.pages(count, wait_ms):
                emit(render(lines))
        return
    _refuse(alone, "a group goes on where it stands; see --auto-offset-reset and `millrace groups reset`")
    if not topics and pattern is None:
        raise typer.BadParameter("name topics, or give --pattern", param_hint="TOPIC")
    from app.cli.groups.consume_group import consume_group, own_name
    from app.cli.groups.membership import JoinOptions

    wish = JoinOptions(
        member_id or own_name(),
        topics or [],
        pattern,
        "millrace consume",
        instance_id,
        auto_offset_reset or "earliest",
        session_timeout_ms or 45_000,
    )
    with Client(url, verbose=verbose) as client:
        consume_group(client, group, wish, render, count=count, max_wait_ms=wait_ms, verbose=verbose)


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that were given and mean nothing here."""
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(reason, param_hint=name)


def _renderer(output: Format | None) -> Callable[[bytes], bytes]:
    if output is Format.records or (output is None and not to_terminal()):
        return bytes
    from app.cli.log import rendering

    if output is None:
        return rendering.readable
    return rendering.values if output is Format.values else rendering.text


class Reader:
    """Reads a topic or a partition page by page, and knows where it is.

    Args:
        client: Of the server.
        topic: Its name.
        partition: None for all, merged by time.
        offset: Where to start.
        offset_reset: Where to go on if a position's records are gone; None for an error.
    """

    def __init__(
        self, client: Client, topic: str, partition: int | None, offset: str, offset_reset: str | None
    ) -> None:
        within = "" if partition is None else f"/partitions/{partition}"
        self._client = client
        self._path = f"{topic_path(topic)}{within}/records"
        self._place = {"offset": offset}
        self._offset_reset = offset_reset

    def read(self, max_records: int, max_wait_ms: int) -> bytes:
        """Return the next records, one a line, as the server wrote them; nothing at the end.

        Raises:
            CommandFailed: The server refused, or there was no answer; the place is kept.
        """
        response = self._client.send(
            "GET",
            self._path,
            params={
                **self._place,
                "max_records": max_records,
                "max_wait_ms": max_wait_ms or None,
                "offset_reset": self._offset_reset,
            },
            headers={"accept": "application/x-ndjson"},
            timeout_s=max_wait_ms / 1000 + _SPARE_S,
        )
        following = response.url.join(response.links["next"]["url"]).params
        self._place = {name: following[name] for name in ("offset", "cursor") if name in following}
        return response.content

    def pages(self, count: int | None, max_wait_ms: int | None) -> Iterator[bytes]:
        """Return pages of lines.

        The first read does not wait: it turns `latest` into a place, so that nothing is missed after it.

        Args:
            count: How many records; None for all.
            max_wait_ms: None ends at the end; else how long each read waits there for more.
        """
        lines = self.read(min(count or _PAGE_RECORDS, _PAGE_RECORDS), 0)
        while lines or max_wait_ms is not None:
            yield lines
            if count is not None and (count := count - lines.count(b"\n")) <= 0:
                return
            size = min(count or _PAGE_RECORDS, _PAGE_RECORDS)
            lines = self.read(size, 0) if max_wait_ms is None else self._read_patiently(size, max_wait_ms)

    def _read_patiently(self, max_records: int, max_wait_ms: int) -> bytes:
        """Read, and while the server is away, wait and try again."""
        for attempt in itertools.count():
            try:
                return self.read(max_records, max_wait_ms)
            except (ServerRefused, Unreachable) as error:
                if isinstance(error, ServerRefused) and not error.passing:
                    raise
                if attempt == 0:
                    tell(f"{error}; trying again")
                time.sleep(min(_FIRST_PAUSE_S * 2 ** min(attempt, 10), _LONGEST_PAUSE_S))
        raise AssertionError  # pragma: no cover - attempts do not end
