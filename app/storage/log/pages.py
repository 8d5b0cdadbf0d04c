"""The bounds of partitions and pages of records, read from one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy import BigInteger, bindparam, select

from app.domain.log.record import StoredRecord
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import first_record_id, log_end_of, partitions, records, topics
from app.storage.db.transaction import Tx
from app.storage.log.appends import last_record_id, size_of_record

_WIDEST_STEP = 1 << 20


class Bounds(NamedTuple):
    """The bounds of a partition in one snapshot.

    Attributes:
        sparse: Whether compaction has left gaps between its offsets.
    """

    partition_id: int
    topic_id: int
    partition: int
    version: int
    log_start_offset: int
    log_end_offset: int
    sparse: bool


def bounds_of(
    partition_id: int,
    topic_id: int,
    partition: int,
    version: int,
    log_start_offset: int,
    compacted_bytes: int,
    last_id: int | None,
) -> Bounds:
    """Return the bounds of a row of `bounds_columns`."""
    log_end_offset = log_end_of(log_start_offset, last_id)
    return Bounds(partition_id, topic_id, partition, version, log_start_offset, log_end_offset, compacted_bytes > 0)


bounds_columns = (
    partitions.c.partition_id,
    partitions.c.topic_id,
    partitions.c.partition,
    topics.c.version,
    partitions.c.log_start_offset,
    partitions.c.compacted_bytes,
    last_record_id.label("last_id"),
)
"""Columns of `partitions` joined to `topics`, in the order of the arguments of `bounds_of`."""

_BOUNDS = CompiledStatement(
    select(*bounds_columns)
    .join(topics, topics.c.topic_id == partitions.c.topic_id)
    .where(partitions.c.partition_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)

_LOCK = select(partitions.c.partition_id).where(partitions.c.partition_id == bindparam("id")).with_for_update()
_TRY_LOCK = _LOCK.with_for_update(skip_locked=True)

_COLUMNS = (
    (records.c.record_id - bindparam("base", type_=BigInteger)).label("offset"),
    records.c.timestamp_ms,
    records.c.encoding,
    records.c.key,
    records.c.value,
    records.c.headers,
    records.c.start_bytes,
)
_record = partial(tuple.__new__, StoredRecord)
_first_start_bytes = (
    select(records.c.start_bytes)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(1)
    .correlate(None)
    .scalar_subquery()
)
_in_span = (records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
_SIZE_FROM = select(
    select(records.c.start_bytes + size_of_record)
    .where(*_in_span)
    .order_by(records.c.record_id.desc())
    .limit(1)
    .scalar_subquery()
    - select(records.c.start_bytes).where(*_in_span).order_by(records.c.record_id).limit(1).scalar_subquery()
)
_PAGE = CompiledStatement(
    select(*_COLUMNS)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .where(records.c.start_bytes < _first_start_bytes + bindparam("max_bytes", type_=BigInteger))
    .order_by(records.c.record_id)
    .limit(bindparam("max_records"))
)


def bounds(tx: Tx, partition_ids: Sequence[int]) -> dict[int, Bounds]:
    """Return the bounds of partitions by id; a deleted partition is missing."""
    found = [bounds_of(*row) for row in _BOUNDS.rows(tx, {"ids": list(partition_ids)})]
    return {one.partition_id: one for one in found}


def lock(tx: Tx, partition_id: int) -> Bounds | None:
    """Lock a partition's row against retention and compaction on other nodes, and return its bounds, or None.

    Appends take another lock and do not wait for this one.
    """
    tx.connection.execute(_LOCK, {"id": partition_id}).one_or_none()
    return bounds(tx, [partition_id]).get(partition_id)


def try_lock(tx: Tx, partition_id: int) -> Bounds | None:
    """Lock a partition's row like `lock`, but return None if another transaction holds it."""
    if tx.connection.execute(_TRY_LOCK, {"id": partition_id}).one_or_none() is None:
        return None
    return bounds(tx, [partition_id]).get(partition_id)


def read(tx: Tx, bounds: Bounds, offset: int, max_records: int, max_bytes: int) -> list[StoredRecord]:
    """Return a page of records from `offset`, in order.

    At least one record is returned if there is one at or after `offset`, even beyond `max_bytes`. Each statement reads
    a range of offsets that is bounded on both sides. Over the gaps of compaction the ranges grow.
    """
    page: list[StoredRecord] = []
    step, left_bytes = max_records, max_bytes
    while offset < bounds.log_end_offset and len(page) < max_records and left_bytes > 0:
        end = min(offset + step, bounds.log_end_offset)
        rows = _range(tx, bounds.partition_id, offset, end, max_records - len(page), left_bytes)
        if rows:
            left_bytes -= rows[-1].start_bytes + rows[-1].size_bytes - rows[0].start_bytes
            if left_bytes < 0 and (page or len(rows) > 1):
                return page + rows[:-1]
            page += rows
            if not bounds.sparse:
                return page
        offset = rows[-1].offset + 1 if rows else end
        step = min(step * 4, _WIDEST_STEP)
    return page


def size_from(tx: Tx, bounds: Bounds, offset: int) -> int:
    """Return the bytes from an offset to the end, including the records that compaction deleted."""
    base = first_record_id(bounds.partition_id)
    span = {"low": base + offset, "high": base + bounds.log_end_offset}
    size: int | None = tx.connection.execute(_SIZE_FROM, span).scalar_one()
    return size or 0


def _range(tx: Tx, partition_id: int, start: int, end: int, max_records: int, max_bytes: int) -> list[StoredRecord]:
    """Return the records of a range of offsets that start within `max_bytes`; the last one may end beyond."""
    base = first_record_id(partition_id)
    rows = _PAGE.rows(
        tx,
        {
            "base": base,
            "low": base + start,
            "high": base + end,
            "max_bytes": max_bytes,
            "max_records": max_records,
        },
    )
    return list(map(_record, rows))
