"""Delayed records of queues, each with a copy in a row of its own.

Where a queue is ordered by key, all delayed records of a key but the first are marked `blocked_by_key`: the records
that may be delivered or archived are found by an index, however many wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    ScalarSelect,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    union_all,
    update,
)

from app.domain.log.record import StoredRecord
from app.domain.queues.in_flight import KEYLESS, DeliveryRules, InFlightRecord, RecordState
from app.storage.db.engine import Tx
from app.storage.db.tables import delayed_records, queue_partitions

_cells = delayed_records.c

_COLUMNS = (
    _cells.offset,
    _cells.state,
    _cells.delivery_count,
    _cells.until_ms,
    _cells.key_hash,
    _cells.timestamp_ms,
    _cells.encoding,
    _cells.key,
    _cells.value,
    _cells.headers,
)
_size_of_record = (
    func.coalesce(func.length(_cells.key), 0)
    + func.coalesce(func.length(_cells.value), 0)
    + func.coalesce(func.length(_cells.headers), 0)
)
_SUMMARY_COLUMNS = (
    _cells.offset,
    _cells.state,
    _cells.delivery_count,
    _cells.until_ms,
    _cells.key_hash,
    _size_of_record,
)
_of_window = (_cells.queue_id == bindparam("queue"), _cells.partition_id == bindparam("partition"))
_heads = (*_of_window, _cells.blocked_by_key == 0)
_has_passed = _cells.until_ms <= bindparam("now_ms")
_may_return = _cells.delivery_count < bindparam("max_delivery_count")
_was_delivered = _cells.state.in_([RecordState.ACQUIRED, RecordState.REJECTED, RecordState.EXHAUSTED])
_heads_and_others = (*_of_window, _cells.blocked_by_key.in_([0, 1]))  # all, by the index
_soonest = (_cells.until_ms, _cells.offset)


def _soonest_of(*states: tuple[ColumnElement[bool], ...]) -> CompoundSelect[Any]:
    """Return the outlines of the heads whose time has passed first: a subselect each, so that the index is used."""
    some = [select(*_SUMMARY_COLUMNS).where(*_heads, _has_passed, *state).order_by(*_soonest) for state in states]
    parts = [select(each.limit(bindparam("at_most")).subquery()) for each in some]
    return union_all(*parts).order_by("until_ms", "offset").limit(bindparam("at_most"))


_DUE = _soonest_of((_cells.state == RecordState.AVAILABLE,), (_cells.state == RecordState.ACQUIRED, _may_return))
_TO_ARCHIVE = _soonest_of(
    (_cells.state == RecordState.REJECTED,),
    (_cells.state == RecordState.EXHAUSTED,),
    (_cells.state == RecordState.ACQUIRED, ~_may_return),
)


def _earliest(state: RecordState, *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(func.min(_cells.until_ms)).where(*_heads, _cells.state == state, *conditions).scalar_subquery()


_ARCHIVE_AT = select(
    _earliest(RecordState.REJECTED), _earliest(RecordState.EXHAUSTED), _earliest(RecordState.ACQUIRED, ~_may_return)
)
_FREE_AT = select(_earliest(RecordState.AVAILABLE, ~_has_passed), _earliest(RecordState.ACQUIRED, ~_has_passed))
_AT = select(*_COLUMNS).where(*_of_window, _cells.offset.in_(bindparam("offsets", expanding=True)))
_SUMMARIES = (
    select(*_SUMMARY_COLUMNS)
    .where(*_of_window, _cells.offset >= bindparam("from_offset"))
    .order_by(_cells.offset)
    .limit(bindparam("at_most"))
)
_HEADS = select(_cells.key_hash, _cells.offset).where(*_heads, _cells.key_hash.in_(bindparam("hashes", expanding=True)))
_OLDEST = select(_cells.timestamp_ms).where(*_of_window).order_by(_cells.offset).limit(1)
_WAITING = select(func.count(), func.coalesce(func.sum(case((_has_passed, 1), else_=0)), 0)).where(
    *_heads_and_others, _cells.state == RecordState.AVAILABLE
)
_DELIVERED = select(_cells.offset, _cells.state, _cells.delivery_count, _cells.until_ms).where(*_heads, _was_delivered)
_TOTAL = select(func.coalesce(func.sum(queue_partitions.c.delayed), 0)).where(
    queue_partitions.c.queue_id == bindparam("queue")
)
_REMOVE = delete(delayed_records).where(*_of_window, _cells.offset == bindparam("at"))
_REMOVE_WAITING = delete(delayed_records).where(
    *_of_window,
    or_(_cells.state == RecordState.AVAILABLE, and_(_cells.state == RecordState.ACQUIRED, _may_return, _has_passed)),
)
_BLOCK_BY_KEY = update(delayed_records).where(*_of_window, _cells.offset == bindparam("at")).values(blocked_by_key=1)
_same_key = delayed_records.alias("same_key")
_of_key = (
    _same_key.c.queue_id == bindparam("queue"),
    _same_key.c.partition_id == bindparam("partition"),
    _same_key.c.key_hash == bindparam("hash"),
)
_next_of_key = select(func.min(_same_key.c.offset)).where(*_of_key, _same_key.c.blocked_by_key == 1).scalar_subquery()
_has_head = exists().where(*_of_key, _same_key.c.blocked_by_key == 0)
_UNBLOCK_NEXT = (
    update(delayed_records)
    .where(*_of_window, _cells.key_hash == bindparam("hash"), _cells.blocked_by_key == 1, _cells.offset == _next_of_key)
    .where(~_has_head)
    .values(blocked_by_key=0)
)
_UNBLOCK_ALL = (
    update(delayed_records)
    .where(*_of_window, _cells.blocked_by_key == 1)
    .where(
        ~exists().where(
            _same_key.c.queue_id == _cells.queue_id,
            _same_key.c.partition_id == _cells.partition_id,
            _same_key.c.key_hash == _cells.key_hash,
            _same_key.c.offset < _cells.offset,
        )
    )
    .values(blocked_by_key=0)
)


class DelayedRecord(NamedTuple):
    """A delayed record: its state and all of it."""

    entry: InFlightRecord
    record: StoredRecord


class DelayedSummary(NamedTuple):
    """A delayed record's state and the bytes of what there is besides."""

    entry: InFlightRecord
    size_bytes: int


