"""Records at given offsets of a partition, read in stretches that are bounded by their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from sqlalchemy import bindparam, select

from app.domain.log.record import StoredRecord
from app.storage.db.engine import Query, Tx
from app.storage.db.tables import OFFSET_BITS, records
from app.storage.log.appends import size_of_record
from app.storage.queues import share_partitions

_SIZES = Query(
    select(records.c.record_id, size_of_record).where(records.c.record_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)
_LONGEST_LIST = 500


def sizes(tx: Tx, partition_id: int, offsets: Sequence[int]) -> dict[int, int]:
    """Return the bytes of the records at up to 500 offsets, none of which is read; those that are gone are missing."""
    if not offsets:
        return {}
    base = partition_id << OFFSET_BITS
    return {row[0] - base: row[1] for row in _SIZES.rows(tx, {"ids": [base + offset for offset in offsets]})}


def fitting(sizes_: Mapping[int, int], max_bytes: int) -> list[int]:
    """Return the offsets, from the first on, whose records have `max_bytes` together; one at least if there is one."""
    chosen: list[int] = []
    for offset, size_bytes in sizes_.items():
        max_bytes -= size_bytes
        if chosen and max_bytes < 0:
            break
        chosen.append(offset)
    return chosen


def read(tx: Tx, partition_id: int, offsets: Iterable[int], wanted: int, max_bytes: int) -> Iterator[StoredRecord]:
    """Yield the records at some offsets, in that order; those that are gone are left out.

    Args:
        tx: A transaction.
        partition_id: Of the partition.
        offsets: Which ones.
        wanted: How many the caller is likely to want; more are read if it goes on.
        max_bytes: How much of them is in memory at once, unless one alone has more.
    """
    rest = iter(offsets)
    while some := list(islice(rest, min(wanted, _LONGEST_LIST))):
        found = sizes(tx, partition_id, some)
        left = {offset: found[offset] for offset in some if offset in found}
        while chosen := fitting(left, max_bytes):
            page = share_partitions.read(tx, partition_id, chosen)
            for offset in chosen:
                del left[offset]
                if offset in page:
                    yield page.pop(offset)
