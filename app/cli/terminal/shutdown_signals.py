"""Graceful shutdown: signals end a command after its current step."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPT_INTERVAL_S = 0.25
"""How often a blocking call is interrupted inside `raising`."""


class ShutdownRequested(BaseException):
    """A signal ends the command; not an `Exception`, so that no `except Exception` catches it."""


class ShutdownSignals:
    """Records SIGINT, SIGTERM and SIGHUP, and wakes a `select` on `wake_descriptor`.

    Inside `raising` the first signal raises `ShutdownRequested`. Outside it, the second signal does.

    Args:
        raise_second: Whether the second signal raises; else signals are only counted outside `raising`.

    Attributes:
        signal_number: The last signal; None before the first.
        count: How many signals have arrived.
    """

    def __init__(self, *, raise_second: bool = True) -> None:
        self.signal_number: int | None = None
        self.count = 0
        self._raise_second = raise_second
        self.wake_descriptor, self._wake_write_descriptor = -1, -1
        self._raise_first = False
        self._previous_handlers: dict[int, Any] = {}
        self._previous_wakeup_descriptor = -1

    def __enter__(self) -> Self:
        self.wake_descriptor, self._wake_write_descriptor = os.pipe()
        os.set_blocking(self.wake_descriptor, False)
        os.set_blocking(self._wake_write_descriptor, False)
        # A signal just before `select` begins does not interrupt it: the byte that is written on arrival does.
        self._previous_wakeup_descriptor = signal.set_wakeup_fd(self._wake_write_descriptor, warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup
                self._previous_handlers[number] = signal.signal(number, self._on_signal)
        self._previous_handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup_descriptor)
        os.close(self.wake_descriptor)
        descriptor, self._wake_write_descriptor = self._wake_write_descriptor, -1
        os.close(descriptor)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise `ShutdownRequested` on the first signal, also on one that arrived before.

        Wrap only calls that may be abandoned at any point. A timer interrupts a blocking call repeatedly: a signal
        that arrives just before the call, or in another thread, does not interrupt it, and its handler would wait.
        """
        self._raise_first = True
        signal.setitimer(signal.ITIMER_REAL, _INTERRUPT_INTERVAL_S, _INTERRUPT_INTERVAL_S)
        try:
            if self.signal_number is not None:
                raise ShutdownRequested
            yield
        finally:
            self._raise_first = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def wake(self) -> None:
        """Wake the `select` on `wake_descriptor`; does nothing after the end of the context."""
        with suppress(OSError):  # the pipe is full or closed
            os.write(self._wake_write_descriptor, b"\0")

    def clear_wake(self) -> None:
        """Discard past wake-ups, so that the next `select` waits again."""
        with suppress(BlockingIOError):
            os.read(self.wake_descriptor, 65_536)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self.count += 1
        self.wake()
        if self._raise_first or (self.count > 1 and self._raise_second):
            raise ShutdownRequested
