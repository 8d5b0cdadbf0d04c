"""Attempts that are not stored yet: they are written in batches, and never in the way of a delivery."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.webhooks import attempts
from app.storage.webhooks.attempts import Attempt

_MAX_PENDING = 20_000
_TRIM_EVERY = 1_000
_EXPIRED_AT_ONCE = 1_000


class AttemptLog:
    """The attempts of this node since the last write.

    Args:
        kept: Delivered attempts, and others, that are kept for each webhook.
        retention_ms: How long an attempt is kept.
        wall_ms: The clock of the log.
    """

    def __init__(self, storage: Storage, *, kept: int, retention_ms: int, wall_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._kept = kept
        self._retention_ms = retention_ms
        self._wall_ms = wall_ms
        self._pending: deque[tuple[int, Attempt]] = deque(maxlen=_MAX_PENDING)
        self._since_trim: dict[int, int] = {}
        self._storing = asyncio.Lock()
        self.totals: dict[str, int] = {}
        self.duration_ms = 0

    def add(self, webhook_id: int, attempt: Attempt) -> None:
        """Note an attempt."""
        self._pending.append((webhook_id, attempt))
        self.totals[attempt.outcome] = self.totals.get(attempt.outcome, 0) + 1
        self.duration_ms += attempt.duration_ms

    async def store(self) -> bool:
        """Store what was noted, also what another call is storing. Return False: there is no more to do now."""
        async with self._storing:
            if self._pending:
                await self._store()
        return False

    async def expire(self) -> bool:
        """Delete old attempts. Return whether there may be more."""
        before_ms = self._wall_ms() - self._retention_ms
        deleted = await self._storage.write(attempts.expire, before_ms, _EXPIRED_AT_ONCE)
        return deleted == _EXPIRED_AT_ONCE

    async def _store(self) -> None:
        made = list(self._pending)
        self._pending.clear()
        try:
            await self._storage.write(attempts.add, made)
        except BaseException:
            self._pending.extendleft(reversed(made))
            raise
        await self._trim(made)

    async def _trim(self, made: list[tuple[int, Attempt]]) -> None:
        """Delete the oldest attempts of the webhooks that have made many since the last time."""
        for webhook_id, _ in made:
            self._since_trim[webhook_id] = self._since_trim.get(webhook_id, 0) + 1
        due = [webhook_id for webhook_id, number in self._since_trim.items() if number >= min(_TRIM_EVERY, self._kept)]
        if due:
            await self._storage.write(_trim, due, self._kept)
            for webhook_id in due:
                del self._since_trim[webhook_id]


def _trim(tx: Tx, webhook_ids: list[int], kept: int) -> None:
    attempts.trim(tx, webhook_ids, kept)
