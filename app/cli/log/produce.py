"""`millrace produce`: appends the lines of standard input or of a file to a topic."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.client import Client, Verbose
from app.cli.log.batch_sender import BatchSender, SendReport
from app.cli.log.distributor import Distributor
from app.cli.log.topics import Topic, topic_path
from app.cli.server_url import Url
from app.cli.terminal.failure import INTERRUPTED, CommandFailed
from app.cli.terminal.lines import read_lines, without_bom
from app.cli.terminal.output import counted, print_message
from app.cli.terminal.shutdown_signals import ShutdownRequested, ShutdownSignals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager


class Format(StrEnum):
    """What each line of input contains."""

    values = "values"
    records = "records"
    text = "text"


def produce(
    topic: Topic,
    url: Url,
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="File with the lines; - is standard input.")] = "-",
    line_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="Content of each line: a JSON value; a record object as `consume` prints it; or text.",
        ),
    ] = Format.values,
    key: Annotated[str | None, typer.Option(metavar="/POINTER", help="JSON pointer to the key in each value.")] = None,
    timestamp: Annotated[
        str | None,
        typer.Option(metavar="/POINTER", help="JSON pointer to the time in each value: epoch ms or RFC 3339."),
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, help="Append all records to this partition.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Most records in a request.")] = 500,
    connections: Annotated[
        int, typer.Option(min=1, max=64, help="Concurrent requests; records of one key stay in order.")
    ] = 1,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="How often to repeat a request while the server is unavailable.")
    ] = 5,
    linger_ms: Annotated[
        int, typer.Option(min=1, max=60_000, help="Longest wait for more lines before a request is sent.")
    ] = 100,
    verbose: Verbose = False,
) -> None:
    """Append lines to a topic, each exactly once.

    Copy a topic byte for byte: millrace consume a | millrace produce b --format records

    Ctrl-C and SIGTERM send the lines that were read; a second signal exits without sending them.
    """
    if line_format is not Format.values and (key or timestamp):
        raise typer.BadParameter("--key and --timestamp point into values: they need --format values")
    for option, pointer in (("--key", key), ("--timestamp", timestamp)):
        if pointer is not None and not pointer.startswith("/"):
            raise typer.BadParameter(f"must be a JSON pointer: it starts with /, as in /{pointer}", param_hint=option)
    partition_path = "" if partition is None else f"/partitions/{partition}"
    path = f"{topic_path(topic)}{partition_path}/records"
    params: dict[str, str | int | None] = {
        "lines": "values" if line_format is Format.values else "records",
        "key_from": key,
        "timestamp_from": timestamp,
    }
    try:
        with ShutdownSignals() as shutdown, _open_input(file, shutdown) as descriptor:
            with Client(url, verbose=verbose) as client, _progress(descriptor) as on_progress:
                report = SendReport(on_progress)
                senders = [
                    BatchSender(client, path, params, retries=retries, report=report, on_failure=shutdown.wake)
                    for _ in range(connections)
                ]
                record_of = _text_record if line_format is Format.text else None
                distributor = Distributor(senders, batch, _key_of(line_format, key), record_of)
                started_s = time.monotonic()
                chunks = without_bom(read_lines(descriptor, linger_ms, shutdown))
                failure = _send_lines(distributor, chunks)
            _print_summary(report, time.monotonic() - started_s, failure)
    except ShutdownRequested:
        raise typer.Exit(INTERRUPTED) from None
    if shutdown.signal_number is not None:
        raise typer.Exit(INTERRUPTED)


def _send_lines(distributor: Distributor, chunks: Iterable[list[bytes]]) -> CommandFailed | None:
    """Send lines until their end or the first failure, and wait for the answers. Return the failure."""
    try:
        for lines in chunks:
            if distributor.failure is not None:
                break
            if not lines:
                distributor.flush()
            else:
                distributor.add_all(lines)
        distributor.finish()
    except ShutdownRequested:
        return CommandFailed("ended before all lines were confirmed; the others may have been appended", INTERRUPTED)
    return distributor.failure


def _key_of(line_format: Format, pointer: str | None) -> Callable[[bytes], str | None]:
    if line_format is Format.text or (line_format is Format.values and pointer is None):
        return lambda _: None
    parts = [part.replace("~1", "/").replace("~0", "~") for part in (pointer or "/key").split("/")[1:]]

    def key_of(line: bytes) -> str | None:
        try:
            key = json.loads(line, parse_int=str, parse_float=str)
            for part in parts:
                key = key[int(part)] if isinstance(key, list) else key[part]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        return None if key is None else str(key)

    return key_of


def _text_record(line: bytes) -> bytes:
    """Return a record with the line as its value: as text, or as bytes if it is not UTF-8."""
    try:
        return b'{"value":%b,"encoding":"text"}' % json.dumps(line.decode()).encode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return b'{"value":"%b","encoding":"base64"}' % b64encode(line)


@contextmanager
def _open_input(file: str, shutdown: ShutdownSignals) -> Iterator[int]:
    if file == "-":
        if sys.stdin is None:
            raise CommandFailed("standard input is closed; name a file")
        if sys.stdin.isatty():
            print_message("reading lines from the terminal; press Ctrl-D to end")
        yield sys.stdin.fileno()
        return
    try:
        with shutdown.raising():  # opening a FIFO blocks until it has a writer
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
    """Show progress on standard error, if it is a terminal and the lines do not come from one.

    The bar compares the lines that were confirmed with the size of the file; a pipe has none, and no bar.
    """
    if not sys.stderr.isatty() or os.isatty(descriptor):
        return nullcontext(lambda _records, _size_bytes: None)
    return _progress_bar(os.fstat(descriptor).st_size or None)


@contextmanager
def _progress_bar(total_bytes: int | None) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, FileSizeColumn, Progress, TextColumn, TransferSpeedColumn

    # without colours, a bar of unknown length looks full
    amount = (FileSizeColumn(),) if total_bytes is None else (BarColumn(), DownloadColumn())
    columns = (TextColumn("{task.description}"), *amount, TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("0 records", total=total_bytes)
        yield lambda records, size_bytes: progress.update(
            task, completed=size_bytes, description=f"{records:,} records"
        )


def _print_summary(report: SendReport, seconds: float, failure: CommandFailed | None) -> None:
    records, requests = counted(report.records, "record"), counted(report.requests, "request")
    speed = f"{report.records / max(seconds, 0.001):,.0f} records/s"
    summary = f"sent {records} in {requests}, {report.size_bytes / 1e6:.1f} MB, {speed}"
    if failure is None:
        if report.records:
            print(summary, file=sys.stderr)
        else:
            print_message("nothing was produced: the input has no line with content")
        return
    raise CommandFailed(f"{failure}\n{summary}", failure.exit_code)
