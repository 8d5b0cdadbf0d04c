"""Limits the work under way by its bytes: what exceeds the limit waits, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque


class WorkGate:
    """Admits work while the sum of its bytes is within a limit. Used on the event loop only.

    Args:
        limit_bytes: The limit. Larger work runs alone.

    Attributes:
        bytes: The work under way.
        used: Whether there was work; the caller may set it back.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.bytes = 0
        self.used = False

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._waiting)

    def has_room(self, size_bytes: int) -> bool:
        """Return whether `enter` returns at once."""
        return not self._waiting and self._fits(size_bytes)

    async def enter(self, size_bytes: int) -> None:
        """Return when there is room; `leave` gives it back."""
        self.used = True
        if self.has_room(size_bytes):
            self.bytes += size_bytes
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(size_bytes)
            else:
                self._admit()  # skips this one
            raise

    def leave(self, size_bytes: int) -> None:
        """Give back the room of finished work."""
        self.bytes -= size_bytes
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if not self._fits(size_bytes):
                    return
                self.bytes += size_bytes
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, size_bytes: int) -> bool:
        return self.bytes == 0 or self.bytes + size_bytes <= self._limit