class DelayedTotals(NamedTuple):
    """The delayed records of a window: how many wait, and all that were delivered.

    Attributes:
        available: How many are due and wait for a worker.
        delayed: How many wait for a time.
        delivered: The entries of the others.
        oldest_ms: Timestamp of the first of all by offset, or None if there is none.
    """

    available: int
    delayed: int
    delivered: list[InFlightRecord]
    oldest_ms: int | None


class SharePartitionKey(NamedTuple):
    """A queue's window: whose copies are meant."""

    queue_id: int
    partition_id: int

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the statements."""
        return {"queue": self.queue_id, "partition": self.partition_id}


def total(tx: Tx, queue_id: int) -> int:
    """Return how many copies a queue has."""
    return int(tx.connection.execute(_TOTAL, {"queue": queue_id}).scalar_one())


def due(tx: Tx, place: SharePartitionKey, rules: DeliveryRules, now_ms: int, limit: int) -> list[DelayedSummary]:
    """Return the outlines of up to `limit` copies that may be delivered now, those due longest first.

    Of the copies of a key, only the first.
    """
    found = tx.connection.execute(
        _DUE,
        place.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count, "at_most": limit},
    )
    return [_summary(row) for row in found]


def to_archive(tx: Tx, place: SharePartitionKey, rules: DeliveryRules, now_ms: int, limit: int) -> list[DelayedSummary]:
    """Return the outlines of up to `limit` copies that are to be archived now."""
    found = tx.connection.execute(
        _TO_ARCHIVE,
        place.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count, "at_most": limit},
    )
    return [_summary(row) for row in found]


def archive_at_ms(tx: Tx, place: SharePartitionKey, rules: DeliveryRules) -> int | None:
    """Return when a copy is to be archived, at the earliest, or None."""
    parameters = place.parameters | {"max_delivery_count": rules.max_delivery_count}
    return _earliest_of(tx.connection.execute(_ARCHIVE_AT, parameters).one())


def free_at_ms(tx: Tx, place: SharePartitionKey, now_ms: int) -> int | None:
    """Return when the next copy is free by the passing of time, or None."""
    return _earliest_of(tx.connection.execute(_FREE_AT, place.parameters | {"now_ms": now_ms}).one())


def at(tx: Tx, place: SharePartitionKey, offsets: Iterable[int]) -> dict[int, DelayedRecord]:
    """Return the copies at some offsets; those that are not there are missing."""
    found = tx.connection.execute(_AT, place.parameters | {"offsets": list(offsets)})
    return {copy.entry.offset: copy for copy in (_delayed_record(row) for row in found)}


def summaries(tx: Tx, place: SharePartitionKey, from_offset: int, limit: int) -> list[DelayedSummary]:
    """Return the outlines of up to `limit` copies in order of their offsets."""
    found = tx.connection.execute(_SUMMARIES, place.parameters | {"from_offset": from_offset, "at_most": limit})
    return [_summary(row) for row in found]


def first_offsets(tx: Tx, place: SharePartitionKey, hashes: Iterable[int]) -> dict[int, int]:
    """Return the lowest offset of the copies of each key."""
    wanted = list(set(hashes) - {KEYLESS})
    if not wanted:
        return {}
    found = tx.connection.execute(_HEADS, place.parameters | {"hashes": wanted})
    return {row[0]: row[1] for row in found}


def totals(tx: Tx, place: SharePartitionKey, now_ms: int) -> DelayedTotals:
    """Count the copies of a window."""
    parameters = place.parameters | {"now_ms": now_ms}
    waiting, available = tx.connection.execute(_WAITING, parameters).one()
    delivered = [InFlightRecord(*row) for row in tx.connection.execute(_DELIVERED, place.parameters)]
    oldest_ms = tx.connection.execute(_OLDEST, place.parameters).scalar_one_or_none()
    return DelayedTotals(available, waiting - available, delivered, oldest_ms)


def save(tx: Tx, place: SharePartitionKey, written: Sequence[DelayedRecord]) -> None:
    """Store copies, new ones and changed ones. A new one that comes before the first of its key takes its place."""
    if not written:
        return
    heads = first_offsets(tx, place, [copy.entry.key_hash for copy in written])
    rows, fallen = [], []
    for copy in sorted(written, key=lambda copy: copy.entry.offset):
        offset, key_hash = copy.entry.offset, copy.entry.key_hash
        head = heads.get(key_hash, offset)
        if offset < head:
            fallen.append(place.parameters | {"at": head})
        if offset <= head and key_hash != KEYLESS:
            heads[key_hash] = offset
        rows.append(_row(place, copy) | {"blocked_by_key": int(offset > head)})
    if fallen:
        tx.connection.execute(_BLOCK_BY_KEY, fallen)
    statement = tx.dialect.insert(delayed_records)
    changed = {name: statement.excluded[name] for name in ("state", "delivery_count", "until_ms")}
    tx.connection.execute(
        statement.on_conflict_do_update(index_elements=["queue_id", "partition_id", "offset"], set_=changed), rows
    )


def remove(tx: Tx, place: SharePartitionKey, removed: Mapping[int, int]) -> None:
    """Remove copies of records that have ended, given by offset with their key's hash; the next of a key comes first.

    Args:
        tx: A write.
        place: The window.
        removed: Hash of the key by offset.
    """
    if not removed:
        return
    tx.connection.execute(_REMOVE, [place.parameters | {"at": offset} for offset in removed])
    if hashes := set(removed.values()) - {KEYLESS}:
        tx.connection.execute(_UNBLOCK_NEXT, [place.parameters | {"hash": each} for each in hashes])


def remove_waiting(tx: Tx, place: SharePartitionKey, rules: DeliveryRules, now_ms: int) -> int:
    """Remove the copies that nobody holds and that are not to be archived. Return how many."""
    parameters = place.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count}
    removed = tx.connection.execute(_REMOVE_WAITING, parameters).rowcount
    if rules.by_key:
        tx.connection.execute(_UNBLOCK_ALL, place.parameters)
    return removed


def _earliest_of(times: Iterable[int | None]) -> int | None:
    return min((time for time in times if time is not None), default=None)


def _delayed_record(row: Sequence[Any]) -> DelayedRecord:
    offset, state, delivery_count, until_ms, key_hash, timestamp_ms, encoding, key, value, headers = row
    return DelayedRecord(
        InFlightRecord(offset, state, delivery_count, until_ms, key_hash),
        StoredRecord(offset, timestamp_ms, encoding, key, value, headers, 0),
    )


def _summary(row: Sequence[Any]) -> DelayedSummary:
    return DelayedSummary(InFlightRecord(*row[:5]), row[5])


def _row(place: SharePartitionKey, copy: DelayedRecord) -> dict[str, object]:
    entry, record = copy
    return {
        "queue_id": place.queue_id,
        "partition_id": place.partition_id,
        "offset": entry.offset,
        "state": int(entry.state),
        "delivery_count": entry.delivery_count,
        "until_ms": entry.until_ms,
        "key_hash": entry.key_hash,
        "timestamp_ms": record.timestamp_ms,
        "encoding": record.encoding,
        "key": record.key,
        "value": record.value,
        "headers": record.headers,
    }
