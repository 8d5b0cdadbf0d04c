"""Compaction: below `cleaned_offset` each key has one record, its latest, and no record is without a key.

Each pass reads a chunk of the records after `cleaned_offset` and deletes the records that they supersede, which it
finds in `compacted_keys`: a pass costs as much as its new records, however large the partition is. It does not take
the lock of appends: only rows below the end change. The lock of the partition's row keeps other nodes away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, select, update

from app.domain.log.topic import TopicInfo
from app.storage.db.tables import OFFSET_MASK, compacted_keys, compactions, first_record_id, partitions, records
from app.storage.db.transaction import Tx
from app.storage.log import clock_ticks, pages
from app.storage.log.appends import size_of_record
from app.storage.log.pages import Bounds

_STATEMENT_TIMEOUT_S = 60.0
_CLEANED_OFFSET = select(compactions.c.cleaned_offset).where(compactions.c.partition_id == bindparam("id"))
_ADVANCE = (
    update(compactions)
    .where(compactions.c.partition_id == bindparam("id"))
    .values(cleaned_offset=bindparam("new_cleaned"))
)
_CHUNK = (
    select(records.c.record_id, records.c.timestamp_ms, records.c.key, records.c.value.is_(None))
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(bindparam("at_most"))
)
_COMPACTED_OFFSETS = select(compacted_keys.c.key_hash, compacted_keys.c.offset).where(
    compacted_keys.c.partition_id == bindparam("id"),
    compacted_keys.c.key_hash.in_(bindparam("hashes", expanding=True)),
)
_EXPIRED_TOMBSTONES = (
    select(compacted_keys.c.key_hash, compacted_keys.c.offset)
    .where(
        compacted_keys.c.partition_id == bindparam("id"),
        compacted_keys.c.tombstone_seen_at_ms <= bindparam("before_ms"),
        compacted_keys.c.offset != bindparam("last_offset"),
    )
    .limit(bindparam("at_most"))
)
_DELETE_KEYS = delete(compacted_keys).where(
    compacted_keys.c.partition_id == bindparam("id"),
    compacted_keys.c.key_hash.in_(bindparam("hashes", expanding=True)),
)
_SIZE = select(func.coalesce(func.sum(size_of_record), 0)).where(
    records.c.record_id.in_(bindparam("ids", expanding=True))
)
_DELETE = delete(records).where(records.c.record_id.in_(bindparam("ids", expanding=True)))
_COUNT_BYTES = (
    update(partitions)
    .where(partitions.c.partition_id == bindparam("id"))
    .values(compacted_bytes=partitions.c.compacted_bytes + bindparam("removed_bytes"))
)


def compact(
    tx: Tx,
    partition_id: int,
    topic: TopicInfo,
    now_ms: int,
    limit: int,
    before_delete: Callable[[Sequence[int]], object] = len,
) -> bool:
    """Clean one chunk of at most `limit` records, and delete expired tombstones. Return whether there may be more.

    The record with the highest offset of a partition is never deleted, nor are records younger than
    `min_compaction_lag_ms`. `before_delete` is called with the offsets of the records that are deleted. Nothing is
    deleted if the topic has another version by now: its policy may be `delete`, and its records without a key.
    """
    with tx.dialect.slow_statements(tx, _STATEMENT_TIMEOUT_S):
        return _compact(tx, partition_id, topic, now_ms, limit, before_delete)


def _compact(
    tx: Tx,
    partition_id: int,
    topic: TopicInfo,
    now_ms: int,
    limit: int,
    before_delete: Callable[[Sequence[int]], object],
) -> bool:
    bounds, config = pages.try_lock(tx, partition_id), topic.config
    if bounds is None or bounds.version != topic.version:
        return False
    cleaned, expiry_ms = _cleaned_offset(tx, partition_id), clock_ticks.expiry_ms(tx, now_ms)
    expired = _expired_tombstones(tx, bounds, expiry_ms - config.delete_retention_ms, limit)
    newest_ms = expiry_ms - config.min_compaction_lag_ms
    chunk = _read_chunk(tx, bounds, max(cleaned, bounds.log_start_offset), newest_ms, limit)
    superseded = _supersede(tx, partition_id, chunk, now_ms)
    deleted = [offset for offset in expired + superseded if offset >= bounds.log_start_offset]
    before_delete(deleted)
    _delete(tx, bounds, deleted)
    if chunk.next_offset > cleaned:
        tx.connection.execute(_ADVANCE, {"id": partition_id, "new_cleaned": chunk.next_offset})
    return len(expired) == limit or chunk.full


class _Chunk(NamedTuple):
    latest: dict[bytes, tuple[int, bool]]
    """By the hash of a key: its latest offset in the chunk, and whether that record is a tombstone."""

    superseded: list[int]
    next_offset: int
    full: bool


def _cleaned_offset(tx: Tx, partition_id: int) -> int:
    tx.connection.execute(
        tx.dialect.insert(compactions).on_conflict_do_nothing(),
        {"partition_id": partition_id, "cleaned_offset": 0},
    )
    cleaned: int = tx.connection.execute(_CLEANED_OFFSET, {"id": partition_id}).scalar_one()
    return cleaned


def _expired_tombstones(tx: Tx, bounds: Bounds, before_ms: int, limit: int) -> list[int]:
    rows = tx.connection.execute(
        _EXPIRED_TOMBSTONES,
        {
            "id": bounds.partition_id,
            "before_ms": before_ms,
            "last_offset": bounds.log_end_offset - 1,
            "at_most": limit,
        },
    ).all()
    if rows:
        tx.connection.execute(_DELETE_KEYS, {"id": bounds.partition_id, "hashes": [key_hash for key_hash, _ in rows]})
    return [offset for _, offset in rows]


def _read_chunk(tx: Tx, bounds: Bounds, start: int, newest_ms: int, limit: int) -> _Chunk:
    base = first_record_id(bounds.partition_id)
    rows = tx.connection.execute(
        _CHUNK, {"low": base + start, "high": base + bounds.log_end_offset, "at_most": limit}
    ).all()
    latest: dict[bytes, tuple[int, bool]] = {}
    superseded: list[int] = []
    next_offset = start
    for record_id, timestamp_ms, key, is_tombstone in rows:
        if timestamp_ms > newest_ms:
            return _Chunk(latest, superseded, next_offset, full=False)
        offset = record_id & OFFSET_MASK
        if key is None and offset == bounds.log_end_offset - 1:
            return _Chunk(latest, superseded, next_offset, full=False)  # deleted when another record follows
        next_offset = offset + 1
        if key is None:
            superseded.append(offset)
        else:
            key_hash = sha256(key).digest()
            if (earlier := latest.get(key_hash)) is not None:
                superseded.append(earlier[0])
            latest[key_hash] = (offset, bool(is_tombstone))
    return _Chunk(latest, superseded, next_offset, full=len(rows) == limit)


def _supersede(tx: Tx, partition_id: int, chunk: _Chunk, now_ms: int) -> list[int]:
    """Store the latest offset of each key of the chunk, and return the offsets that they supersede."""
    if not chunk.latest:
        return chunk.superseded
    compacted = tx.connection.execute(_COMPACTED_OFFSETS, {"id": partition_id, "hashes": list(chunk.latest)}).all()
    upsert = tx.dialect.insert(compacted_keys)
    tx.connection.execute(
        upsert.on_conflict_do_update(
            index_elements=["partition_id", "key_hash"],
            set_={
                "offset": upsert.excluded.offset,
                "tombstone_seen_at_ms": upsert.excluded.tombstone_seen_at_ms,
            },
        ),
        [
            {
                "partition_id": partition_id,
                "key_hash": key_hash,
                "offset": offset,
                "tombstone_seen_at_ms": now_ms if is_tombstone else None,
            }
            for key_hash, (offset, is_tombstone) in chunk.latest.items()
        ],
    )
    return chunk.superseded + [offset for _, offset in compacted]


def _delete(tx: Tx, bounds: Bounds, offsets: list[int]) -> None:
    """Delete records, and count their bytes."""
    base = first_record_id(bounds.partition_id)
    ids = [base + offset for offset in offsets]
    if ids:
        removed_bytes = tx.connection.execute(_SIZE, {"ids": ids}).scalar_one()
        tx.connection.execute(_DELETE, {"ids": ids})
        tx.connection.execute(_COUNT_BYTES, {"id": bounds.partition_id, "removed_bytes": removed_bytes})
