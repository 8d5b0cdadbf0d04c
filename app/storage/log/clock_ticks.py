"""The last check of the clock, which all nodes share, and the time by which things expire."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import bindparam, select, update

from app.domain.log.clock_tick import ClockTick, expiry_time_ms
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import clock_ticks
from app.storage.db.transaction import Tx

_LOAD = CompiledStatement(select(clock_ticks.c.ticked_at_ms, clock_ticks.c.grace_began_at_ms))
_CHECK = select(clock_ticks.c.ticked_at_ms, clock_ticks.c.grace_began_at_ms, clock_ticks.c.checked_at_ms)
_LOAD_CHECK = CompiledStatement(_CHECK)
_LOAD_CHECK_LOCKED = CompiledStatement(_CHECK.with_for_update())
_SAVE = update(clock_ticks).values(
    ticked_at_ms=bindparam("new_ticked_at_ms"),
    grace_began_at_ms=bindparam("new_grace_began_at_ms"),
    checked_at_ms=bindparam("new_checked_at_ms"),
)


class ClockCheck(NamedTuple):
    """The last check of the clock.

    Attributes:
        checked_at_ms: Its time by the clock of deadlines, or 0 if there was none.
    """

    tick: ClockTick
    checked_at_ms: int


def load(tx: Tx) -> ClockTick:
    """Return the last tick."""
    ((ticked_at_ms, grace_began_at_ms),) = _LOAD.rows(tx, {})
    return ClockTick(ticked_at_ms, grace_began_at_ms)


def load_check(tx: Tx, *, locked: bool) -> ClockCheck:
    """Return the last check, on request with a lock on its row."""
    ((*tick, checked_at_ms),) = (_LOAD_CHECK_LOCKED if locked else _LOAD_CHECK).rows(tx, {})
    return ClockCheck(ClockTick(*tick), checked_at_ms)


def save(tx: Tx, tick: ClockTick, checked_at_ms: int) -> None:
    """Store a check."""
    tx.connection.execute(
        _SAVE,
        {
            "new_ticked_at_ms": tick.ticked_at_ms,
            "new_grace_began_at_ms": tick.grace_began_at_ms,
            "new_checked_at_ms": checked_at_ms,
        },
    )


def expiry_ms(tx: Tx, now_ms: int) -> int:
    """Return the time by which things expire: `now_ms`, or the last tick while the clock may be wrong."""
    return expiry_time_ms(load(tx), now_ms)
