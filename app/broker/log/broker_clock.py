"""The clock of the log: the database's time on PostgreSQL, the wall clock on SQLite; and its checks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from app.domain.log.clock_tick import ClockTick, next_tick
from app.errors.database import DiskFull
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.log import clock_ticks

_STORE_INTERVAL_MS = 30_000
_STORE_INTERVAL_SHARED_MS = 5_000
"""A check is stored no more often: each is a write to the disk. The clock of a shared database may step back at any
time, SQLite's clock of deadlines only with a new process."""
_SMALLEST_STEP_MS = 1_000

StepBack = Callable[[Tx, int, int], None]
"""Pulls deadlines in after the clock of deadlines has stepped back; arguments: transaction, step, time after it."""

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
        on_step_back: Called after a step back of the clock of deadlines.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        wall_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
        grace_ms: int,
        on_step_back: StepBack,
    ) -> None:
        self._storage = storage
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._grace_ms = grace_ms
        self._on_step_back = on_step_back
        self._shared = storage.dialect.shared
        self._store_interval_ms = _STORE_INTERVAL_SHARED_MS if self._shared else _STORE_INTERVAL_MS
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
        (found, checked_at_ms), deadline_now_ms = await self._storage.read(_load)
        now_ms = deadline_now_ms if self._shared else self._wall_ms()
        expected_ms = None if self._checked is None else self._checked[0] + began_ms - self._checked[1]
        tick = next_tick(found, now_ms, expected_ms, self._grace_ms)
        is_recent = 0 <= deadline_now_ms - checked_at_ms < self._store_interval_ms
        if tick.grace_began_at_ms != found.grace_began_at_ms or now_ms < found.ticked_at_ms or not is_recent:
            with contextlib.suppress(DiskFull):
                tick = await self._storage.write(self._store, expected_ms)
        self._checked = now_ms, began_ms
        self._offset_ms = now_ms - began_ms
        self._set_paused(tick, now_ms)
        return False

    def _store(self, tx: Tx, expected_ms: int | None) -> ClockTick:
        found, checked_at_ms = clock_ticks.load_check(tx, locked=True)
        deadline_now_ms = clock.read(tx)
        now_ms = deadline_now_ms if self._shared else self._wall_ms()
        tick = next_tick(found, now_ms, expected_ms, self._grace_ms)
        if (step_ms := checked_at_ms - deadline_now_ms) > _SMALLEST_STEP_MS:
            self._on_step_back(tx, step_ms, deadline_now_ms)
        clock_ticks.save(tx, tick, deadline_now_ms)
        return tick

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


def _load(tx: Tx) -> tuple[clock_ticks.ClockCheck, int]:
    return clock_ticks.load_check(tx, locked=False), clock.read(tx)


def _text(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
