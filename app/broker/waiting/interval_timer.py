"""One timer for many callbacks that are each due once in an interval."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

_TIMES = 30
"""Callbacks that are due within a thirtieth of the interval are called together: fewer wake-ups of an idle process."""


class IntervalTimer:
    """Calls each callback once in an interval, and up to a thirtieth of the interval early.

    One timer of the event loop serves all callbacks, since one for each takes more memory.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due: OrderedDict[Callable[[], None], float] = OrderedDict()
        """All callbacks have the same interval, so they stay in the order in which they are due."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def active(self) -> bool:
        """Whether the timer of the event loop runs."""
        return self._timer is not None

    def add(self, callback: Callable[[], None]) -> None:
        """Call a callback from now on, first after an interval."""
        loop = asyncio.get_running_loop()
        self._due[callback] = loop.time() + self._interval_s
        if self._timer is None:
            self._timer = loop.call_later(self._interval_s, self._call_due)

    def remove(self, callback: Callable[[], None]) -> None:
        """Stop calling a callback."""
        self._due.pop(callback, None)
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _call_due(self) -> None:
        loop = asyncio.get_running_loop()
        horizon = loop.time() + self._interval_s / _TIMES
        while (first := next(iter(self._due.items())))[1] <= horizon:
            callback, due = first
            self._due[callback] = due + self._interval_s
            self._due.move_to_end(callback)
            callback()
        self._timer = loop.call_at(first[1], self._call_due)
