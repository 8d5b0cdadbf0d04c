"""How long a read waits, and who may give up."""

from __future__ import annotations

import asyncio
import time

from app.broker.waiting.signals import Watch

_LOOP_TURNS = 5


def monotonic_ms() -> int:
    """Return the time since some moment, which no change of a clock moves."""
    return time.monotonic_ns() // 1_000_000


async def process_disconnects() -> None:
    """Let the event loop turn until it has heard of all connections that were closed before."""
    for _ in range(_LOOP_TURNS):
        await asyncio.sleep(0)


class Deadline:
    """A deadline, and the client that may go away before it.

    Args:
        max_wait_ms: Longest wait from now on; None for no end.
        gone: Done when the client has gone; None if that is not watched.
    """

    def __init__(self, max_wait_ms: int | None, gone: asyncio.Future[None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = None if max_wait_ms is None else self._loop.time() + max_wait_ms / 1000
        self._gone = gone

    @property
    def over(self) -> bool:
        """Whether the deadline has passed or the client has gone."""
        if self.has_gone():
            return True
        return self._deadline is not None and self._loop.time() >= self._deadline

    async def has_gone_by_now(self) -> bool:
        """Return whether the client has gone, once the event loop has heard of connections closed long ago."""
        await process_disconnects()
        return self.has_gone()

    def has_gone(self) -> bool:
        """Return whether the client has gone."""
        return self._gone is not None and self._gone.done()

    def shorten(self, max_wait_ms: int) -> None:
        """Wait no longer than this from now on."""
        deadline = self._loop.time() + max_wait_ms / 1000
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    async def wait(self, watch: Watch, pause_ms: int | None = None) -> None:
        """Return at an announcement, at the deadline or when the client has gone; or after a pause, if one is given."""
        until = self._deadline
        if pause_ms is not None:
            pause_over = self._loop.time() + pause_ms / 1000
            until = pause_over if until is None else min(until, pause_over)
        timer = None if until is None else self._loop.call_at(until, watch.fire)
        if self._gone is not None:
            self._gone.add_done_callback(watch.fire)
        try:
            await watch.wait()
        finally:
            if timer is not None:
                timer.cancel()
            if self._gone is not None:
                self._gone.remove_done_callback(watch.fire)
