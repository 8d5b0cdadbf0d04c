"""Lines of a file or a pipe, read as they arrive."""

from __future__ import annotations

import codecs
import os
import select
import time
from typing import TYPE_CHECKING

from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from app.cli.terminal.shutdown_signals import ShutdownSignals

_UTF_16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHUNK_BYTES = 1024 * 1024


def read_lines(descriptor: int, linger_ms: int, shutdown: ShutdownSignals) -> Iterator[list[bytes]]:
    """Return the lines of each chunk, without line ends, until the end of the input or a signal.

    An empty list means: `linger_ms` have passed since the first line after the last empty list, or `shutdown.wake`
    was called. At the end of the input the last line may lack its line end. After a signal an incomplete line is
    left out.
    """
    incomplete: list[bytes] = []
    deadline_s: float | None = None
    while True:
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        ready, _, _ = select.select([descriptor, shutdown.wake_descriptor], [], [], left_s)
        if shutdown.signal_number is not None:
            return
        if descriptor not in ready or left_s == 0:
            shutdown.clear_wake()
            deadline_s = None
            yield []
        if descriptor not in ready:
            continue
        chunk = os.read(descriptor, _CHUNK_BYTES)
        if not chunk:
            break
        deadline_s = deadline_s or time.monotonic() + linger_ms / 1000
        first, *others = chunk.split(b"\n")
        incomplete.append(first)
        if others:
            yield [b"".join(incomplete), *others[:-1]]
            incomplete = [others[-1]]
    if last := b"".join(incomplete):
        yield [last]


def without_bom(chunks: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
    """Return the lines of each chunk, the first line without a byte order mark.

    Raises:
        CommandFailed: The lines are UTF-16, as PowerShell writes files by default.
    """
    is_first = True
    for lines in chunks:
        if is_first and lines:
            is_first = False
            if lines[0].startswith(_UTF_16_BOMS):
                raise CommandFailed("the input is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8 FILE")
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        yield lines
