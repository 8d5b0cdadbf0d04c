"""Standard output of a command that may be told to end, or to write something else, while nobody reads."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from app.cli.terminal.interruption import Interruption

PIECE_BYTES = select.PIPE_BUF
"""What a pipe that has room takes at once and whole."""


class StdoutClosed(Exception):
    """Nobody reads any more."""


class StdoutWriter:
    """Writes to a descriptor, and never waits for its reader in a way that a signal cannot end.

    Args:
        descriptor: Of a pipe, a terminal or a file.
        interruption: Wakes it.
    """

    def __init__(self, descriptor: int, interruption: Interruption) -> None:
        self._descriptor = descriptor
        self._interruption = interruption
        self._state = select.poll()
        self._state.register(descriptor, 0)

    @property
    def closed(self) -> bool:
        """Whether the reader of a pipe has gone."""
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in self._state.poll(0))

    def ready(self) -> bool:
        """Wait until something can be written. Return False if woken before."""
        wake = self._interruption.wake_descriptor
        woken, _, _ = select.select([wake], [self._descriptor], [])
        if woken:
            self._interruption.awake()
        return not woken

    def write(self, data: bytes) -> bool:
        """Write lines, beginning at once. Return False if told to end before all of it was out.

        Raises:
            Closed: Nobody reads any more.
        """
        rest = memoryview(data)
        while True:
            rest = rest[self._written(rest[:PIECE_BYTES]) :]
            if not rest:
                return True
            while not self.ready():
                if self._interruption.signal_number is not None:
                    return False

    def _written(self, piece: memoryview) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # another process has made the pipe non-blocking, and filled it
            return 0
        except BrokenPipeError:
            raise StdoutClosed from None
        except OSError as error:
            raise CommandFailed(f"cannot write the output: {error.strerror}") from None
