"""`millrace produce`: lines of standard input or a file become records."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
import zlib
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.client import Client, Url, Verbose
from app.cli.log.sending import Connection, LineBatch, SendReport
from app.cli.log.topics import Topic, topic_path
from app.cli.terminal.failure import INTERRUPTED, CommandFailed
from app.cli.terminal.interruption import Interruption, Stopped
from app.cli.terminal.lines import read_lines
from app.cli.terminal.output import counted, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

_MAX_BATCH_BYTES = 4 * 1024 * 1024


class Format(StrEnum):
    """What a line of input is."""

    values = "values"
    records = "records"
    text = "text"


def produce(
    topic: Topic,
    url: Url,
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Lines to send; - is standard input.")] = "-",
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="Each line is a JSON value; a record object, as `consume` writes them; or text.",
        ),
    ] = Format.values,
    key: Annotated[
        str | None, typer.Option(metavar="/POINTER", help="Where in each value its key is: a JSON pointer.")
    ] = None,
    timestamp: Annotated[
        str | None, typer.Option(metavar="/POINTER", help="Where in each value its time is: epoch ms or RFC 3339.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, help="Send everything to this partition.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Records in a request.")] = 500,
    connections: Annotated[
        int, typer.Option(min=1, max=64, help="Requests at a time; records of one key stay in order.")
    ] = 1,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="How often to send a request again while the server is away or busy.")
    ] = 5,
    linger_ms: Annotated[
        int, typer.Option(min=1, max=60_000, help="Send a line at the latest so long after it came.")
    ] = 100,
    verbose: Verbose = False,
) -> None:
    """Append lines to a topic, each exactly once.

    A copy of a topic, byte for byte: millrace consume a | millrace produce b --format records

    Ctrl-C and SIGTERM send what has been read; a second one ends without.
    """
    if form is not Format.values and (key or timestamp):
        raise typer.BadParameter("--key and --timestamp point into values: they need --format values")
    within = "" if partition is None else f"/partitions/{partition}"
    path = f"{topic_path(topic)}{within}/records"
    params: dict[str, str | int | None] = {
        "lines": "values" if form is Format.values else "records",
        "key_from": key,
        "timestamp_from": timestamp,
    }
    try:
        with Interruption() as interruption, _opened(file, interruption) as descriptor:
            with Client(url, verbose=verbose) as client, _progress(descriptor) as on_progress:
                tally = SendReport(on_progress)
                workers = [
                    Connection(client, path, params, retries=retries, tally=tally, on_failure=interruption.wake)
                    for _ in range(connections)
                ]
                distributor = Distributor(workers, batch, _key_of(form, key))
                started = time.monotonic()
                try:
                    _distribute(distributor, read_lines(descriptor, linger_ms, interruption), form)
                    failure = distributor.failure
                except Stopped:
                    failure = CommandFailed("ended before all was confirmed; the rest is perhaps appended", INTERRUPTED)
            _report(tally, time.monotonic() - started, failure)
    except Stopped:
        raise typer.Exit(INTERRUPTED) from None
    if interruption.signal_number is not None:
        raise typer.Exit(INTERRUPTED)


def _distribute(distributor: Distributor, pieces: Iterable[list[bytes]], form: Format) -> None:
    """Hand lines on until there are no more or a connection has failed, and wait for the answers."""
    for lines in pieces:
        if distributor.failure is not None:
            break
        if not lines:
            distributor.flush()
        elif form is Format.text:
            distributor.add_all(list(map(_text_record, lines)))
        else:
            distributor.add_all(lines)
    distributor.finish()


class Distributor:
    """Gives each line to a connection: always the same for a key, in turn for lines without one.

    Args:
        connections: That send.
        size: Records in a batch.
        key_of: Returns what identifies a line's key; None for no key.
    """

    def __init__(self, connections: list[Connection], size: int, key_of: Callable[[bytes], str | None]) -> None:
        self._connections = connections
        self._size = size
        self._key_of = key_of
        self._batches = [LineBatch() for _ in connections]
        self._read = 0
        self._turn = 0

    @property
    def failure(self) -> CommandFailed | None:
        """What stopped a connection, if one has stopped."""
        return next((each.failure for each in self._connections if each.failure is not None), None)

    def add_all(self, lines: list[bytes]) -> None:
        """Add lines; blank ones only count."""
        for line in lines:
            self._read += 1
            if not line or line.isspace():
                continue
            place = self._place(line)
            batch = self._batches[place]
            batch.add(self._read, line)
            if len(batch.lines) >= self._size or batch.size_bytes >= _MAX_BATCH_BYTES:
                self._send(place)

    def flush(self) -> None:
        """Send what is there."""
        for place, batch in enumerate(self._batches):
            if batch.lines:
                self._send(place)

    def finish(self) -> None:
        """Send what is there and wait for the answers."""
        self.flush()
        for connection in self._connections:
            connection.finish()

    def _place(self, line: bytes) -> int:
        if len(self._connections) == 1:
            return 0
        key = self._key_of(line)
        if key is None:
            self._turn += 1
            return self._turn // self._size % len(self._connections)
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) % len(self._connections)

    def _send(self, place: int) -> None:
        self._connections[place].put(self._batches[place])
        self._batches[place] = LineBatch()


def _key_of(form: Format, pointer: str | None) -> Callable[[bytes], str | None]:
    if form is Format.text or (form is Format.values and pointer is None):
        return lambda _: None
    parts = [part.replace("~1", "/").replace("~0", "~") for part in (pointer or "/key").split("/")[1:]]

    def key_of(line: bytes) -> str | None:
        try:
            found = json.loads(line, parse_int=str, parse_float=str)
            for part in parts:
                found = found[int(part)] if isinstance(found, list) else found[part]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        return None if found is None else str(found)

    return key_of


def _text_record(line: bytes) -> bytes:
    """Return a record whose value is the line; what is not UTF-8 goes as bytes."""
    try:
        return b'{"value":%b,"encoding":"text"}' % json.dumps(line.decode()).encode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return b'{"value":"%b","encoding":"base64"}' % b64encode(line)


@contextmanager
def _opened(file: str, interruption: Interruption) -> Iterator[int]:
    if file == "-":
        if sys.stdin is None:
            raise CommandFailed("standard input is closed; name a file")
        if sys.stdin.isatty():
            tell("reading lines from the terminal; Ctrl-D ends them")
        yield sys.stdin.fileno()
        return
    try:
        with interruption.raising():  # a FIFO waits for its writer
            descriptor = os.open(file, os.O_RDONLY)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise CommandFailed(f"cannot read {file}: it is a directory")
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _progress(descriptor: int) -> AbstractContextManager[Callable[[int, int], None]]:
    """Show progress on standard error, if people see it and are not typing the lines themselves."""
    if not sys.stderr.isatty() or os.isatty(descriptor):
        return nullcontext(lambda _records, _size_bytes: None)
    return _progress_bar(os.fstat(descriptor).st_size or None)


@contextmanager
def _progress_bar(total_bytes: int | None) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("0 records", total=total_bytes)
        yield lambda records, size_bytes: progress.update(
            task, completed=size_bytes, description=f"{records:,} records"
        )


def _report(tally: SendReport, seconds: float, failure: CommandFailed | None) -> None:
    records, requests = counted(tally.records, "record"), counted(tally.requests, "request")
    speed = f"{tally.records / max(seconds, 0.001):,.0f} records/s"
    summary = f"sent {records} in {requests}, {tally.size_bytes / 1e6:.1f} MB, {speed}"
    if failure is None:
        print(summary, file=sys.stderr)
        return
    raise CommandFailed(f"{failure}\n{summary}", failure.exit_code)
