"""The deadline of a request that waits, and the disconnect of its client."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from app.broker.waiting.signals import Watch

_LOOP_PASSES = 5
"""Passes of the event loop after which it has processed every connection that was closed before."""


def monotonic_ms() -> int:
    """Return a time in milliseconds that never goes back, for differences only."""
    return time.monotonic_ns() // 1_000_000


async def process_disconnects() -> None:
    """Let the event loop process the connections that are closed already."""
    for _ in range(_LOOP_PASSES):
        await asyncio.sleep(0)


class Deadline:
    """A deadline that also passes when the client disconnects. After `with`, the disconnect is no longer awaited.

    Args:
        max_wait_ms: Longest wait from now on; None for no end.
        disconnect: Done when the client disconnects; None if that is not watched.
    """

    __slots__ = ("_disconnect", "_loop", "_time")

    def __init__(self, max_wait_ms: int | None, disconnect: asyncio.Future[None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._time = None if max_wait_ms is None else self._loop.time() + max_wait_ms / 1000
        self._disconnect = disconnect

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._disconnect is not None:
            self._disconnect.cancel()

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed or the client has disconnected."""
        return self.disconnected or (self._time is not None and self._loop.time() >= self._time)

    @property
    def disconnected(self) -> bool:
        """Whether the client has disconnected, as far as the event loop has processed it."""
        return self._disconnect is not None and self._disconnect.done()

    async def check_disconnected(self) -> bool:
        """Return whether the client has disconnected, after the event loop has processed closed connections."""
        await process_disconnects()
        return self.disconnected

    def shorten_to(self, max_wait_ms: int) -> None:
        """Wait at most this long from now on."""
        time_s = self._loop.time() + max_wait_ms / 1000
        self._time = time_s if self._time is None else min(self._time, time_s)

    async def wait(self, watch: Watch, timeout_ms: int | None = None) -> None:
        """Return on an announcement, at the deadline, on a disconnect, or after a timeout if one is given."""
        until = self._time
        if timeout_ms is not None:
            timeout = self._loop.time() + timeout_ms / 1000
            until = timeout if until is None else min(until, timeout)
        timer = None if until is None else self._loop.call_at(until, watch.wake)
        if self._disconnect is not None:
            self._disconnect.add_done_callback(watch.wake)
        try:
            await watch.wait()
        finally:
            if timer is not None:
                timer.cancel()
            if self._disconnect is not None:
                self._disconnect.remove_done_callback(watch.wake)
