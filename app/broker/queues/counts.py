"""Count the records of a queue by state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.domain.queues.in_flight import (
    DeliveryRules,
    InFlightRecord,
    available,
    first_offset_by_key,
    is_acquired,
    is_delayed,
    waiting_behind,
    will_be_archived,
)
from app.domain.queues.queue import QueueInfo
from app.domain.queues.share_partition_state import MAX_DELAYED_RECORDS, MAX_REFERENCES, SharePartitionState
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import pages
from app.storage.log.pages import Bounds
from app.storage.queues import delayed_records, share_partitions
from app.storage.queues.delayed_records import DelayedTotals
from app.storage.queues.share_partitions import SharePartitionKey


class QueueState(NamedTuple):
    """The number of records of a queue by state at one time.

    Attributes:
        available: Records that may be acquired; an upper bound if compaction has made gaps.
        delayed: Records that become available at a later time.
        accepted, archived, expired: Records that have ended since the queue was created.
        oldest_age_ms: Age of the oldest among the first records of each partition that have not ended, or None.
        blocked: Whether there are available records, and their order allows none to be acquired now.
        dead_letter_error: Why archiving failed last in a partition, or None.
        delayed_limit_reached: Whether no further record can be delayed.
    """

    available: int
    acquired: int
    delayed: int
    accepted: int
    archived: int
    expired: int
    oldest_age_ms: int | None
    blocked: bool
    dead_letter_error: str | None
    delayed_limit_reached: bool


def describe(tx: Tx, info: QueueInfo, time: Callable[[Tx], int] = clock.read) -> QueueState:
    """Count the records of a queue in one snapshot.

    Args:
        tx: A read transaction.
        info: The queue.
        time: Clock; the default is the database's.
    """
    rules = info.config.rules
    states = share_partitions.list_(tx, info.queue_id)
    found = pages.bounds(tx, [state.partition_id for state in states]) if states else {}
    now_ms = time(tx)
    counts = _Counts(rules, now_ms)
    for state in states:
        if (bounds := found.get(state.partition_id)) is not None:
            key = SharePartitionKey(info.queue_id, state.partition_id)
            counts.add(state, bounds)
            counts.add_oldest(_oldest_ms(tx, state, bounds))
            if state.has_rows:
                counts.add_delayed(delayed_records.totals(tx, key, now_ms))
            counts.dead_letter_error = counts.dead_letter_error or _dead_letter_error(tx, key, state)
    blocked = rules.ordered and counts.available > 0 and _is_blocked(tx, info, states, found, now_ms)
    return counts.result(blocked=blocked)


def _dead_letter_error(tx: Tx, key: SharePartitionKey, state: SharePartitionState) -> str | None:
    """Return the error of the last archiving, or None if the record that it concerns has ended."""
    offset = state.refused_offset
    if state.dead_letter_error is None or offset is None or offset in state.entries:
        return state.dead_letter_error
    is_delayed_still = any(each.entry.offset == offset for each in delayed_records.list_summaries(tx, key, offset, 1))
    return state.dead_letter_error if is_delayed_still else None


def _oldest_ms(tx: Tx, state: SharePartitionState, bounds: Bounds) -> int | None:
    """Return the timestamp of the record with the lowest offset that has not ended, delayed records excluded."""
    first = max(min(state.entries, default=state.end_offset), bounds.log_start_offset)
    page = pages.read(tx, bounds, first, 1, 1)
    return page[0].timestamp_ms if page else None


def _is_blocked(
    tx: Tx, info: QueueInfo, states: Sequence[SharePartitionState], found: dict[int, Bounds], now_ms: int
) -> bool:
    """Return whether the order of keys or partitions keeps an acquire from finding any record now."""
    rules, references = info.config.rules, sum(state.references for state in states)
    for state in states:
        bounds = found.get(state.partition_id)
        if bounds is None:
            continue
        if state.room(rules) and state.end_offset < bounds.log_end_offset:
            return False
        key = SharePartitionKey(info.queue_id, state.partition_id)
        entries = state.entries.values()
        first_delayed = delayed_records.first_offsets(tx, key, {entry.key_hash for entry in entries})
        may_leave = waiting_behind(entries, first_delayed, now_ms) if references < MAX_REFERENCES else ()
        if state.end_offset < bounds.log_end_offset and any(True for _ in may_leave):
            return False
        if any(True for _ in available(entries, rules, now_ms, first_delayed)):
            return False
        if state.has_rows and _has_due(tx, key, state, rules, now_ms):
            return False
    return True


def _has_due(tx: Tx, key: SharePartitionKey, state: SharePartitionState, rules: DeliveryRules, now_ms: int) -> bool:
    """Return whether a delayed record is due that no in-flight record of its key blocks."""
    first = first_offset_by_key(state.entries.values())
    due = delayed_records.due(tx, key, rules, now_ms, len(first) + 1)
    return any(first.get(each.entry.key_hash, each.entry.offset) >= each.entry.offset for each in due)


class _Counts:
    """Sums over the share partitions of a queue."""

    def __init__(self, rules: DeliveryRules, now_ms: int) -> None:
        self._rules = rules
        self._now_ms = now_ms
        self._oldest_ms: int | None = None
        self._delayed_rows = 0
        self.available = self.acquired = self.delayed = 0
        self.accepted = self.archived = self.expired = 0
        self.dead_letter_error: str | None = None

    def add(self, state: SharePartitionState, bounds: Bounds) -> None:
        """Add a share partition without its delayed records."""
        self.accepted += state.accepted
        self.archived += state.archived
        self._delayed_rows += state.delayed
        expired = set(state.expired_offsets(bounds.log_start_offset, self._now_ms))
        end_offset = max(state.end_offset, bounds.log_start_offset)
        self.expired += state.expired + len(expired) + end_offset - state.end_offset
        self.available += max(0, bounds.log_end_offset - end_offset)
        for offset, entry in state.entries.items():
            if offset not in expired:
                self._add_entry(entry)

    def add_delayed(self, totals: DelayedTotals) -> None:
        """Add the delayed records of a share partition."""
        self.available += totals.available
        self.delayed += totals.delayed
        for entry in totals.delivered:
            self._add_entry(entry)
        self.add_oldest(totals.oldest_ms)

    def add_oldest(self, timestamp_ms: int | None) -> None:
        """Add the timestamp of a record that has not ended."""
        if timestamp_ms is not None:
            self._oldest_ms = timestamp_ms if self._oldest_ms is None else min(self._oldest_ms, timestamp_ms)

    def result(self, *, blocked: bool) -> QueueState:
        """Return the sums."""
        return QueueState(
            self.available,
            self.acquired,
            self.delayed,
            self.accepted,
            self.archived,
            self.expired,
            None if self._oldest_ms is None else max(0, self._now_ms - self._oldest_ms),
            blocked,
            self.dead_letter_error,
            self._delayed_rows >= MAX_DELAYED_RECORDS,
        )

    def _add_entry(self, entry: InFlightRecord) -> None:
        if is_acquired(entry, self._now_ms):
            self.acquired += 1
        elif will_be_archived(entry, self._rules):
            self.archived += 1
        elif is_delayed(entry, self._now_ms):
            self.delayed += 1
        else:
            self.available += 1
