"""Append the records of many requests in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, func, select

from app.domain.log.append import Append, AppendBatch, AppendOutcome, PartitionEnd, partition_ids_of
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import OFFSET_BITS, OFFSET_MASK, first_record_id, log_end_of, partitions, records, topics
from app.storage.db.transaction import Tx
from app.storage.log import idempotency, producers

base_record_id = partitions.c.partition_id * (1 << OFFSET_BITS)
"""The record_id of offset 0 of a row of `partitions`, in SQL."""

last_record_id = (
    select(func.max(records.c.record_id))
    .where(records.c.record_id >= base_record_id, records.c.record_id <= base_record_id + OFFSET_MASK)
    .correlate(partitions)
    .scalar_subquery()
)
"""The highest record_id of a row of `partitions`, or NULL."""

size_of_record = (
    func.coalesce(func.length(records.c.key), 0)
    + func.coalesce(func.length(records.c.value), 0)
    + func.coalesce(func.length(records.c.headers), 0)
)
"""Bytes of key, value and headers as stored."""

_ENDS = CompiledStatement(
    select(
        partitions.c.partition_id,
        partitions.c.topic_id,
        topics.c.version,
        partitions.c.log_start_offset,
        records.c.record_id,
        func.coalesce(records.c.start_bytes + size_of_record, partitions.c.start_bytes),
        func.coalesce(records.c.max_timestamp_ms, 0),
    )
    .join(topics, topics.c.topic_id == partitions.c.topic_id)
    .outerjoin(records, records.c.record_id == last_record_id)
    .where(partitions.c.partition_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)


def append_all(tx: Tx, appends: Sequence[Append], now_ms: int) -> list[AppendOutcome]:
    """Append the records of requests, and return one outcome per request, in order.

    Each request is checked against the result of the requests before it. Locks are taken in the order that all
    transactions follow: producers, Idempotency-Keys, partitions, each in ascending order.
    """
    producer_ids = [(a.stamp.producer_id, a.topic_id) for a in appends if a.stamp is not None]
    key_ids = sorted({(a.topic_id, a.key.key_hash) for a in appends if a.key is not None})
    epochs, states = producers.lock(tx, producer_ids, now_ms) if producer_ids else ({}, {})
    stored = idempotency.claim(tx, key_ids, now_ms) if key_ids else {}
    batch = AppendBatch(_lock_ends(tx, partition_ids_of(appends)), stored, epochs, states, now_ms)
    outcomes = [batch.apply(a) for a in appends]
    if batch.rows:
        tx.dialect.append_records(tx, batch.rows)
    if key_ids:
        idempotency.save_results(tx, [k for k in key_ids if k not in stored], batch.keys_written, now_ms)
    if producer_ids:
        producers.save(tx, epochs, batch.producers_written, now_ms)
    return outcomes


def _lock_ends(tx: Tx, partition_ids: Sequence[int]) -> dict[int, PartitionEnd]:
    """Lock partitions and then read their ends in a statement of its own: it sees what was committed before the lock.

    If no other process appends, each end is read only once.
    """
    tx.dialect.lock_partitions(tx, partition_ids)
    log_ends = tx.log_ends
    if log_ends is None:
        return _read_ends(tx, partition_ids)
    if missing := log_ends.missing(partition_ids):
        log_ends.keep(_read_ends(tx, missing))
    return log_ends.of(partition_ids)


def _read_ends(tx: Tx, partition_ids: Sequence[int]) -> dict[int, PartitionEnd]:
    rows = _ENDS.rows(tx, {"ids": partition_ids})
    return {
        partition_id: PartitionEnd(
            topic_id,
            version,
            log_end_of(log_start_offset, last_id),
            size_bytes,
            max_timestamp_ms,
            first_record_id(partition_id),
        )
        for partition_id, topic_id, version, log_start_offset, last_id, size_bytes, max_timestamp_ms in rows
    }
