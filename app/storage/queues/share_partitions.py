"""The states of share partitions: one row each, locked while it is read and changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, bindparam, func, literal, or_, select, union_all, update

from app.domain.queues.in_flight import InFlightRecord
from app.domain.queues.share_partition_state import SharePartitionState
from app.storage.db import clock
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import partitions, queue_partitions, queues, topics
from app.storage.db.transaction import Tx
from app.storage.log.pages import Bounds, bounds_columns, bounds_of

_columns = queue_partitions.c


class SharePartitionKey(NamedTuple):
    """Primary key of a share partition."""

    queue_id: int
    partition_id: int

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of statements."""
        return {"queue": self.queue_id, "partition": self.partition_id}


class LockedSharePartitions(NamedTuple):
    """The share partitions that a transaction has locked, and the configuration of the queue at that time."""

    states: list[SharePartitionState]
    config: str


class LogSnapshot(NamedTuple):
    """The bounds of some partitions by their id, and the database's time, read after the share partitions were locked.

    Attributes:
        now_ms: The time, or 0 if there are no partitions.
    """

    bounds: dict[int, Bounds]
    now_ms: int


_STATE_COLUMNS = (
    _columns.partition_id,
    _columns.end_offset,
    _columns.entries,
    _columns.delayed,
    _columns.accepted,
    _columns.archived,
    _columns.expired,
    _columns.archive_at_ms,
    _columns.delayed_archive_at_ms,
    _columns.dead_letter_error,
    _columns.refused_offset,
    _columns.reference_count,
)
_ALL = select(*_STATE_COLUMNS).where(_columns.queue_id == bindparam("queue")).order_by(_columns.partition_id)
_OF_IDS = (
    select(*_STATE_COLUMNS, queues.c.config)
    .join(queues, queues.c.queue_id == _columns.queue_id)
    .where(_columns.queue_id == bindparam("queue"), _columns.partition_id.in_(bindparam("ids", expanding=True)))
    .order_by(_columns.partition_id)
)
_LOCK = CompiledStatement(_OF_IDS.with_for_update(of=queue_partitions), expanding="ids")
_TRY_LOCK = CompiledStatement(_OF_IDS.with_for_update(of=queue_partitions, skip_locked=True), expanding="ids")
_LOG_SNAPSHOT = CompiledStatement(
    select(
        *bounds_columns,
        clock.now_ms(),
    )
    .join(topics, topics.c.topic_id == partitions.c.topic_id)
    .where(partitions.c.partition_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)
_SAVE = CompiledStatement(
    update(queue_partitions)
    .where(_columns.queue_id == bindparam("queue"), _columns.partition_id == bindparam("id"))
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
        reference_count=bindparam("new_reference_count"),
    )
)
_UNFINISHED = (
    select(_columns.queue_id, _columns.partition_id)
    .where(or_(func.length(_columns.entries) > 1, _columns.delayed > 0))
    .order_by(_columns.queue_id, _columns.partition_id)
)
_SCHEDULE_ARCHIVING = (
    update(queue_partitions)
    .where(_columns.queue_id == bindparam("queue"))
    .values(archive_at_ms=literal(0), delayed_archive_at_ms=literal(0))
)


def _due_by(column: ColumnElement[int | None]) -> Select[Any]:
    """Return the share partitions that are due longest by one column; as a subselect it uses the column's index."""
    some = select(_columns.queue_id, _columns.partition_id, column.label("at_ms")).where(column <= bindparam("now_ms"))
    return select(some.order_by(column).limit(bindparam("at_most")).subquery())


_due = union_all(_due_by(_columns.archive_at_ms), _due_by(_columns.delayed_archive_at_ms)).subquery()
_DUE = (
    select(_due.c.queue_id, _due.c.partition_id)
    .group_by(_due.c.queue_id, _due.c.partition_id)
    .order_by(func.min(_due.c.at_ms))
    .limit(bindparam("at_most"))
)
_entries = msgspec.msgpack.Decoder(list[InFlightRecord])
_encode = msgspec.msgpack.Encoder().encode


def lock(tx: Tx, queue_id: int, partition_ids: Sequence[int], *, wait: bool) -> LockedSharePartitions | None:
    """Lock share partitions of a queue in ascending order of partition ids, and return them.

    Args:
        tx: A write transaction.
        queue_id: Id of the queue.
        partition_ids: Ids of the partitions.
        wait: Whether to wait for locks of other transactions; otherwise those share partitions are left out.

    Returns:
        None if none was locked.
    """
    query = _LOCK if wait else _TRY_LOCK
    rows = query.rows(tx, {"queue": queue_id, "ids": sorted(partition_ids)})
    if not rows:
        return None
    *_, config = rows[0]
    return LockedSharePartitions([_state(row[:-1]) for row in rows], config)


def list_(tx: Tx, queue_id: int) -> list[SharePartitionState]:
    """Return all share partitions of a queue in ascending order of partition ids, without a lock."""
    return [_state(row) for row in tx.connection.execute(_ALL, {"queue": queue_id})]


def unfinished(tx: Tx) -> list[SharePartitionKey]:
    """Return the share partitions with records in flight or delayed records, in the order of locks."""
    return [SharePartitionKey(*row) for row in tx.connection.execute(_UNFINISHED)]


def schedule_archiving(tx: Tx, queue_id: int) -> None:
    """Make all share partitions of a queue due for archiving now, because its rules have changed."""
    if ids := [state.partition_id for state in list_(tx, queue_id)]:
        lock(tx, queue_id, ids, wait=True)
        tx.connection.execute(_SCHEDULE_ARCHIVING, {"queue": queue_id})


def log_snapshot(tx: Tx, partition_ids: Sequence[int]) -> LogSnapshot:
    """Return the bounds of partitions and the database's time; call it after the share partitions were locked."""
    found: dict[int, Bounds] = {}
    now_ms = 0
    for partition_id, *bounds, row_now_ms in _LOG_SNAPSHOT.rows(tx, {"ids": list(partition_ids)}):
        now_ms = max(now_ms, row_now_ms)
        found[partition_id] = bounds_of(partition_id, *bounds)
    return LogSnapshot(found, now_ms)


def save(tx: Tx, queue_id: int, state: SharePartitionState) -> None:
    """Store the state of a locked share partition."""
    _SAVE.defer(
        tx,
        {
            "queue": queue_id,
            "id": state.partition_id,
            "new_end_offset": state.end_offset,
            "new_entries": _encode(list(state.entries.values())),
            "new_delayed": state.delayed,
            "new_accepted": state.accepted,
            "new_archived": state.archived,
            "new_expired": state.expired,
            "new_archive_at_ms": state.archive_at_ms,
            "new_delayed_archive_at_ms": state.delayed_archive_at_ms,
            "new_dead_letter_error": state.dead_letter_error,
            "new_refused_offset": state.refused_offset,
            "new_reference_count": state.references,
        },
    )


def due(tx: Tx, limit: int) -> list[SharePartitionKey]:
    """Return up to `limit` share partitions in which a record is to be archived, longest due first."""
    return [
        SharePartitionKey(*row) for row in tx.connection.execute(_DUE, {"now_ms": clock.read(tx), "at_most": limit})
    ]


def _state(row: Sequence[Any]) -> SharePartitionState:
    partition_id, end_offset, entries, *others = row
    in_flight = {entry.offset: entry for entry in _entries.decode(entries)}
    return SharePartitionState(partition_id, end_offset, in_flight, *others)
