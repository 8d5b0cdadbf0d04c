"""Changes of many delayed records at once, and references to records that wait behind delayed ones of their key."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, and_, bindparam, case, delete, exists, func, insert, literal, or_, select, update

from app.domain.queues.in_flight import DeliveryRules, InFlightRecord, RecordState
from app.storage.db.tables import delayed_records
from app.storage.db.transaction import Tx
from app.storage.queues.delayed_records import (
    REFERENCE,
    RowCounts,
    all_rows,
    has_passed,
    in_partition,
    may_return,
    unblocked,
)
from app.storage.queues.share_partitions import SharePartitionKey

_columns = delayed_records.c
_same_key = delayed_records.alias("same_key")
_latest_ms = bindparam("latest_ms", type_=BigInteger())
_stepped_ms = _columns.until_ms - bindparam("step_ms", type_=BigInteger())
_STEP_BACK = (
    update(delayed_records)
    .where(*all_rows, _columns.delivery_count > 0, _columns.until_ms > _latest_ms)
    .values(until_ms=case((_stepped_ms > _latest_ms, _stepped_ms), else_=_latest_ms))
)
_STEP_LOCKS_BACK = _STEP_BACK.where(_columns.state == RecordState.ACQUIRED)
_STEP_DELAYS_BACK = _STEP_BACK.where(_columns.state != RecordState.ACQUIRED)
_PURGE = delete(delayed_records).where(
    *in_partition,
    or_(_columns.state == RecordState.AVAILABLE, and_(_columns.state == RecordState.ACQUIRED, may_return, has_passed)),
)
_COUNT_BEFORE = select(func.count()).where(*in_partition, _columns.offset < bindparam("before_offset"))
_DELETE_REFERENCES = delete(delayed_records).where(*in_partition, _columns.encoding == REFERENCE)
_DELETE_REFERENCES_BEFORE = _DELETE_REFERENCES.where(_columns.offset < bindparam("before_offset"))
_DELETE_BEFORE = delete(delayed_records).where(*in_partition, _columns.offset < bindparam("before_offset"))
_RELEASE_LOCKS = (
    update(delayed_records)
    .where(*unblocked, _columns.state == RecordState.ACQUIRED, ~has_passed)
    .values(state=RecordState.AVAILABLE.value, until_ms=bindparam("now_ms"))
)
_UNBLOCK_ALL = (
    update(delayed_records)
    .where(*in_partition, _columns.blocked_by_key == 1)
    .where(
        ~exists().where(
            _same_key.c.queue_id == _columns.queue_id,
            _same_key.c.partition_id == _columns.partition_id,
            _same_key.c.key_hash == _columns.key_hash,
            _same_key.c.offset < _columns.offset,
        )
    )
    .values(blocked_by_key=0)
)
_ADD_REFERENCES = insert(delayed_records).values(
    queue_id=bindparam("queue"),
    partition_id=bindparam("partition"),
    offset=bindparam("at"),
    state=literal(RecordState.AVAILABLE.value),
    delivery_count=bindparam("deliveries"),
    until_ms=literal(0),
    key_hash=bindparam("hash"),
    timestamp_ms=literal(0),
    encoding=literal(REFERENCE),
    blocked_by_key=literal(1),
)


def count_before(tx: Tx, key: SharePartitionKey, offset: int) -> int:
    """Return the number of rows below an offset."""
    return int(tx.connection.execute(_COUNT_BEFORE, key.parameters | {"before_offset": offset}).scalar_one())


def add_references(tx: Tx, key: SharePartitionKey, entries: Sequence[InFlightRecord]) -> None:
    """Store references to available records, each with an earlier delayed record of its key."""
    rows = [
        key.parameters
        | {
            "at": entry.offset,
            "deliveries": entry.delivery_count,
            "hash": entry.key_hash,
        }
        for entry in entries
    ]
    if rows:
        tx.connection.execute(_ADD_REFERENCES, rows)


def delete_references_before(tx: Tx, key: SharePartitionKey, offset: int) -> int:
    """Delete the references below an offset, and return their number."""
    deleted = tx.connection.execute(_DELETE_REFERENCES_BEFORE, key.parameters | {"before_offset": offset}).rowcount
    tx.connection.execute(_UNBLOCK_ALL, key.parameters)
    return deleted


def purge(tx: Tx, key: SharePartitionKey, rules: DeliveryRules, now_ms: int) -> RowCounts:
    """Delete the records that are neither acquired nor to be archived. Return their numbers."""
    parameters = key.parameters | {"now_ms": now_ms, "max_delivery_count": rules.max_delivery_count}
    references = tx.connection.execute(_DELETE_REFERENCES, key.parameters).rowcount if rules.by_key else 0
    delayed = tx.connection.execute(_PURGE, parameters).rowcount
    if rules.by_key:
        tx.connection.execute(_UNBLOCK_ALL, key.parameters)
    return RowCounts(delayed, references)


def delete_before(tx: Tx, key: SharePartitionKey, rules: DeliveryRules, offset: int) -> RowCounts:
    """Delete the records below an offset, whatever their state. Return their numbers."""
    parameters = key.parameters | {"before_offset": offset}
    references = tx.connection.execute(_DELETE_REFERENCES_BEFORE, parameters).rowcount if rules.by_key else 0
    delayed = tx.connection.execute(_DELETE_BEFORE, parameters).rowcount
    if rules.by_key:
        tx.connection.execute(_UNBLOCK_ALL, key.parameters)
    return RowCounts(delayed, references)


def release_locks(tx: Tx, key: SharePartitionKey, now_ms: int) -> int:
    """Make the acquired records available now; their delivery counts stay. Return their number."""
    return tx.connection.execute(_RELEASE_LOCKS, key.parameters | {"now_ms": now_ms}).rowcount


def step_back(tx: Tx, key: SharePartitionKey, rules: DeliveryRules, step_ms: int, now_ms: int) -> None:
    """Pull locks and delays in after the clock has stepped back; see `app.domain.queues.in_flight.step_back`."""
    parameters = key.parameters | {"step_ms": step_ms}
    tx.connection.execute(_STEP_LOCKS_BACK, parameters | {"latest_ms": now_ms + rules.lock_duration_ms})
    tx.connection.execute(_STEP_DELAYS_BACK, parameters | {"latest_ms": now_ms})
