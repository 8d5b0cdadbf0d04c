"""Records at given offsets of a partition, read in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

from sqlalchemy import BigInteger, bindparam, select

from app.domain.log.record import StoredRecord
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import first_record_id, records
from app.storage.db.transaction import Tx
from app.storage.log.appends import size_of_record
from app.storage.log.pages import Bounds

_SIZES = CompiledStatement(
    select(records.c.record_id, size_of_record).where(records.c.record_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)
_offset = (records.c.record_id - bindparam("base", type_=BigInteger)).label("offset")
_KEYS = CompiledStatement(
    select(_offset, records.c.key, records.c.headers)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(bindparam("at_most"))
)
_RECORDS = CompiledStatement(
    select(
        records.c.record_id,
        records.c.timestamp_ms,
        records.c.encoding,
        records.c.key,
        records.c.value,
        records.c.headers,
        records.c.start_bytes,
    ).where(records.c.record_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)

_record = partial(tuple.__new__, StoredRecord)

_LONGEST_LIST = 500
_WIDEST_STEP = 1 << 20


def sizes(tx: Tx, partition_id: int, offsets: Sequence[int]) -> dict[int, int]:
    """Return the bytes of the records at up to 500 offsets, without reading them; deleted records are missing."""
    if not offsets:
        return {}
    base = first_record_id(partition_id)
    rows = _SIZES.rows(tx, {"ids": [base + offset for offset in offsets]})
    return {record_id - base: size_bytes for record_id, size_bytes in rows}


def fitting(size_by_offset: Mapping[int, int], max_bytes: int) -> list[int]:
    """Return the first offsets whose records have at most `max_bytes` together, and at least one if there is one."""
    chosen: list[int] = []
    for offset, size_bytes in size_by_offset.items():
        max_bytes -= size_bytes
        if chosen and max_bytes < 0:
            break
        chosen.append(offset)
    return chosen


def read_bounded(
    tx: Tx, partition_id: int, offsets: Iterable[int], wanted: int, max_bytes: int
) -> Iterator[StoredRecord]:
    """Yield the records at some offsets, in the order given; deleted records are left out.

    Args:
        tx: A transaction.
        partition_id: Of the partition.
        offsets: Of the records.
        wanted: How many records the caller expects to use; it may take more.
        max_bytes: Bytes of records in memory at once, unless a single record has more.
    """
    rest = iter(offsets)
    while chunk := list(islice(rest, min(wanted, _LONGEST_LIST))):
        found = sizes(tx, partition_id, chunk)
        left = {offset: found[offset] for offset in chunk if offset in found}
        while chosen := fitting(left, max_bytes):
            page = read(tx, partition_id, chosen)
            for offset in chosen:
                del left[offset]
                if offset in page:
                    yield page.pop(offset)


def read(tx: Tx, partition_id: int, offsets: Iterable[int]) -> dict[int, StoredRecord]:
    """Return the records at some offsets of a partition; deleted records are missing."""
    base = first_record_id(partition_id)
    ids = [base + offset for offset in offsets]
    found: dict[int, StoredRecord] = {}
    for start in range(0, len(ids), _LONGEST_LIST):
        for record_id, *columns in _RECORDS.rows(tx, {"ids": ids[start : start + _LONGEST_LIST]}):
            found[record_id - base] = _record((record_id - base, *columns))
    return found


def keys(tx: Tx, bounds: Bounds, offset: int, limit: int) -> tuple[list[tuple[int, bytes | None, bytes | None]], int]:
    """Return offset, key and headers of up to `limit` records from an offset on, and the offset after the last one.

    Over the gaps of compaction the ranges grow, as in a page.
    """
    base = first_record_id(bounds.partition_id)
    found: list[tuple[int, bytes | None, bytes | None]] = []
    step = limit
    while offset < bounds.log_end_offset and len(found) < limit:
        end = min(offset + step, bounds.log_end_offset)
        span = {"base": base, "low": base + offset, "high": base + end, "at_most": limit - len(found)}
        rows = _KEYS.rows(tx, span)
        found += [(found_offset, key, headers) for found_offset, key, headers in rows]
        offset = found[-1][0] + 1 if len(found) == limit and rows else end
        step = min(step * 4, _WIDEST_STEP)
    return found, offset
