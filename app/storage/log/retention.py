"""Raise the start of the log, and delete the rows before it in short passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, and_, bindparam, case, delete, func, select, update

from app.domain.log.topic import TopicConfig
from app.storage.db.tables import compacted_keys, first_record_id, partitions, purges, records
from app.storage.db.transaction import Tx
from app.storage.log import clock_ticks, offset_lookup, pages
from app.storage.log.appends import size_of_record

_RAISE_START = (
    update(partitions)
    .where(partitions.c.partition_id == bindparam("id"))
    .values(
        log_start_offset=bindparam("new_start"),
        start_bytes=bindparam("new_start_bytes"),
        compacted_bytes=case(
            (partitions.c.compacted_bytes == 0, 0),
            else_=partitions.c.compacted_bytes
            - (bindparam("new_start_bytes", type_=BigInteger) - partitions.c.start_bytes)
            + bindparam("present_bytes", type_=BigInteger),
        ),
    )
)
_PRESENT_BYTES = select(func.coalesce(func.sum(size_of_record), 0)).where(
    records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high")
)
_START_BYTES = (
    select(records.c.start_bytes)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(1)
)
_END_BYTES = select(records.c.start_bytes + size_of_record).where(records.c.record_id == bindparam("last"))

_NEXT_PURGE = (
    select(purges.c.partition_id, purges.c.before_offset)
    .order_by(purges.c.partition_id)
    .limit(1)
    .offset(bindparam("skipped"))
)
_LOCK_PURGE = (
    select(purges.c.before_offset).where(purges.c.partition_id == bindparam("id")).with_for_update(skip_locked=True)
)
_FIRST_KEPT = (
    select(records.c.record_id)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(1)
    .offset(bindparam("at_most"))
)
_REMOVE = delete(records).where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
_KEYS_BELOW = and_(compacted_keys.c.partition_id == bindparam("id"), compacted_keys.c.offset < bindparam("before"))
_REMOVE_KEYS = delete(compacted_keys).where(
    _KEYS_BELOW,
    compacted_keys.c.key_hash.in_(select(compacted_keys.c.key_hash).where(_KEYS_BELOW).limit(bindparam("at_most"))),
)
_DONE = delete(purges).where(purges.c.partition_id == bindparam("id"), purges.c.before_offset == bindparam("before"))


class RetainedPartition(NamedTuple):
    """A partition to which retention applies, and the version of the topic that has this configuration."""

    partition_id: int
    version: int
    config: TopicConfig


class NewStart(NamedTuple):
    """The offset to which a partition's start rises by the policy of this version of its topic."""

    partition_id: int
    offset: int
    version: int


class Purge(NamedTuple):
    """A partition whose rows below an offset are no longer in the log."""

    partition_id: int
    before_offset: int


class Deletion(NamedTuple):
    """A pass of a deletion.

    Attributes:
        records: Records that it deleted.
        more: Whether there may be more.
    """

    records: int
    more: bool


def new_starts(tx: Tx, retained: Sequence[RetainedPartition], now_ms: int) -> list[NewStart]:
    """Return the partitions whose start rises by their policy, each with its new `log_start_offset`.

    A partition whose topic has changed is left out: its policy may be another one by now.

    By time, the longest prefix is deleted whose records are all older than `retention_ms`; by size, the longest prefix
    that leaves at least `retention_bytes`. This is a read because it may take long where timestamps are not ordered.
    """
    found = pages.bounds(tx, [partition.partition_id for partition in retained])
    expiry_ms = clock_ticks.expiry_ms(tx, now_ms)
    starts = []
    for partition_id, version, config in retained:
        bounds = found.get(partition_id)
        if bounds is None or bounds.version != version or bounds.log_start_offset == bounds.log_end_offset:
            continue
        start = bounds.log_start_offset
        if config.retention_ms >= 0 and expiry_ms > config.retention_ms:
            start = max(start, offset_lookup.offset_for_time(tx, bounds, expiry_ms - config.retention_ms))
        if config.retention_bytes >= 0:
            start = max(start, offset_lookup.offset_for_size(tx, bounds, config.retention_bytes))
        if start > (offset_lookup.first_offset(tx, bounds) if bounds.sparse else bounds.log_start_offset):
            starts.append(NewStart(partition_id, start, version))
    return starts


def delete_before(tx: Tx, partition_id: int, offset: int, version: int | None = None) -> bool:
    """Raise `log_start_offset` to `offset`, which is at most `log_end_offset`. Return whether it rose.

    It does not rise if the topic has another version than the one given.
    """
    bounds = pages.lock(tx, partition_id)
    if bounds is None or bounds.log_start_offset >= offset or version not in {None, bounds.version}:
        return False
    base = first_record_id(bounds.partition_id)
    start, end = base + offset, base + bounds.log_end_offset
    if offset < bounds.log_end_offset:
        start_bytes = tx.connection.execute(_START_BYTES, {"low": start, "high": end}).scalar_one()
    else:
        start_bytes = tx.connection.execute(_END_BYTES, {"last": end - 1}).scalar_one()
    present_bytes = 0
    if bounds.sparse:
        deleted = {"low": base + bounds.log_start_offset, "high": start}
        present_bytes = tx.connection.execute(_PRESENT_BYTES, deleted).scalar_one()
    tx.connection.execute(
        _RAISE_START,
        {
            "id": bounds.partition_id,
            "new_start": offset,
            "new_start_bytes": start_bytes,
            "present_bytes": present_bytes,
        },
    )
    insert = tx.dialect.insert(purges)
    tx.connection.execute(
        insert.on_conflict_do_update(
            index_elements=["partition_id"], set_={"before_offset": insert.excluded.before_offset}
        ),
        {"partition_id": bounds.partition_id, "before_offset": offset},
    )
    return True


def next_purge(tx: Tx, skipped: int = 0) -> Purge | None:
    """Return the partition after `skipped` others with rows that are no longer in the log, or None; take no lock."""
    row = tx.connection.execute(_NEXT_PURGE, {"skipped": skipped}).one_or_none()
    return None if row is None else Purge(*row)


def purge(tx: Tx, purged: Purge, limit: int) -> Deletion:
    """Delete up to `limit` rows of a partition that are no longer in the log.

    There is no more to do now if another transaction deletes rows of the partition.
    """
    partition_id, before_offset = purged
    if tx.connection.execute(_LOCK_PURGE, {"id": partition_id}).one_or_none() is None:
        return Deletion(0, more=False)
    low = first_record_id(partition_id)
    high = low + before_offset
    first_kept = tx.connection.execute(_FIRST_KEPT, {"low": low, "high": high, "at_most": limit}).scalar_one_or_none()
    removed = tx.connection.execute(_REMOVE, {"low": low, "high": high if first_kept is None else first_kept})
    if first_kept is None:
        keys = {"id": partition_id, "before": before_offset, "at_most": limit}
        if tx.connection.execute(_REMOVE_KEYS, keys).rowcount < limit:
            tx.connection.execute(_DONE, {"id": partition_id, "before": before_offset})
    tx.dialect.vacuum(tx.connection)
    return Deletion(removed.rowcount, more=True)
