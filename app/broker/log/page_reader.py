"""Read one page of a partition, or of a whole topic merged by time, on one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Literal, NamedTuple

from app.broker.log.topics import StaleTopic
from app.domain.log.cursor import Cursor
from app.domain.log.offset_spec import At, OffsetSpec
from app.domain.log.record import StoredRecord
from app.domain.log.topic import TopicInfo
from app.errors.log import InvalidCursor, OffsetAboveLogEnd, OffsetBelowLogStart, UnknownTopicOrPartition
from app.storage.db.transaction import Tx
from app.storage.log import offset_lookup, pages
from app.storage.log.pages import Bounds

OffsetReset = Literal["earliest", "latest"]


class PageSize(NamedTuple):
    """Bounds of a page; at least one record is returned if there is one."""

    max_records: int
    max_bytes: int
    min_bytes: int


class PartitionPage(NamedTuple):
    """Records of one partition and its bounds, on one snapshot.

    Attributes:
        start_offset: Where the page begins.
        enough: Whether the page has `min_bytes` or is full.
        info: The topic as it was read.
    """

    partition: int
    records: list[StoredRecord]
    start_offset: int
    next_offset: int
    log_start_offset: int
    log_end_offset: int
    enough: bool
    info: TopicInfo


class TopicPage(NamedTuple):
    """Records of all partitions with the partition of each, merged by time.

    Attributes:
        start_offsets: Offset of each partition where the page begins.
        next_offsets: Offset of each partition where the next page begins.
        log_end_offsets: Log end of each partition.
        enough: Whether the page has `min_bytes` or is full.
        info: The topic as it was read.
    """

    records: list[tuple[int, StoredRecord]]
    start_offsets: list[int]
    next_offsets: list[int]
    log_end_offsets: list[int]
    enough: bool
    info: TopicInfo


def read_partition(
    tx: Tx,
    info: TopicInfo,
    partition: int,
    start: OffsetSpec,
    size: PageSize,
    reset: OffsetReset | None,
    *,
    peek: bool,
) -> PartitionPage:
    """Return a page of a partition; with `peek`, one without records if they are certainly not enough.

    Raises:
        UnknownTopicOrPartition: The topic was deleted.
        OffsetBelowLogStart, OffsetAboveLogEnd: Without `reset`, with the bounds.
    """
    partition_id = info.partition_ids[partition]
    bounds = pages.bounds(tx, [partition_id]).get(partition_id)
    if bounds is None or bounds.topic_id != info.topic_id:
        raise UnknownTopicOrPartition("the topic was deleted")
    offset = _start_offset(tx, bounds, start, reset)
    first, end = bounds.log_start_offset, bounds.log_end_offset
    fewest = min(size.min_bytes, size.max_records + 1)
    if peek and end - offset < fewest and pages.size_from(tx, bounds, offset) < size.min_bytes:
        return PartitionPage(partition, [], offset, offset, first, end, enough=False, info=info)
    records = pages.read(tx, bounds, offset, size.max_records, size.max_bytes)
    next_offset = records[-1].offset + 1 if records else offset
    enough = _is_enough(records, size.min_bytes, more=next_offset < end)
    return PartitionPage(partition, records, offset, next_offset, first, end, enough, info)


def read_topic(
    tx: Tx, info: TopicInfo, start: OffsetSpec | Cursor, size: PageSize, reset: OffsetReset | None
) -> TopicPage:
    """Return a page of all partitions, merged by time; each with unread records has a share of it.

    Raises:
        StaleTopic: The topic has other partitions than `info`, or was deleted.
        OffsetBelowLogStart, OffsetAboveLogEnd: Without `reset`, with the partition and its bounds.
        InvalidCursor: The cursor has more partitions than the topic.
    """
    found = pages.bounds(tx, info.partition_ids)
    if len(found) < info.partitions or found[info.partition_ids[0]].version != info.version:
        raise StaleTopic
    bounds = [found[partition_id] for partition_id in info.partition_ids]
    specs = _offset_specs(info, start)
    starts = [_start_offset(tx, one, spec, reset) for one, spec in zip(bounds, specs, strict=True)]
    shares = shares_of(tx, bounds, starts, size)
    records = _merge(shares, size.max_records, size.max_bytes)
    next_offsets = list(starts)
    for partition, record in records:
        next_offsets[partition] = record.offset + 1
    more = any(offset < one.log_end_offset for offset, one in zip(next_offsets, bounds, strict=True))
    return TopicPage(
        records,
        starts,
        next_offsets,
        [one.log_end_offset for one in bounds],
        _is_enough([record for _, record in records], size.min_bytes, more=more),
        info,
    )


def _offset_specs(info: TopicInfo, start: OffsetSpec | Cursor) -> Sequence[OffsetSpec]:
    if not isinstance(start, Cursor):
        return [start] * info.partitions
    if len(start.offsets) > info.partitions:
        raise InvalidCursor("the cursor has more partitions than the topic")
    added = info.partitions - len(start.offsets)
    return [At(offset) if offset >= 0 else start.rest for offset in start.offsets] + [start.rest] * added


def _start_offset(tx: Tx, bounds: Bounds, spec: OffsetSpec, reset: OffsetReset | None) -> int:
    """Return the offset at which a page starts. An offset out of bounds is reset, or refused without `reset`."""
    first, end = bounds.log_start_offset, bounds.log_end_offset
    offset = offset_lookup.resolve(tx, bounds, spec)
    if first <= offset <= end:
        return offset
    if reset is not None:
        return first if reset == "earliest" else end
    error = OffsetBelowLogStart if offset < first else OffsetAboveLogEnd
    held = "has no records" if first == end else f"has the offsets {first} to {end - 1}"
    raise error(
        f"partition {bounds.partition} {held}, and the next record gets {end}; "
        "with offset_reset=earliest or offset_reset=latest the read starts there",
        partition=bounds.partition,
        log_start_offset=first,
        log_end_offset=end,
    )


def _is_enough(records: Sequence[StoredRecord], min_bytes: int, *, more: bool) -> bool:
    """Return whether a page has `min_bytes` or is full. Each record counts as at least one byte."""
    if not records:
        return min_bytes == 0
    return more or len(records) >= min_bytes or sum(record.size_bytes for record in records) >= min_bytes


def shares_of(
    tx: Tx, bounds: Sequence[Bounds], starts: Sequence[int], size: PageSize, *, in_order: bool = False
) -> Mapping[int, list[StoredRecord]]:
    """Read the share of each partition in a page: equal shares first, then what other partitions leave.

    If large records fill the page before each partition has had a share, the next page begins with another partition.
    With `in_order`, each page begins with the first of `bounds`, and the caller rotates their order.
    """
    offsets = list(starts)
    shares: dict[int, list[StoredRecord]] = {}
    left_records, left_bytes = size.max_records, size.max_bytes
    while left_records > 0 and left_bytes > 0:
        unread = [number for number, one in enumerate(bounds) if offsets[number] < one.log_end_offset]
        if not unread:
            break
        share_records, share_bytes = max(1, left_records // len(unread)), max(1, left_bytes // len(unread))
        first = 0 if in_order else sum(starts) % len(unread)
        for number in unread[first:] + unread[:first]:
            if left_bytes <= 0:
                break
            records = pages.read(tx, bounds[number], offsets[number], share_records, share_bytes)
            shares.setdefault(number, []).extend(records)
            offsets[number] = records[-1].offset + 1
            left_records -= len(records)
            left_bytes -= sum(record.size_bytes for record in records)
    return shares


def _merge(
    shares: Mapping[int, list[StoredRecord]], max_records: int, max_bytes: int
) -> list[tuple[int, StoredRecord]]:
    """Merge by time up to the bounds of a page, and keep the order within each partition."""
    heads = [(records[0].timestamp_ms, partition, 0) for partition, records in shares.items()]
    heapify(heads)
    merged: list[tuple[int, StoredRecord]] = []
    while heads and len(merged) < max_records:
        _, partition, index = heads[0]
        records = shares[partition]
        record = records[index]
        max_bytes -= record.size_bytes
        if merged and max_bytes < 0:
            break
        merged.append((partition, record))
        if index + 1 < len(records):
            heapreplace(heads, (records[index + 1].timestamp_ms, partition, index + 1))
        else:
            heappop(heads)
    return merged
