"""The last check of the clock, which all nodes share, and the time by which things expire."""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from app.domain.log.clock_tick import ClockTick, expiry_time_ms
from app.storage.db.engine import Tx
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import clock_ticks

_TICK = select(clock_ticks.c.ticked_at_ms, clock_ticks.c.grace_began_at_ms)
_LOAD = CompiledStatement(_TICK)
_LOAD_LOCKED = CompiledStatement(_TICK.with_for_update())
_SAVE = update(clock_ticks).values(
    ticked_at_ms=bindparam("new_ticked_at_ms"), grace_began_at_ms=bindparam("new_grace_began_at_ms")
)


def load(tx: Tx) -> ClockTick:
    """Return the last tick."""
    ((ticked_at_ms, grace_began_at_ms),) = _LOAD.rows(tx, {})
    return ClockTick(ticked_at_ms, grace_began_at_ms)


def load_locked(tx: Tx) -> ClockTick:
    """Lock the last tick and return it."""
    ((ticked_at_ms, grace_began_at_ms),) = _LOAD_LOCKED.rows(tx, {})
    return ClockTick(ticked_at_ms, grace_began_at_ms)


def save(tx: Tx, tick: ClockTick) -> None:
    """Store a tick."""
    tx.connection.execute(
        _SAVE, {"new_ticked_at_ms": tick.ticked_at_ms, "new_grace_began_at_ms": tick.grace_began_at_ms}
    )


def expiry_ms(tx: Tx, now_ms: int) -> int:
    """Return the time by which things expire: `now_ms`, or the last tick while the clock may be wrong."""
    return expiry_time_ms(load(tx), now_ms)
