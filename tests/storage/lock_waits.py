"""Wait until other transactions of a PostgreSQL database wait for a lock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.storage.db.transaction import Tx

DEADLINE_S = 20.0
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def await_lock_waits(tx: Tx, number: int) -> None:
    """Return once at least `number` transactions of the database wait for a lock."""
    deadline = time.monotonic() + DEADLINE_S
    while tx.connection.exec_driver_sql(WAITING).scalar_one() < number:
        assert time.monotonic() < deadline, f"fewer than {number} transactions wait for a lock"
        tx.connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
