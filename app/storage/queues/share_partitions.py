"""What queues know of partitions: one row each, locked while it is read and changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, bindparam, func, literal, select, union_all, update

from app.domain.queues.in_flight import InFlightRecord
from app.storage.db import clock
from app.storage.db.engine import Query, Tx
from app.storage.db.tables import OFFSET_MASK, partitions, queue_partitions, queues, topics
from app.storage.log.appends import last_record_id
from app.storage.log.pages import Bounds

_cells = queue_partitions.c


class SharePartitionState(msgspec.Struct):
    """A queue's row of a partition, as a transaction that has locked it changes it.

    Attributes:
        entries: Records below `end_offset` that have not ended, by offset, ascending.
        delayed: How many delayed records have rows of their own.
        accepted, archived, expired: How the records that have ended did so.
        archive_at_ms: When an entry is to be archived, at the earliest.
        delayed_archive_at_ms: When a copy is to be archived, at the earliest.
        dead_letter_error: Why the last archiving was refused.
        refused_offset: Of which record, if of one.
    """

    partition_id: int
    end_offset: int
    entries: dict[int, InFlightRecord]
    delayed: int
    accepted: int
    archived: int
    expired: int
    archive_at_ms: int | None
    delayed_archive_at_ms: int | None
    dead_letter_error: str | None
    refused_offset: int | None


class LockedSharePartitions(NamedTuple):
    """Windows that a transaction has locked, and the queue's configuration as it is now."""

    windows: list[SharePartitionState]
    config: str
    dead_letter_topic_id: int | None


class LogSnapshot(NamedTuple):
    """The log's side of some windows, read after they were locked."""

    bounds: dict[int, Bounds]
    now_ms: int


