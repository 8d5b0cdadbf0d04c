"""Appending to the log: one transaction for many requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, func, select

from app.domain.log.append import Append, AppendBatch, AppendOutcome, PartitionEnd, partition_ids_of
from app.storage.db.engine import Query, Tx
from app.storage.db.tables import OFFSET_BITS, OFFSET_MASK, partitions, records, topics
from app.storage.log import idempotency, producers

first_record_id = partitions.c.partition_id * (1 << OFFSET_BITS)
"""The record_id of offset 0 of a row of `partitions`."""

last_record_id = (
    select(func.max(records.c.record_id))
    .where(records.c.record_id >= first_record_id, records.c.record_id <= first_record_id + OFFSET_MASK)
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

_ENDS = Query(
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


_KNOWN_ENDS = 10_000


def append_all(tx: Tx, appends: Sequence[Append], now_ms: int) -> list[AppendOutcome]:
    """Append what the requests ask for and return one outcome per request, in order.

    Requests are judged in order against the state as the batch has already changed it. Locks are taken in the
    order of the whole house: producers, Idempotency-Keys, partitions, ascending in each.
    """
    producer_ids = [(a.stamp.producer_id, a.topic_id) for a in appends if a.stamp is not None]
    key_ids = sorted({(a.topic_id, a.key.key_hash) for a in appends if a.key is not None})
    fences, states = producers.lock(tx, producer_ids, now_ms) if producer_ids else ({}, {})
    stored = idempotency.claim(tx, key_ids, now_ms) if key_ids else {}
    batch = AppendBatch(_lock_ends(tx, partition_ids_of(appends)), stored, fences, states, now_ms)
    outcomes = [batch.apply(a) for a in appends]
    if batch.rows:
        tx.dialect.append_records(tx, batch.rows)
    if key_ids:
        idempotency.settle(tx, [k for k in key_ids if k not in stored], batch.keys_written, now_ms)
    if producer_ids:
        producers.save(tx, fences, batch.producers_written, now_ms)
    return outcomes


def forget_ends(tx: Tx, partition_ids: Iterable[int]) -> None:
    """Read anew where partitions end at their next append: their topic changes."""
    if tx.dialect.ends is not None:
        for partition_id in partition_ids:
            tx.dialect.ends.pop(partition_id, None)


def _lock_ends(tx: Tx, partition_ids: list[int]) -> dict[int, PartitionEnd]:
    """Lock partitions and then, in a statement of its own, read where they end.

    A process that alone appends knows it from its last append; a transaction that fails forgets all of it.
    """
    tx.dialect.lock_partitions(tx, partition_ids)
    known = tx.dialect.ends
    if known is None:
        return _read_ends(tx, partition_ids)
    if unknown := [partition_id for partition_id in partition_ids if partition_id not in known]:
        if len(known) > _KNOWN_ENDS:
            known.clear()
            unknown = partition_ids
        known.update(_read_ends(tx, unknown))
    return {partition_id: known[partition_id] for partition_id in partition_ids if partition_id in known}


def _read_ends(tx: Tx, partition_ids: list[int]) -> dict[int, PartitionEnd]:
    rows = _ENDS.rows(tx, {"ids": partition_ids})
    return {
        partition_id: PartitionEnd(
            topic_id,
            version,
            log_start_offset if last_id is None else max(log_start_offset, (last_id & OFFSET_MASK) + 1),
            size_bytes,
            max_timestamp_ms,
            partition_id << OFFSET_BITS,
        )
        for partition_id, topic_id, version, log_start_offset, last_id, size_bytes, max_timestamp_ms in rows
    }
