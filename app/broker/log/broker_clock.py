"""The clock of the log: the database's time on PostgreSQL, the wall clock on SQLite; and its checks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from app.domain.log.clock_tick import ClockTick, next_tick
from app.errors.database import DiskFull
from app.storage.db import clock
from app.storage.db.engine import Storage, Tx
from app.storage.log import clock_ticks

_STORE_INTERVAL_MS = 30_000
"""A tick is stored no more often: each is a write to the disk."""

_log = logging.getLogger(__name__)


class BrokerClock:
    """Returns the Unix epoch in milliseconds.

    Nodes that share a database use its time, whatever their own wall clocks say: each check measures the difference
    between the database's time and the monotonic clock of this process.

    Args:
        storage: The database.
        wall_ms: Wall clock in milliseconds, for a database that no other process uses.
        monotonic_ms: Monotonic clock in milliseconds.
        grace_ms: How long nothing is deleted by age after a jump of the clock.
    """

    def __init__(
        self, storage: Storage, *, wall_ms: Callable[[], int], monotonic_ms: Callable[[], int], grace_ms: int
    ) -> None:
        self._storage = storage
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._grace_ms = grace_ms
        self._shared = storage.dialect.shared
        self._checked: tuple[int, int] | None = None
        self._offset_ms = storage.read_now(clock.read) - monotonic_ms() if self._shared else 0
        self._paused = False

    def __call__(self) -> int:
        """Return the time."""
        return self._monotonic_ms() + self._offset_ms if self._shared else self._wall_ms()

    @property
    def paused(self) -> bool:
        """Whether deletion by time is paused, as of the last check."""
        return self._paused

    async def check(self) -> bool:
        """Check the clock for a jump, and store the tick. Return False: there is no more to do now."""
        began_ms = self._monotonic_ms()
        found, now_ms = await self._storage.read(_load, self._wall_ms)
        expected_ms = None if self._checked is None else self._checked[0] + began_ms - self._checked[1]
        tick = next_tick(found, now_ms, expected_ms, self._grace_ms)
        if tick.grace_began_at_ms != found.grace_began_at_ms or (
            tick.grace_began_at_ms is None and not 0 <= now_ms - found.ticked_at_ms < _STORE_INTERVAL_MS
        ):
            with contextlib.suppress(DiskFull):
                tick = await self._storage.write(_store, self._wall_ms, expected_ms, self._grace_ms)
        self._checked = now_ms, began_ms
        self._offset_ms = now_ms - began_ms
        self._set_paused(tick, now_ms)
        return False

    def _set_paused(self, tick: ClockTick, now_ms: int) -> None:
        before, self._paused = self._paused, tick.grace_began_at_ms is not None
        if self._paused and not before and tick.grace_began_at_ms is not None:
            _log.warning(
                "the clock says %s, and the last time known to be right is %s: deletion by time is paused until %s; "
                "if the clock is wrong, correct it before then (MILLRACE_CLOCK_GRACE_MS)",
                _text(now_ms),
                _text(tick.ticked_at_ms),
                _text(tick.grace_began_at_ms + self._grace_ms),
            )


def _load(tx: Tx, wall_ms: Callable[[], int]) -> tuple[ClockTick, int]:
    return clock_ticks.load(tx), _now(tx, wall_ms)


def _store(tx: Tx, wall_ms: Callable[[], int], expected_ms: int | None, grace_ms: int) -> ClockTick:
    found = clock_ticks.load_locked(tx)
    tick = next_tick(found, _now(tx, wall_ms), expected_ms, grace_ms)
    clock_ticks.save(tx, tick)
    return tick


def _now(tx: Tx, wall_ms: Callable[[], int]) -> int:
    return clock.read(tx) if tx.dialect.shared else wall_ms()


def _text(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
