"""Charged attempts of records that failed and have not ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, select, tuple_

from app.storage.db.tables import webhook_retries
from app.storage.db.transaction import Tx

EXHAUSTED = -1
"""`attempts` of a record that is not sent again, and waits for its end."""
_FOUND_AT_ONCE = 500
"""PostgreSQL refuses statements with thousands of keys."""

_columns = webhook_retries.c
_FIND = select(_columns.queue_id, _columns.partition_id, _columns.offset, _columns.attempts).where(
    tuple_(_columns.queue_id, _columns.partition_id, _columns.offset).in_(bindparam("keys", expanding=True))
)
_DELETE = delete(webhook_retries).where(
    _columns.queue_id == bindparam("queue"),
    _columns.partition_id == bindparam("partition"),
    _columns.offset == bindparam("at"),
)
_DELETE_BELOW = delete(webhook_retries).where(
    _columns.queue_id == bindparam("queue"),
    _columns.partition_id == bindparam("partition"),
    _columns.offset < bindparam("before"),
)
_COUNT = select(func.count()).where(
    _columns.attempts != EXHAUSTED, _columns.queue_id.in_(bindparam("queues", expanding=True))
)


class RecordKey(NamedTuple):
    """A record in a queue."""

    queue_id: int
    partition_id: int
    offset: int


def find(tx: Tx, keys: Iterable[RecordKey]) -> dict[RecordKey, int]:
    """Return the attempts of those records that have some."""
    wanted = [tuple(key) for key in keys]
    found: dict[RecordKey, int] = {}
    for start in range(0, len(wanted), _FOUND_AT_ONCE):
        for *key, attempts in tx.connection.execute(_FIND, {"keys": wanted[start : start + _FOUND_AT_ONCE]}):
            found[RecordKey(*key)] = attempts
    return found


def save(tx: Tx, attempts: Mapping[RecordKey, int]) -> None:
    """Store the attempts of records."""
    if not attempts:
        return
    statement = tx.dialect.insert(webhook_retries)
    rows = [
        {"queue_id": key.queue_id, "partition_id": key.partition_id, "offset": key.offset, "attempts": number}
        for key, number in sorted(attempts.items())
    ]
    tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=["queue_id", "partition_id", "offset"], set_={"attempts": statement.excluded.attempts}
        ),
        rows,
    )


def remove(tx: Tx, keys: Iterable[RecordKey]) -> None:
    """Delete the attempts of records that have ended."""
    if rows := [{"queue": key.queue_id, "partition": key.partition_id, "at": key.offset} for key in sorted(keys)]:
        tx.connection.execute(_DELETE, rows)


def remove_below(tx: Tx, queue_id: int, partition_id: int, before: int) -> None:
    """Delete the attempts of the records of a partition below an offset."""
    tx.connection.execute(_DELETE_BELOW, {"queue": queue_id, "partition": partition_id, "before": before})


def count(tx: Tx, queue_ids: Sequence[int]) -> int:
    """Return the number of records of some queues that failed and are sent again."""
    return int(tx.connection.execute(_COUNT, {"queues": list(queue_ids)}).scalar_one()) if queue_ids else 0
