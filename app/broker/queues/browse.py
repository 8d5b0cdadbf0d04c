"""Read the records of a queue by state, without acquiring them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from app.domain.log.record import StoredRecord
from app.domain.queues.delivery_id import DeliveryId
from app.domain.queues.in_flight import InFlightRecord, archive_reason, is_acquired, is_delayed, will_be_archived
from app.domain.queues.queue import QueueInfo
from app.domain.queues.share_partition_state import SharePartitionState
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import pages, records_by_offset
from app.storage.log.pages import Bounds
from app.storage.queues import archives, delayed_records, share_partitions
from app.storage.queues.archives import ARCHIVES_KEPT
from app.storage.queues.delayed_records import DelayedSummary
from app.storage.queues.share_partitions import SharePartitionKey

StateName = Literal["available", "acquired", "delayed", "archived"]

_MAX_BYTES = 4 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_SUMMARIES_AT_ONCE = 1_000
_SIZES_AT_ONCE = 500


class BrowsedRecord(NamedTuple):
    """A record of a queue with its state.

    Attributes:
        until_ms: End of the lock, end of the delay, or time of archiving; 0 for none.
        delivery_id: Id of the current delivery, or None.
        reason: Why the record was archived, or None.
    """

    partition: int
    record: StoredRecord
    state: StateName
    delivery_count: int
    until_ms: int
    delivery_id: DeliveryId | None = None
    reason: str | None = None


class BrowsePage(NamedTuple):
    """A page of records in order of partition and offset; `next_start` is where the next page starts, or None."""

    records: list[BrowsedRecord]
    next_start: tuple[int, int] | None


def browse(tx: Tx, queue: QueueInfo, state: StateName, start: tuple[int, int], limit: int) -> BrowsePage:
    """Return up to `limit` records of a state, read from one snapshot.

    Args:
        tx: A read transaction.
        queue: The queue.
        state: State of the records; `archived` are those archived last that the log still has.
        start: Partition and offset to start from.
        limit: How many records; a page also ends at 4 MB, except for its first record.
    """
    states = {each.partition_id: each for each in share_partitions.list_(tx, queue.queue_id)}
    found = pages.bounds(tx, list(states)) if states else {}
    now_ms = clock.read(tx)
    records: list[BrowsedRecord] = []
    left_bytes = _MAX_BYTES
    start_partition, start_offset = start
    for bounds in sorted(found.values(), key=lambda each: each.partition):
        if bounds.partition < start_partition:
            continue
        offset = start_offset if bounds.partition == start_partition else 0
        browser = _Browser(tx, queue, states[bounds.partition_id], bounds, now_ms)
        for each in browser.records(state, offset, limit + 1 - len(records)):
            left_bytes -= each.record.size_bytes
            if len(records) >= limit or (records and left_bytes < 0):
                return BrowsePage(records, (bounds.partition, each.record.offset))
            records.append(each)
    return BrowsePage(records, None)


class _Browser:
    """Reads one share partition."""

    def __init__(
        self, tx: Tx, queue: QueueInfo, share_partition: SharePartitionState, bounds: Bounds, now_ms: int
    ) -> None:
        self._tx = tx
        self._queue = queue
        self._share_partition = share_partition
        self._bounds = bounds
        self._now_ms = now_ms
        self._rules = queue.config.rules
        self._key = SharePartitionKey(queue.queue_id, bounds.partition_id)

    def records(self, state: StateName, offset: int, wanted: int) -> Iterator[BrowsedRecord]:
        """Yield the records of a state from an offset on, in ascending order of offsets.

        They are read step by step; `wanted` is how many the caller is likely to take. Records that the log has no more
        are left out.
        """
        parts = [self._in_flight(state, offset, wanted), self._delayed(state, offset, wanted)]
        if state == "archived":
            parts.append(self._archived(offset, wanted))
        yield from heapq.merge(*parts, key=lambda each: each.record.offset)
        if state == "available":
            yield from self._not_admitted(offset, wanted)

    def _in_flight(self, state: StateName, offset: int, wanted: int) -> Iterator[BrowsedRecord]:
        expired = set(self._share_partition.expired_offsets(self._bounds.log_start_offset, self._now_ms))
        found = {
            entry.offset: entry
            for entry in self._share_partition.entries.values()
            if entry.offset >= offset and entry.offset not in expired and self._state(entry) == state
        }
        for record in records_by_offset.read_bounded(
            self._tx, self._bounds.partition_id, sorted(found), wanted, _READ_BYTES
        ):
            yield self._browsed(found[record.offset], record, state)

    def _delayed(self, state: StateName, offset: int, wanted: int) -> Iterator[BrowsedRecord]:
        has_more = self._share_partition.has_rows
        while has_more:
            summaries = delayed_records.list_summaries(self._tx, self._key, offset, _SUMMARIES_AT_ONCE)
            entries = {each.entry.offset: each.entry for each in summaries if self._state(each.entry) == state}
            left = self._sizes([each for each in summaries if each.entry.offset in entries])
            while chosen := records_by_offset.fitting(left, _READ_BYTES)[:wanted]:
                copies = delayed_records.read(self._tx, self._key, chosen)
                records = {offset: copy.record for offset, copy in copies.items()}
                rest = [offset for offset in chosen if offset not in records]
                records |= records_by_offset.read(self._tx, self._bounds.partition_id, rest)
                for each in chosen:
                    del left[each]
                    if (record := records.pop(each, None)) is not None:
                        yield self._browsed(entries[each], record, state)
            has_more = len(summaries) == _SUMMARIES_AT_ONCE
            offset = summaries[-1].entry.offset + 1 if summaries else offset

    def _sizes(self, summaries: Sequence[DelayedSummary]) -> dict[int, int]:
        """Return the bytes of records by offset, in ascending order; references to deleted records are left out."""
        references = [each.entry.offset for each in summaries if each.size_bytes is None]
        sizes = {each.entry.offset: each.size_bytes for each in summaries}
        for start in range(0, len(references), _SIZES_AT_ONCE):
            some = references[start : start + _SIZES_AT_ONCE]
            sizes |= records_by_offset.sizes(self._tx, self._bounds.partition_id, some)
        return {offset: size for offset, size in sizes.items() if size is not None}

    def _archived(self, offset: int, wanted: int) -> Iterator[BrowsedRecord]:
        first = max(offset, self._bounds.log_start_offset)
        found = {each.offset: each for each in archives.read(self._tx, self._key, first, ARCHIVES_KEPT)}
        for record in records_by_offset.read_bounded(self._tx, self._bounds.partition_id, found, wanted, _READ_BYTES):
            each = found[record.offset]
            yield BrowsedRecord(
                self._bounds.partition,
                record,
                "archived",
                each.delivery_count,
                each.archived_at_ms,
                reason=each.reason,
            )

    def _not_admitted(self, offset: int, wanted: int) -> Iterator[BrowsedRecord]:
        """Yield the records of the log from `end_offset` on, all of which are available."""
        first = max(offset, self._share_partition.end_offset, self._bounds.log_start_offset)
        while page := pages.read(self._tx, self._bounds, first, wanted, _READ_BYTES):
            for record in page:
                yield BrowsedRecord(self._bounds.partition, record, "available", 0, 0)
            first = page[-1].offset + 1

    def _browsed(self, entry: InFlightRecord, record: StoredRecord, state: StateName) -> BrowsedRecord:
        delivery_id = None
        if state == "acquired":
            delivery_id = DeliveryId(self._queue.queue_id, self._bounds.partition, entry.offset, entry.delivery_count)
        reason = archive_reason(entry) if state == "archived" else None
        until_ms = entry.until_ms if entry.until_ms > self._now_ms or state == "archived" else 0
        return BrowsedRecord(self._bounds.partition, record, state, entry.delivery_count, until_ms, delivery_id, reason)

    def _state(self, entry: InFlightRecord) -> StateName:
        if is_acquired(entry, self._now_ms):
            return "acquired"
        if will_be_archived(entry, self._rules):
            return "archived"
        return "delayed" if is_delayed(entry, self._now_ms) else "available"
