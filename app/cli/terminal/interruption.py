"""Signals that end a command in its own time: after what it is in the middle of, and what must follow, is done."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """The command was told to end; no ordinary `except` is to keep it from that."""


class Interruption:
    """Notes Ctrl-C, SIGTERM and SIGHUP, and wakes whoever waits in `select` beside `wake_descriptor`.

    Within `raising` the first of them is raised as `Stopped`; the second is, anywhere, unless they are `only_counted`.

    Attributes:
        signal_number: Of the last one.
        count: How many came.
    """

    def __init__(self, *, only_counted: bool = False) -> None:
        self.signal_number: int | None = None
        self.count = 0
        self._only_counted = only_counted
        self.wake_descriptor, self._waker = -1, -1
        self._raising = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.wake_descriptor, self._waker = os.pipe()
        os.set_blocking(self.wake_descriptor, False)
        os.set_blocking(self._waker, False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.wake_descriptor)
        waker, self._waker = self._waker, -1
        os.close(waker)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise `Stopped` for a signal that comes, or has come: for waiting that may be given up anywhere."""
        self._raising = True
        try:
            if self.signal_number is not None:
                raise Stopped
            yield
        finally:
            self._raising = False

    def wake(self) -> None:
        """Wake who waits, if anybody still does."""
        with suppress(OSError):  # it is awake, or past
            os.write(self._waker, b"\0")

    def awake(self) -> None:
        """Sleep again at the next wait."""
        with suppress(BlockingIOError):
            os.read(self.wake_descriptor, 65_536)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self.count += 1
        self.wake()
        if self._raising or (self.count > 1 and not self._only_counted):
            raise Stopped
