"""Lines from a file or a pipe, as they come."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.cli.terminal.interruption import Interruption

_CHUNK_BYTES = 1024 * 1024


def read_lines(descriptor: int, linger_ms: int, interruption: Interruption) -> Iterator[list[bytes]]:
    """Return the lines of each chunk, without their ends, until the input ends or the command is told to.

    An empty list says that the first of the lines since the last one came `linger_ms` ago, or that the command was
    woken. At the end of the input the last line may lack its end; told to end, such a one is left out.
    """
    rest: list[bytes] = []
    deadline_s: float | None = None
    while True:
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        ready, _, _ = select.select([descriptor, interruption.wake_descriptor], [], [], left_s)
        if interruption.signal_number is not None:
            return
        if descriptor not in ready or left_s == 0:
            interruption.awake()
            deadline_s = None
            yield []
        if descriptor not in ready:
            continue
        chunk = os.read(descriptor, _CHUNK_BYTES)
        if not chunk:
            break
        deadline_s = deadline_s or time.monotonic() + linger_ms / 1000
        first, *others = chunk.split(b"\n")
        rest.append(first)
        if others:
            yield [b"".join(rest), *others[:-1]]
            rest = [others[-1]]
    if last := b"".join(rest):
        yield [last]
