"""The records that queues archived last, kept for browsing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select

from app.storage.db.tables import queue_archives
from app.storage.db.transaction import Tx
from app.storage.queues.share_partitions import SharePartitionKey

ARCHIVES_KEPT = 1_000
"""Archived records kept per share partition; older ones are deleted."""

_columns = queue_archives.c
_READ = (
    select(_columns.offset, _columns.delivery_count, _columns.reason, _columns.archived_at_ms)
    .where(
        _columns.queue_id == bindparam("queue"),
        _columns.partition_id == bindparam("partition"),
        _columns.offset >= bindparam("from_offset"),
    )
    .order_by(_columns.offset)
    .limit(bindparam("at_most"))
)
_OLDEST_KEPT = (
    select(_columns.archived_at_ms)
    .where(_columns.queue_id == bindparam("queue"), _columns.partition_id == bindparam("partition"))
    .order_by(_columns.archived_at_ms.desc())
    .offset(ARCHIVES_KEPT)
    .limit(1)
)
_DELETE = delete(queue_archives).where(
    _columns.queue_id == bindparam("queue"),
    _columns.partition_id == bindparam("partition"),
    _columns.archived_at_ms <= bindparam("before_ms"),
)


class Archived(NamedTuple):
    """An archived record; `reason` says why it was archived."""

    offset: int
    delivery_count: int
    reason: str
    archived_at_ms: int


def add(tx: Tx, key: SharePartitionKey, archived: Sequence[Archived]) -> None:
    """Store archived records, and delete the oldest above `ARCHIVES_KEPT`."""
    if not archived:
        return
    tx.connection.execute(
        insert(queue_archives),
        [{"queue_id": key.queue_id, "partition_id": key.partition_id} | each._asdict() for each in archived],
    )
    before_ms = tx.connection.execute(_OLDEST_KEPT, key.parameters).scalar_one_or_none()
    if before_ms is not None:
        tx.connection.execute(_DELETE, key.parameters | {"before_ms": before_ms})


def read(tx: Tx, key: SharePartitionKey, from_offset: int, limit: int) -> list[Archived]:
    """Return up to `limit` archived records from an offset on, in ascending order of offsets."""
    found = tx.connection.execute(_READ, key.parameters | {"from_offset": from_offset, "at_most": limit})
    return [Archived(*row) for row in found]
