"""Standard output of a command that a signal can end while its reader is slow."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from app.cli.terminal.shutdown_signals import ShutdownSignals

ATOMIC_WRITE_BYTES = select.PIPE_BUF
"""A writable pipe takes this many bytes in one write, without blocking."""


class StdoutClosed(Exception):
    """The reader of standard output has closed it."""


class StdoutWriter:
    """Writes to a descriptor; a signal ends every wait for its reader.

    Args:
        descriptor: Of a pipe, a terminal or a file.
        shutdown: Wakes a wait.
    """

    def __init__(self, descriptor: int, shutdown: ShutdownSignals) -> None:
        self._descriptor = descriptor
        self._shutdown = shutdown
        self._poll = select.poll()
        self._poll.register(descriptor, 0)

    @property
    def is_closed(self) -> bool:
        """Whether the reader of a pipe has closed it."""
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in self._poll.poll(0))

    def wait_writable(self) -> bool:
        """Wait until the descriptor is writable. Return False if `shutdown` wakes the wait first."""
        wake = self._shutdown.wake_descriptor
        woken, _, _ = select.select([wake], [self._descriptor], [])
        if woken:
            self._shutdown.clear_wake()
        return not woken

    def write(self, data: bytes) -> bool:
        """Write lines to a writable descriptor. Return False if a signal came before all of them were written.

        Raises:
            StdoutClosed: The reader has closed the pipe.
            CommandFailed: The descriptor cannot be written.
        """
        rest = memoryview(data)
        while True:
            rest = rest[self._write_some(rest[:ATOMIC_WRITE_BYTES]) :]
            if not rest:
                return True
            while not self.wait_writable():
                if self._shutdown.signal_number is not None:
                    return False

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another process has set the pipe to non-blocking, and it is full
            return 0
        except BrokenPipeError:
            raise StdoutClosed from None
        except OSError as error:
            raise CommandFailed(f"cannot write the output: {error.strerror}") from None
