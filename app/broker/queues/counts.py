"""How many records of a queue are in which state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from app.domain.queues import in_flight as rules_of
from app.domain.queues.in_flight import DeliveryRules, InFlightRecord
from app.domain.queues.queue import MAX_COPIES, QueueInfo
from app.storage.db import clock
from app.storage.db.engine import Tx
from app.storage.log import pages
from app.storage.log.pages import Bounds
from app.storage.queues import delayed_records, share_partitions
from app.storage.queues.delayed_records import DelayedTotals, SharePartitionKey
from app.storage.queues.share_partitions import SharePartitionState


class QueueState(NamedTuple):
    """How many records of a queue are in which state at one moment.

    Attributes:
        available: Records that wait for a worker; an upper bound where compaction made gaps.
        delayed: Records that wait for a time.
        accepted, archived, expired: Since the queue was created.
        oldest_age_ms: Age of the oldest among the first records of the partitions that have not ended, or None.
        blocked: Whether records wait and none of them may be acquired now, because of the order of their keys.
        dead_letter_error: Why the last archiving of a partition was refused, or None.
        delayed_limit_reached: Whether no more records are taken in that are to be delayed.
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
    """Count the records of a queue, on one snapshot."""
    rules = info.config.rules
    all_windows = share_partitions.all_(tx, info.queue_id)
    found = pages.bounds(tx, [window.partition_id for window in all_windows]) if all_windows else {}
    now_ms = time(tx)
    tally = _Tally(rules, now_ms)
    for window in all_windows:
        if (bounds := found.get(window.partition_id)) is not None:
            tally.add(window, bounds)
            tally.see(_oldest(tx, window, bounds))
            place = SharePartitionKey(info.queue_id, window.partition_id)
            if window.delayed:
                tally.add_copies(delayed_records.totals(tx, place, now_ms))
            tally.dead_letter_error = tally.dead_letter_error or _error_of(tx, place, window)
    return tally.state(
        blocked=rules.by_key and tally.available > 0 and _nothing_free(tx, info, all_windows, found, now_ms)
    )


def _error_of(tx: Tx, place: SharePartitionKey, window: SharePartitionState) -> str | None:
    """Return why the last archiving was refused, unless the record that it was of has ended since."""
    offset = window.refused_offset
    if window.dead_letter_error is None or offset is None or offset in window.entries:
        return window.dead_letter_error
    copy = next(iter(delayed_records.summaries(tx, place, offset, 1)), None)
    return window.dead_letter_error if copy is not None and copy.entry.offset == offset else None


def _oldest(tx: Tx, window: SharePartitionState, bounds: Bounds) -> int | None:
    """Return the timestamp of the first record by offset that has not ended, delayed ones left aside."""
    first = max(min(window.entries, default=window.end_offset), bounds.log_start_offset)
    page = pages.read(tx, bounds, first, 1, 1)
    return page[0].timestamp_ms if page else None


def _nothing_free(
    tx: Tx, info: QueueInfo, all_windows: Iterable[SharePartitionState], found: dict[int, Bounds], now_ms: int
) -> bool:
    """Return whether no acquire would find anything now, by the order of keys."""
    rules = info.config.rules
    for window in all_windows:
        bounds = found.get(window.partition_id)
        if bounds is None:
            continue
        if len(window.entries) < rules_of.MAX_IN_FLIGHT and window.end_offset < bounds.log_end_offset:
            return False
        place = SharePartitionKey(info.queue_id, window.partition_id)
        copied = delayed_records.first_offsets(tx, place, {entry.key_hash for entry in window.entries.values()})
        if any(True for _ in rules_of.takeable(window.entries.values(), rules, now_ms, copied)):
            return False
        if window.delayed and _any_due(tx, place, window, rules, now_ms):
            return False
    return True


def _any_due(tx: Tx, place: SharePartitionKey, window: SharePartitionState, rules: DeliveryRules, now_ms: int) -> bool:
    """Return whether a delayed record may be delivered: it is due, and none of its key is before it in the window."""
    first = rules_of.first_of_keys(window.entries.values())
    due = delayed_records.due(tx, place, rules, now_ms, len(first) + 1)
    return any(first.get(each.entry.key_hash, each.entry.offset) >= each.entry.offset for each in due)


class _Tally:
    """Adds the windows of a queue up."""

    def __init__(self, rules: DeliveryRules, now_ms: int) -> None:
        self._rules = rules
        self._now_ms = now_ms
        self._oldest_ms: int | None = None
        self.available = self.acquired = self.delayed = 0
        self.accepted = self.archived = self.expired = self.copies = 0
        self.dead_letter_error: str | None = None

    def add(self, window: SharePartitionState, bounds: Bounds) -> None:
        """Count a window."""
        self.accepted += window.accepted
        self.archived += window.archived
        self.copies += window.delayed
        gone = set(rules_of.passed(window.entries, bounds.log_start_offset, self._now_ms))
        end = max(window.end_offset, bounds.log_start_offset)
        self.expired += window.expired + len(gone) + end - window.end_offset
        self.available += max(0, bounds.log_end_offset - end)
        for offset, entry in window.entries.items():
            if offset not in gone:
                self._count(entry)

    def add_copies(self, found: DelayedTotals) -> None:
        """Count the delayed records of a window."""
        self.available += found.available
        self.delayed += found.delayed
        for entry in found.delivered:
            self._count(entry)
        self.see(found.oldest_ms)

    def see(self, timestamp_ms: int | None) -> None:
        """Note the time of a record that has not ended."""
        if timestamp_ms is not None:
            self._oldest_ms = timestamp_ms if self._oldest_ms is None else min(self._oldest_ms, timestamp_ms)

    def state(self, *, blocked: bool) -> QueueState:
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
            self.copies >= MAX_COPIES,
        )

    def _count(self, entry: InFlightRecord) -> None:
        if rules_of.is_held(entry, self._now_ms):
            self.acquired += 1
        elif rules_of.is_last(entry, self._rules):
            self.archived += 1
        elif rules_of.is_delayed(entry, self._now_ms):
            self.delayed += 1
        else:
            self.available += 1
