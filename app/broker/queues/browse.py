"""Looking at the records of a queue without taking them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Literal, NamedTuple

from app.domain.log.record import StoredRecord
from app.domain.queues import in_flight as rules_of
from app.domain.queues.in_flight import DeliveryRules, InFlightRecord
from app.domain.queues.queue import DeliveryId, QueueInfo
from app.storage.db import clock
from app.storage.db.engine import Tx
from app.storage.log import pages, records_by_offset
from app.storage.log.pages import Bounds
from app.storage.queues import archives, delayed_records, share_partitions
from app.storage.queues.archives import ARCHIVES_KEPT
from app.storage.queues.delayed_records import SharePartitionKey
from app.storage.queues.share_partitions import SharePartitionState

StateName = Literal["available", "acquired", "delayed", "archived"]

_MAX_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_COPIES_AT_ONCE = 1_000


class Seen(NamedTuple):
    """A record of a queue, and what the queue knows of it.

    Attributes:
        until_ms: End of the lock, time before which it is not delivered, or time of archiving; 0 for none.
        delivery_id: Of the running delivery, or None.
        reason: Why it was archived, or None.
    """

    partition: int
    record: StoredRecord
    state: StateName
    delivery_count: int
    until_ms: int
    delivery_id: DeliveryId | None = None
    reason: str | None = None


class SeenPage(NamedTuple):
    """A page of records in order of partition and offset, and where the next one begins, if there is one."""

    records: list[Seen]
    next_place: tuple[int, int] | None


def browse(tx: Tx, queue: QueueInfo, state: StateName, place: tuple[int, int], limit: int) -> SeenPage:
    """Return up to `limit` records of a state from a place (partition and offset) on, on one snapshot.

    A page has 4 MB at most, or one record. Archived are those archived last that the log still has.
    """
    all_windows = {window.partition_id: window for window in share_partitions.all_(tx, queue.queue_id)}
    found = pages.bounds(tx, list(all_windows)) if all_windows else {}
    now_ms = clock.read(tx)
    seen: list[Seen] = []
    left_bytes = _MAX_BYTES
    for bounds in sorted(found.values(), key=lambda each: each.partition):
        if bounds.partition < place[0]:
            continue
        offset = place[1] if bounds.partition == place[0] else 0
        eye = _Browser(tx, queue, all_windows[bounds.partition_id], bounds, now_ms)
        for each in eye.look(state, offset, limit + 1 - len(seen)):
            left_bytes -= each.record.size_bytes
            if len(seen) >= limit or (seen and left_bytes < 0):
                return SeenPage(seen, (bounds.partition, each.record.offset))
            seen.append(each)
    return SeenPage(seen, None)


class _Browser:
    """Looks at one window."""

    def __init__(self, tx: Tx, queue: QueueInfo, window: SharePartitionState, bounds: Bounds, now_ms: int) -> None:
        self._tx = tx
        self._queue = queue
        self._window = window
        self._bounds = bounds
        self._now_ms = now_ms
        self._rules: DeliveryRules = queue.config.rules
        self._place = SharePartitionKey(queue.queue_id, bounds.partition_id)

    def look(self, state: StateName, offset: int, wanted: int) -> Iterator[Seen]:
        """Yield all records of a state from an offset on, in order, read as they are asked for.

        `wanted` says how many are likely to be asked for. Records that the log has no more are left out.
        """
        kinds = [self._entries(state, offset, wanted), self._copies(state, offset, wanted)]
        if state == "archived":
            kinds.append(self._archives(offset, wanted))
        yield from heapq.merge(*kinds, key=lambda each: each.record.offset)
        if state == "available":
            yield from self._unlooked(offset, wanted)

    def _entries(self, state: StateName, offset: int, wanted: int) -> Iterator[Seen]:
        """Yield records of the window."""
        first = max(offset, self._bounds.log_start_offset)
        found = {
            entry.offset: entry
            for entry in self._window.entries.values()
            if entry.offset >= first and self._state(entry) == state
        }
        for record in records_by_offset.read_bounded(
            self._tx, self._bounds.partition_id, sorted(found), wanted, _CHUNK_BYTES
        ):
            yield self._seen(found[record.offset], record, state)

    def _copies(self, state: StateName, offset: int, wanted: int) -> Iterator[Seen]:
        """Yield delayed records."""
        more = self._window.delayed > 0
        while more:
            some = delayed_records.summaries(self._tx, self._place, offset, _COPIES_AT_ONCE)
            left = {each.entry.offset: each.size_bytes for each in some if self._state(each.entry) == state}
            while chosen := records_by_offset.fitting(left, _CHUNK_BYTES)[:wanted]:
                found = delayed_records.at(self._tx, self._place, chosen)
                for each in chosen:
                    del left[each]
                    copy = found.pop(each)
                    yield self._seen(copy.entry, copy.record, state)
            more = len(some) == _COPIES_AT_ONCE
            offset = some[-1].entry.offset + 1 if some else offset

    def _archives(self, offset: int, wanted: int) -> Iterator[Seen]:
        """Yield records that were archived."""
        first = max(offset, self._bounds.log_start_offset)
        found = {each.offset: each for each in archives.read(self._tx, self._place, first, ARCHIVES_KEPT)}
        for record in records_by_offset.read_bounded(self._tx, self._bounds.partition_id, found, wanted, _CHUNK_BYTES):
            each = found[record.offset]
            yield Seen(
                self._bounds.partition,
                record,
                "archived",
                each.delivery_count,
                each.archived_at_ms,
                reason=each.reason,
            )

    def _unlooked(self, offset: int, wanted: int) -> Iterator[Seen]:
        """Yield records that are still to come into the window."""
        first = max(offset, self._window.end_offset, self._bounds.log_start_offset)
        while page := pages.read(self._tx, self._bounds, first, wanted, _CHUNK_BYTES):
            for record in page:
                yield Seen(self._bounds.partition, record, "available", 0, 0)
            first = page[-1].offset + 1

    def _seen(self, entry: InFlightRecord, record: StoredRecord, state: StateName) -> Seen:
        delivery_id = None
        if state == "acquired":
            delivery_id = DeliveryId(self._queue.queue_id, self._bounds.partition, entry.offset, entry.delivery_count)
        reason = rules_of.reason_of(entry) if state == "archived" else None
        until_ms = entry.until_ms if entry.until_ms > self._now_ms or state == "archived" else 0
        return Seen(self._bounds.partition, record, state, entry.delivery_count, until_ms, delivery_id, reason)

    def _state(self, entry: InFlightRecord) -> StateName:
        if rules_of.is_held(entry, self._now_ms):
            return "acquired"
        if rules_of.is_last(entry, self._rules):
            return "archived"
        return "delayed" if rules_of.is_delayed(entry, self._now_ms) else "available"
