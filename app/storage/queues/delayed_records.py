"""Delayed records of queues, each stored in a row of its own with a copy of the record.

A reference is a row without a copy: its record waits in the log behind a delayed record of its key. If a queue is
ordered by key, all delayed records of a key except the first are marked `blocked_by_key`. So an index
finds the records that may be delivered or archived, independently of how many are blocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    ScalarSelect,
    bindparam,
    case,
    delete,
    exists,
    func,
    select,
    union_all,
    update,
)

from app.domain.log.record import StoredRecord
from app.domain.queues.in_flight import DeliveryRules, InFlightRecord, RecordState
from app.domain.queues.record_summary import KEYLESS
from app.storage.db.tables import delayed_records, queue_partitions
from app.storage.db.transaction import Tx
from app.storage.queues.share_partitions import SharePartitionKey

_columns = delayed_records.c
REFERENCE = -1
"""`encoding` of a reference."""

_COLUMNS = (
    _columns.offset,
    _columns.state,
    _columns.delivery_count,
    _columns.until_ms,
    _columns.key_hash,
    _columns.timestamp_ms,
    _columns.encoding,
    _columns.key,
    _columns.value,
    _columns.headers,
)
_size_of_record = (
    func.coalesce(func.length(_columns.key), 0)
    + func.coalesce(func.length(_columns.value), 0)
    + func.coalesce(func.length(_columns.headers), 0)
)
_SUMMARY_COLUMNS = (
    _columns.offset,
    _columns.state,
    _columns.delivery_count,
    _columns.until_ms,
    _columns.key_hash,
    case((_columns.encoding == REFERENCE, None), else_=_size_of_record).label("size_bytes"),
)
in_partition = (_columns.queue_id == bindparam("queue"), _columns.partition_id == bindparam("partition"))
unblocked = (*in_partition, _columns.blocked_by_key == 0)
has_passed = _columns.until_ms <= bindparam("now_ms")
may_return = _columns.delivery_count < bindparam("max_delivery_count")
_was_delivered = _columns.state.in_([RecordState.ACQUIRED, RecordState.REJECTED, RecordState.EXHAUSTED])
all_rows = (*in_partition, _columns.blocked_by_key.in_([0, 1]))  # with all values, so that the index is used
_soonest = (_columns.until_ms, _columns.offset)


def _soonest_of(*states: tuple[ColumnElement[bool], ...]) -> CompoundSelect[Any]:
    """Return the unblocked records that are due longest: one subselect per state, so that each uses the index."""
    some = [select(*_SUMMARY_COLUMNS).where(*unblocked, has_passed, *state).order_by(*_soonest) for state in states]
    parts = [select(each.limit(bindparam("at_most")).subquery()) for each in some]
    return union_all(*parts).order_by("until_ms", "offset").limit(bindparam("at_most"))


_DUE = _soonest_of((_columns.state == RecordState.AVAILABLE,), (_columns.state == RecordState.ACQUIRED, may_return))
_TO_ARCHIVE = _soonest_of(
    (_columns.state == RecordState.REJECTED,),
    (_columns.state == RecordState.EXHAUSTED,),
    (_columns.state == RecordState.ACQUIRED, ~may_return),
)


def _earliest(state: RecordState, *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(func.min(_columns.until_ms)).where(*unblocked, _columns.state == state, *conditions).scalar_subquery()


_ARCHIVE_AT = select(
    _earliest(RecordState.REJECTED), _earliest(RecordState.EXHAUSTED), _earliest(RecordState.ACQUIRED, ~may_return)
)
_AVAILABLE_AT = select(_earliest(RecordState.AVAILABLE, ~has_passed), _earliest(RecordState.ACQUIRED, ~has_passed))
_READ = select(*_COLUMNS).where(
    *in_partition, _columns.offset.in_(bindparam("offsets", expanding=True)), _columns.encoding != REFERENCE
)
_SUMMARIES = (
    select(*_SUMMARY_COLUMNS)
    .where(*in_partition, _columns.offset >= bindparam("from_offset"))
    .order_by(_columns.offset)
    .limit(bindparam("at_most"))
)
_FIRST_OF_KEYS = select(_columns.key_hash, _columns.offset).where(
    *unblocked, _columns.key_hash.in_(bindparam("hashes", expanding=True))
)
_OLDEST = select(_columns.timestamp_ms, _columns.encoding).where(*in_partition).order_by(_columns.offset).limit(1)
_WAITING = select(func.count(), func.coalesce(func.sum(case((has_passed, 1), else_=0)), 0)).where(
    *all_rows, _columns.state == RecordState.AVAILABLE
)
_DELIVERED = select(_columns.offset, _columns.state, _columns.delivery_count, _columns.until_ms).where(
    *unblocked, _was_delivered
)
_COUNT = select(
    func.coalesce(func.sum(queue_partitions.c.delayed), 0),
    func.coalesce(func.sum(queue_partitions.c.reference_count), 0),
).where(queue_partitions.c.queue_id == bindparam("queue"))
_REMOVE = delete(delayed_records).where(*in_partition, _columns.offset == bindparam("at"))
_BLOCK_BY_KEY = (
    update(delayed_records).where(*in_partition, _columns.offset == bindparam("at")).values(blocked_by_key=1)
)
_same_key = delayed_records.alias("same_key")
_of_same_key = (
    _same_key.c.queue_id == bindparam("queue"),
    _same_key.c.partition_id == bindparam("partition"),
    _same_key.c.key_hash == bindparam("hash"),
)
_next_of_key = (
    select(func.min(_same_key.c.offset)).where(*_of_same_key, _same_key.c.blocked_by_key == 1).scalar_subquery()
)
_has_first = exists().where(*_of_same_key, _same_key.c.blocked_by_key == 0)
_UNBLOCK_NEXT = (
    update(delayed_records)
    .where(
        *in_partition,
        _columns.key_hash == bindparam("hash"),
        _columns.blocked_by_key == 1,
        _columns.offset == _next_of_key,
    )
    .where(~_has_first)
    .values(blocked_by_key=0)
)


class DelayedRecord(NamedTuple):
    """A delayed record with its in-flight state."""

    entry: InFlightRecord
    record: StoredRecord


class DelayedSummary(NamedTuple):
    """The in-flight state of a row.

    Attributes:
        size_bytes: Bytes of key, value and headers; None for a reference.
    """

    entry: InFlightRecord
    size_bytes: int | None


class DelayedTotals(NamedTuple):
    """The delayed records of a share partition in numbers.

    Attributes:
        available: Number of available records that are due.
        delayed: Number of available records that are not due yet.
        delivered: In-flight states of the records that were delivered again: acquired or to be archived.
        oldest_ms: Timestamp of the record with the lowest offset, or None if it is a reference or there is none.
    """

    available: int
    delayed: int
    delivered: list[InFlightRecord]
    oldest_ms: int | None


class RowCounts(NamedTuple):
    """Numbers of rows."""

    delayed: int
    references: int


def count(tx: Tx, queue_id: int) -> RowCounts:
    """Return the number of delayed records and of references of a queue."""
    delayed, references = tx.connection.execute(_COUNT, {"queue": queue_id}).one()
    return RowCounts(int(delayed), int(references))


def due(tx: Tx, key: SharePartitionKey, rules: DeliveryRules, now_ms: int, limit: int) -> list[DelayedSummary]:
    """Return up to `limit` records that may be delivered now, longest due first; of each key only the first."""
    found = tx.connection.execute(
        _DUE,
        key.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count, "at_most": limit},
    )
    return [_summary(row) for row in found]


def to_archive(tx: Tx, key: SharePartitionKey, rules: DeliveryRules, now_ms: int, limit: int) -> list[DelayedSummary]:
    """Return up to `limit` records that are to be archived now, longest due first; of each key only the first."""
    found = tx.connection.execute(
        _TO_ARCHIVE,
        key.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count, "at_most": limit},
    )
    return [_summary(row) for row in found]


def archive_at_ms(tx: Tx, key: SharePartitionKey, rules: DeliveryRules) -> int | None:
    """Return when the first record is to be archived, or None."""
    parameters = key.parameters | {"max_delivery_count": rules.max_delivery_count}
    return _earliest_of(tx.connection.execute(_ARCHIVE_AT, parameters).one())


def available_at_ms(tx: Tx, key: SharePartitionKey, now_ms: int) -> int | None:
    """Return the next time at which a lock expires or a delay ends, or None."""
    return _earliest_of(tx.connection.execute(_AVAILABLE_AT, key.parameters | {"now_ms": now_ms}).one())


def read(tx: Tx, key: SharePartitionKey, offsets: Iterable[int]) -> dict[int, DelayedRecord]:
    """Return the delayed records among those at some offsets, by offset."""
    found = tx.connection.execute(_READ, key.parameters | {"offsets": list(offsets)})
    return {delayed.entry.offset: delayed for delayed in map(_delayed_record, found)}


def list_summaries(tx: Tx, key: SharePartitionKey, from_offset: int, limit: int) -> list[DelayedSummary]:
    """Return up to `limit` records from an offset on, in ascending order of offsets."""
    found = tx.connection.execute(_SUMMARIES, key.parameters | {"from_offset": from_offset, "at_most": limit})
    return [_summary(row) for row in found]


def first_offsets(tx: Tx, key: SharePartitionKey, hashes: Iterable[int]) -> dict[int, int]:
    """Return the lowest offset of the delayed records of each key, by `key_hash`."""
    wanted = list(set(hashes) - {KEYLESS})
    if not wanted:
        return {}
    found = tx.connection.execute(_FIRST_OF_KEYS, key.parameters | {"hashes": wanted})
    return {row.key_hash: row.offset for row in found}


def totals(tx: Tx, key: SharePartitionKey, now_ms: int) -> DelayedTotals:
    """Count the delayed records of a share partition."""
    parameters = key.parameters | {"now_ms": now_ms}
    waiting, available = tx.connection.execute(_WAITING, parameters).one()
    delivered = [InFlightRecord(*row) for row in tx.connection.execute(_DELIVERED, key.parameters)]
    oldest_ms, encoding = tx.connection.execute(_OLDEST, key.parameters).one_or_none() or (None, REFERENCE)
    return DelayedTotals(available, waiting - available, delivered, None if encoding == REFERENCE else oldest_ms)


def save(tx: Tx, key: SharePartitionKey, written: Sequence[DelayedRecord]) -> None:
    """Store new and changed records. A new record with a lower offset than the first of its key blocks that one."""
    if not written:
        return
    first = first_offsets(tx, key, [delayed.entry.key_hash for delayed in written])
    rows, blocked = [], []
    for delayed in sorted(written, key=lambda each: each.entry.offset):
        offset, key_hash = delayed.entry.offset, delayed.entry.key_hash
        first_offset = first.get(key_hash, offset)
        if offset < first_offset:
            blocked.append(key.parameters | {"at": first_offset})
        if offset <= first_offset and key_hash != KEYLESS:
            first[key_hash] = offset
        rows.append(_row(key, delayed) | {"blocked_by_key": int(offset > first_offset)})
    if blocked:
        tx.connection.execute(_BLOCK_BY_KEY, blocked)
    keys, changed = ("queue_id", "partition_id", "offset"), ("state", "delivery_count", "until_ms")
    tx.connection.execute(tx.dialect.upsert(delayed_records, keys, changed), rows)


def remove(tx: Tx, key: SharePartitionKey, removed: Mapping[int, int]) -> None:
    """Delete records that have ended, and unblock the next record of each of their keys.

    Args:
        tx: A write transaction.
        key: The share partition.
        removed: `key_hash` by offset of each record.
    """
    if not removed:
        return
    tx.connection.execute(_REMOVE, [key.parameters | {"at": offset} for offset in removed])
    if hashes := set(removed.values()) - {KEYLESS}:
        tx.connection.execute(_UNBLOCK_NEXT, [key.parameters | {"hash": each} for each in hashes])


def _earliest_of(times: Iterable[int | None]) -> int | None:
    return min((time for time in times if time is not None), default=None)


def _delayed_record(row: Sequence[Any]) -> DelayedRecord:
    offset, state, delivery_count, until_ms, key_hash, timestamp_ms, encoding, key, value, headers = row
    return DelayedRecord(
        InFlightRecord(offset, state, delivery_count, until_ms, key_hash),
        StoredRecord(offset, timestamp_ms, encoding, key, value, headers, 0),
    )


def _summary(row: Sequence[Any]) -> DelayedSummary:
    *entry, size_bytes = row
    return DelayedSummary(InFlightRecord(*entry), size_bytes)


def _row(key: SharePartitionKey, delayed: DelayedRecord) -> dict[str, object]:
    entry, record = delayed
    return {
        "queue_id": key.queue_id,
        "partition_id": key.partition_id,
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
