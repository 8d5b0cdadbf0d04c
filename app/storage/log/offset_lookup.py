"""Find the offset of an offset spec, a time or a size.

Times and sizes are found by bisection over columns that rise with the offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, case, cast, func, select

from app.domain.log.offset_spec import At, Earliest, Last, Latest, OffsetSpec
from app.storage.db.tables import first_record_id, log_end_of, partitions, records
from app.storage.db.transaction import Tx
from app.storage.log.appends import last_record_id, size_of_record
from app.storage.log.pages import Bounds

_SCAN_RECORDS = 10_000


def _first_reaching(column: ColumnElement[int]) -> Select[int]:
    """Return the statement that finds the lowest record_id in [low, high] from which on `column` >= value."""
    low, high, end, value = (
        cast(bindparam(name, type_=BigInteger), BigInteger) for name in ("low", "high", "end", "value")
    )
    search = select(low.label("low"), high.label("high")).cte("search", recursive=True)
    middle = (search.c.low + search.c.high) // 2
    probe = (
        select(column)
        .where(records.c.record_id >= middle, records.c.record_id < end)
        .order_by(records.c.record_id)
        .limit(1)
        .correlate(search)
        .scalar_subquery()
    )
    reached = probe >= value
    search = search.union_all(
        select(case((reached, search.c.low), else_=middle + 1), case((reached, middle), else_=search.c.high)).where(
            search.c.low < search.c.high
        )
    )
    return select(search.c.low).where(search.c.low >= search.c.high)


_REACHING_TIME = _first_reaching(records.c.max_timestamp_ms)
_REACHING_BYTES = _first_reaching(records.c.start_bytes)

_TIMES = (
    select(records.c.record_id, records.c.timestamp_ms)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(_SCAN_RECORDS)
)
_SIZES = (
    select(records.c.record_id, size_of_record)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(_SCAN_RECORDS)
)
_FIRST = select(func.min(records.c.record_id)).where(
    records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high")
)
_LAST_RECORDS = (
    select(records.c.record_id)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id.desc())
    .limit(1)
    .offset(bindparam("skipped"))
)
_LAST_BEFORE = select(func.max(records.c.record_id)).where(
    records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high")
)
_END_BYTES = select(records.c.start_bytes + size_of_record).where(
    records.c.record_id
    == select(func.max(records.c.record_id))
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .scalar_subquery()
)

_EXTENTS = (
    select(
        partitions.c.partition_id,
        partitions.c.log_start_offset,
        records.c.record_id,
        func.coalesce(records.c.start_bytes + size_of_record, partitions.c.start_bytes)
        - partitions.c.start_bytes
        - partitions.c.compacted_bytes,
    )
    .outerjoin(records, records.c.record_id == last_record_id)
    .where(partitions.c.partition_id.in_(bindparam("ids", expanding=True)))
)


class Extent(NamedTuple):
    """The bounds of a partition, and the bytes of its keys, values and headers."""

    partition_id: int
    log_start_offset: int
    log_end_offset: int
    size_bytes: int


def resolve(tx: Tx, bounds: Bounds, spec: OffsetSpec) -> int:
    """Return the offset of a spec.

    Only the offset of `At` may be out of bounds: it is returned unchanged, and the caller decides what it means.
    """
    match spec:
        case At(offset):
            return offset
        case Earliest():
            return bounds.log_start_offset
        case Latest():
            return bounds.log_end_offset
        case Last(number):
            return _offset_of_last(tx, bounds, number)
        case _:
            return offset_for_time(tx, bounds, spec.timestamp_ms)


def _offset_of_last(tx: Tx, bounds: Bounds, number: int) -> int:
    """Return the offset from which on there are `number` records, or the log start offset if there are fewer."""
    offset = max(bounds.log_start_offset, bounds.log_end_offset - number)
    if not bounds.sparse or offset in {bounds.log_start_offset, bounds.log_end_offset}:
        return offset
    base = first_record_id(bounds.partition_id)
    span = {"low": base + bounds.log_start_offset, "high": base + bounds.log_end_offset, "skipped": number - 1}
    record_id = tx.connection.execute(_LAST_RECORDS, span).scalar_one_or_none()
    return bounds.log_start_offset if record_id is None else int(record_id - base)


def offset_for_time(tx: Tx, bounds: Bounds, timestamp_ms: int) -> int:
    """Return the offset of the first record at or after a time, or `log_end_offset` without one.

    Bisection gives the first offset at which `max_timestamp_ms` reaches the time. Retention or compaction may have
    deleted the record that reached it, so the timestamps from that offset on are compared.
    """
    base = first_record_id(bounds.partition_id)
    end = base + bounds.log_end_offset
    low = _search(tx, _REACHING_TIME, base + bounds.log_start_offset, end, timestamp_ms)
    while low < end:
        rows = tx.connection.execute(_TIMES, {"low": low, "high": end}).all()
        for record_id, at_ms in rows:
            if at_ms >= timestamp_ms:
                return int(record_id - base)
        low = record_id + 1 if rows else end
    return bounds.log_end_offset


def first_offset(tx: Tx, bounds: Bounds) -> int:
    """Return the offset of the first record that exists, or `log_end_offset`."""
    base = first_record_id(bounds.partition_id)
    span = {"low": base + bounds.log_start_offset, "high": base + bounds.log_end_offset}
    first = tx.connection.execute(_FIRST, span).scalar_one()
    return bounds.log_end_offset if first is None else int(first - base)


def offset_for_size(tx: Tx, bounds: Bounds, keep_bytes: int) -> int:
    """Return the highest offset from which the records up to the end have `keep_bytes` or more.

    Records that compaction deleted do not count: in a sparse partition the sizes are added up record by record.
    """
    if bounds.sparse:
        size_bytes = sum(extent.size_bytes for extent in extents(tx, [bounds.partition_id]))
        if size_bytes < keep_bytes:
            return bounds.log_start_offset
        return _offset_after(tx, bounds, size_bytes - keep_bytes)
    base = first_record_id(bounds.partition_id)
    low, end = base + bounds.log_start_offset, base + bounds.log_end_offset
    end_bytes = tx.connection.execute(_END_BYTES, {"low": low, "high": end}).scalar_one_or_none()
    if end_bytes is None:
        return bounds.log_start_offset
    beyond = _search(tx, _REACHING_BYTES, low, end, end_bytes - keep_bytes + 1)
    last = tx.connection.execute(_LAST_BEFORE, {"low": low, "high": beyond}).scalar_one()
    return bounds.log_start_offset if last is None else int(last - base)


def _offset_after(tx: Tx, bounds: Bounds, excess_bytes: int) -> int:
    """Return the offset after the longest prefix of records of at most `excess_bytes`."""
    base = first_record_id(bounds.partition_id)
    low, end = base + bounds.log_start_offset, base + bounds.log_end_offset
    while rows := tx.connection.execute(_SIZES, {"low": low, "high": end}).all():
        for record_id, size_bytes in rows:
            excess_bytes -= size_bytes
            if excess_bytes < 0:
                return int(record_id - base)
        low = record_id + 1
    return bounds.log_end_offset


def extents(tx: Tx, partition_ids: Sequence[int]) -> list[Extent]:
    """Return the bounds and sizes of partitions, in any order; a deleted partition is missing."""
    return [
        Extent(partition_id, log_start_offset, log_end_of(log_start_offset, last_id), int(size_bytes))
        for partition_id, log_start_offset, last_id, size_bytes in tx.connection.execute(
            _EXTENTS, {"ids": list(partition_ids)}
        )
    ]


def _search(tx: Tx, statement: Select[int], low: int, end: int, value: int) -> int:
    """Return the record_id that the bisection finds, or `end` if no record reaches the value."""
    if low >= end:
        return end
    found = tx.connection.execute(statement, {"low": low, "high": end, "end": end, "value": value}).one()
    return found[0]
