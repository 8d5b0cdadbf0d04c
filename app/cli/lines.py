"""Lines from a file or a pipe, as they come."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_BYTES = 1024 * 1024


def read_lines(descriptor: int, linger_ms: int) -> Iterator[list[bytes]]:
    """Return the lines of each chunk, without their ends; an empty list when nothing came for `linger_ms`.

    After an empty list it waits without end. The last line may lack its end.
    """
    rest: list[bytes] = []
    quiet = True
    while True:
        if not quiet and not select.select([descriptor], [], [], linger_ms / 1000)[0]:
            quiet = True
            yield []
            continue
        chunk = os.read(descriptor, _CHUNK_BYTES)
        if not chunk:
            break
        quiet = False
        first, *others = chunk.split(b"\n")
        rest.append(first)
        if others:
            yield [b"".join(rest), *others[:-1]]
            rest = [others[-1]]
    if last := b"".join(rest):
        yield [last]
