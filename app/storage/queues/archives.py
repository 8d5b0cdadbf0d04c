"""Records that queues archived last, for those who look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select

from app.storage.db.engine import Tx
from app.storage.db.tables import queue_archives
from app.storage.queues.delayed_records import SharePartitionKey

ARCHIVES_KEPT = 1_000
"""Archived records that are told of, per queue and partition."""

_cells = queue_archives.c
_READ = (
    select(_cells.offset, _cells.delivery_count, _cells.reason, _cells.archived_at_ms)
    .where(
        _cells.queue_id == bindparam("queue"),
        _cells.partition_id == bindparam("partition"),
        _cells.offset >= bindparam("from_offset"),
    )
    .order_by(_cells.offset)
    .limit(bindparam("at_most"))
)
_OLDEST_KEPT = (
    select(_cells.archived_at_ms)
    .where(_cells.queue_id == bindparam("queue"), _cells.partition_id == bindparam("partition"))
    .order_by(_cells.archived_at_ms.desc())
    .offset(ARCHIVES_KEPT)
    .limit(1)
)
_FORGET = delete(queue_archives).where(
    _cells.queue_id == bindparam("queue"),
    _cells.partition_id == bindparam("partition"),
    _cells.archived_at_ms <= bindparam("before_ms"),
)


class Archived(NamedTuple):
    """A record that was archived."""

    offset: int
    delivery_count: int
    reason: str
    archived_at_ms: int


def add(tx: Tx, place: SharePartitionKey, archived: Sequence[Archived]) -> None:
    """Keep what is told of archived records, and forget the oldest of it."""
    if not archived:
        return
    tx.connection.execute(
        insert(queue_archives),
        [{"queue_id": place.queue_id, "partition_id": place.partition_id} | each._asdict() for each in archived],
    )
    before_ms = tx.connection.execute(_OLDEST_KEPT, place.parameters).scalar_one_or_none()
    if before_ms is not None:
        tx.connection.execute(_FORGET, place.parameters | {"before_ms": before_ms})


def read(tx: Tx, place: SharePartitionKey, from_offset: int, limit: int) -> list[Archived]:
    """Return up to `limit` archived records in order of their offsets."""
    found = tx.connection.execute(_READ, place.parameters | {"from_offset": from_offset, "at_most": limit})
    return [Archived(*row) for row in found]