_columns = (
    _cells.partition_id,
    _cells.end_offset,
    _cells.entries,
    _cells.delayed,
    _cells.accepted,
    _cells.archived,
    _cells.expired,
    _cells.archive_at_ms,
    _cells.delayed_archive_at_ms,
    _cells.dead_letter_error,
    _cells.refused_offset,
)
_ALL = select(*_columns).where(_cells.queue_id == bindparam("queue")).order_by(_cells.partition_id)
_OF_IDS = (
    select(*_columns, queues.c.config, queues.c.dead_letter_topic_id)
    .join(queues, queues.c.queue_id == _cells.queue_id)
    .where(_cells.queue_id == bindparam("queue"), _cells.partition_id.in_(bindparam("ids", expanding=True)))
    .order_by(_cells.partition_id)
)
_LOCK = Query(_OF_IDS.with_for_update(of=queue_partitions), expanding="ids")
_TRY_LOCK = Query(_OF_IDS.with_for_update(of=queue_partitions, skip_locked=True), expanding="ids")
_SCENE = Query(
    select(
        partitions.c.partition_id,
        partitions.c.topic_id,
        partitions.c.partition,
        topics.c.version,
        partitions.c.log_start_offset,
        partitions.c.compacted_bytes,
        last_record_id.label("last_id"),
        clock.now_ms(),
    )
    .join(topics, topics.c.topic_id == partitions.c.topic_id)
    .where(partitions.c.partition_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)
_SAVE = Query(
    update(queue_partitions)
    .where(_cells.queue_id == bindparam("queue"), _cells.partition_id == bindparam("id"))
    .values(
        end_offset=bindparam("new_end_offset"),
        entries=bindparam("new_entries"),
        delayed=bindparam("new_delayed"),
        accepted=bindparam("new_accepted"),
        archived=bindparam("new_archived"),
        expired=bindparam("new_expired"),
        archive_at_ms=bindparam("new_archive_at_ms"),
        delayed_archive_at_ms=bindparam("new_delayed_archive_at_ms"),
        dead_letter_error=bindparam("new_dead_letter_error"),
        refused_offset=bindparam("new_refused_offset"),
    )
)
_LOOK_AGAIN = (
    update(queue_partitions)
    .where(_cells.queue_id == bindparam("queue"))
    .values(archive_at_ms=literal(0), delayed_archive_at_ms=literal(0))
)


def _due_by(column: ColumnElement[int | None]) -> Select[Any]:
    """Return the windows that are due longest by one of their times: a subselect, so that its index is used."""
    some = select(_cells.queue_id, _cells.partition_id, column.label("at_ms")).where(column <= bindparam("now_ms"))
    return select(some.order_by(column).limit(bindparam("at_most")).subquery())


_due = union_all(_due_by(_cells.archive_at_ms), _due_by(_cells.delayed_archive_at_ms)).subquery()
_DUE = (
    select(_due.c.queue_id, _due.c.partition_id)
    .group_by(_due.c.queue_id, _due.c.partition_id)
    .order_by(func.min(_due.c.at_ms))
    .limit(bindparam("at_most"))
)
_entries = msgspec.msgpack.Decoder(list[InFlightRecord])
_encode = msgspec.msgpack.Encoder().encode


def lock(tx: Tx, queue_id: int, partition_ids: Sequence[int], *, wait: bool) -> LockedSharePartitions | None:
    """Lock a queue's windows of some partitions, in ascending order, and return them.

    Args:
        tx: A transaction.
        queue_id: Of the queue.
        partition_ids: Of the partitions.
        wait: Whether to wait for those that somebody else has; else they are left out.

    Returns:
        None if there is none, or none free.
    """
    query = _LOCK if wait else _TRY_LOCK
    rows = query.rows(tx, {"queue": queue_id, "ids": sorted(partition_ids)})
    if not rows:
        return None
    return LockedSharePartitions([_share_partition(row) for row in rows], rows[0][-2], rows[0][-1])


def all_(tx: Tx, queue_id: int) -> list[SharePartitionState]:
    """Return a queue's windows of all partitions, unlocked."""
    return [_share_partition(tuple(row)) for row in tx.connection.execute(_ALL, {"queue": queue_id})]


def look_again(tx: Tx, queue_id: int) -> None:
    """Let the next archiving look at all of a queue's windows: by other rules other records are to be archived."""
    if ids := [window.partition_id for window in all_(tx, queue_id)]:
        lock(tx, queue_id, ids, wait=True)
        tx.connection.execute(_LOOK_AGAIN, {"queue": queue_id})


def log_snapshot(tx: Tx, partition_ids: Sequence[int]) -> LogSnapshot:
    """Return the bounds of partitions and the database's time, after the windows were locked."""
    rows = _SCENE.rows(tx, {"ids": list(partition_ids)})
    found = {
        row[0]: Bounds(
            row[0],
            row[1],
            row[2],
            row[3],
            row[4],
            row[4] if row[6] is None else max(row[4], (row[6] & OFFSET_MASK) + 1),
            row[5] > 0,
        )
        for row in rows
    }
    return LogSnapshot(found, max((row[7] for row in rows), default=0))


def save(tx: Tx, queue_id: int, window: SharePartitionState) -> None:
    """Store a locked window."""
    _SAVE.defer(
        tx,
        {
            "queue": queue_id,
            "id": window.partition_id,
            "new_end_offset": window.end_offset,
            "new_entries": _encode(list(window.entries.values())),
            "new_delayed": window.delayed,
            "new_accepted": window.accepted,
            "new_archived": window.archived,
            "new_expired": window.expired,
            "new_archive_at_ms": window.archive_at_ms,
            "new_delayed_archive_at_ms": window.delayed_archive_at_ms,
            "new_dead_letter_error": window.dead_letter_error,
            "new_refused_offset": window.refused_offset,
        },
    )


def due(tx: Tx, limit: int) -> list[tuple[int, int]]:
    """Return up to `limit` queues and partitions in which something is to be archived, those due longest first."""
    return [(row[0], row[1]) for row in tx.connection.execute(_DUE, {"now_ms": clock.read(tx), "at_most": limit})]


def _share_partition(row: tuple[Any, ...]) -> SharePartitionState:
    entries = _entries.decode(row[2])
    return SharePartitionState(row[0], row[1], {entry.offset: entry for entry in entries}, *row[3:11])
