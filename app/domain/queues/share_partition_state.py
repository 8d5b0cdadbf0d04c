"""The state of a share partition, that is, of a queue in one partition of its topic, and the steps that change it.

Every record of the log below `end_offset` has ended, is in flight (`entries`), or has a row of its own, of which the
state has only the number: a copy if it is delayed, a reference if it waits behind a delayed record of its key. So the
size of the state depends on the records in flight, not on the topic.
The steps change the state in place; they do no I/O and read no clock.

Source: KIP-932 (`SharePartition`), with its bound of 2,000 in-flight records per partition.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from app.domain.queues.in_flight import (
    DeliveryRules,
    InFlightRecord,
    RecordState,
    acquire,
    archive_at_ms,
    is_acquired,
    is_held,
    step_back,
    will_be_archived,
)
from app.domain.queues.record_summary import RecordSummary

MAX_IN_FLIGHT = 2_000
"""In-flight records of a share partition, and records of the log that one acquire reads in it."""

MAX_DELAYED_RECORDS = 100_000
"""Delayed records of a queue in all its share partitions."""


MAX_REFERENCES = 1_000_000
"""Records of a queue that wait behind delayed records of their keys, in all its share partitions."""


class SharePartitionState(msgspec.Struct):
    """The state of a share partition. Only its own methods change it.

    Attributes:
        end_offset: Offset of the next record to be admitted from the log.
        entries: In-flight records by offset, ascending.
        delayed: Number of delayed records that have rows of their own.
        accepted, archived, expired: Number of records that have ended, by the way they ended.
        archive_at_ms: When the first in-flight record is to be archived, or None.
        delayed_archive_at_ms: When the first delayed record is to be archived, or None.
        dead_letter_error: Why archiving failed last, or None.
        refused_offset: Offset of the record whose dead letter was refused, or None.
        references: Number of records that wait behind delayed records of their keys and have rows of their own.
    """

    partition_id: int
    end_offset: int
    entries: dict[int, InFlightRecord]
    delayed: int
    accepted: int
    archived: int
    expired: int
    archive_at_ms: int | None
    delayed_archive_at_ms: int | None
    dead_letter_error: str | None
    refused_offset: int | None
    references: int = 0

    @property
    def has_rows(self) -> bool:
        """Whether there are delayed records or references."""
        return self.delayed > 0 or self.references > 0

    @property
    def is_full(self) -> bool:
        """Whether no further record can be admitted in flight until one has ended or left."""
        return len(self.entries) >= MAX_IN_FLIGHT

    def room(self, rules: DeliveryRules) -> int:
        """Return how many further records can be admitted in flight, at least 0.

        If the queue is ordered by partition, that is one run, after the one before it has ended: so the later records
        of the partition stay in the log.
        """
        if rules.by_partition:
            return 0 if self.entries or self.delayed else rules.run_records
        return max(0, MAX_IN_FLIGHT - len(self.entries))

    def in_use(self, now_ms: int) -> int:
        """Return the number of in-flight records that are acquired, delayed or to be archived."""
        return sum(is_held(entry, now_ms) for entry in self.entries.values())

    def admit(
        self, summaries: Iterable[RecordSummary], end_offset: int, now_ms: int, max_delayed: int
    ) -> list[InFlightRecord]:
        """Admit records of the log and move `end_offset` forward.

        Args:
            summaries: The records from the present `end_offset` to the new one, in ascending order of offsets.
            end_offset: The new `end_offset`.
            now_ms: Time of the acquire.
            max_delayed: How many records may be delayed. Admission ends before the first record beyond that number.

        Returns:
            The delayed records. They are counted in `delayed`, and the caller stores them in rows of their own.
        """
        delayed: list[InFlightRecord] = []
        entries = self.entries
        for offset, key_hash, deliver_at_ms in summaries:
            if deliver_at_ms <= now_ms:
                entries[offset] = InFlightRecord(offset, RecordState.AVAILABLE, 0, 0, key_hash)
            elif len(delayed) < max_delayed:
                delayed.append(InFlightRecord(offset, RecordState.AVAILABLE, 0, deliver_at_ms, key_hash))
            else:
                end_offset = offset
                break
        self.end_offset = end_offset
        self.delayed += len(delayed)
        return delayed

    def acquire(self, entry: InFlightRecord, until_ms: int) -> InFlightRecord:
        """Acquire an in-flight record until a time, and return its new entry."""
        held = self.entries[entry.offset] = acquire(entry, until_ms)
        return held

    def update(self, entry: InFlightRecord) -> None:
        """Store the new entry of an in-flight record."""
        self.entries[entry.offset] = entry

    def delay(self, offset: int) -> None:
        """Take a record out of flight that is delayed from now on."""
        self.entries.pop(offset, None)
        self.delayed += 1

    def leave(self, offsets: Iterable[int]) -> None:
        """Take records out of flight that are references from now on."""
        for offset in offsets:
            del self.entries[offset]
            self.references += 1

    def come_back(self, entries: Iterable[InFlightRecord]) -> None:
        """Put records in flight again that were references."""
        added = {entry.offset: entry for entry in entries}
        self.references -= len(added)
        self.entries = dict(sorted((self.entries | added).items()))

    def expire_references(self, number: int) -> None:
        """End references to records that the log has no more."""
        self.references -= number
        self.expired += number

    def accept(self, offset: int) -> bool:
        """End a record as accepted. Return whether it was in flight; if not, it was a delayed record."""
        self.accepted += 1
        if self.entries.pop(offset, None) is not None:  # as `_end`, one call less per acknowledgement
            return True
        self.delayed -= 1
        return False

    def archive(self, offset: int) -> bool:
        """End a record as archived. Return whether it was in flight; if not, it was a delayed record."""
        self.archived += 1
        return self._end(offset)

    def expire(self, offset: int) -> bool:
        """End a record that the log has no more. Return whether it was in flight; if not, it was a delayed record."""
        self.expired += 1
        return self._end(offset)

    def expire_before(self, log_start_offset: int, now_ms: int) -> list[int]:
        """End the available records below the log start offset.

        A record whose lock has expired counts as acquired, and a record that is delayed or to be archived stays too.

        Returns:
            The offsets of those that were in flight.
        """
        offsets = self.expired_offsets(log_start_offset, now_ms)
        for offset in offsets:
            del self.entries[offset]
        skipped = max(0, log_start_offset - self.end_offset)
        self.end_offset += skipped
        self.expired += len(offsets) + skipped
        return offsets

    def expired_offsets(self, log_start_offset: int, now_ms: int) -> list[int]:
        """Return the offsets of the in-flight records that `expire_before` ends."""
        return [
            offset for offset, entry in self.entries.items() if offset < log_start_offset and not is_held(entry, now_ms)
        ]

    def held_offsets(self, now_ms: int) -> list[int]:
        """Return the ascending offsets of the in-flight records that stay when the log deletes them."""
        return [offset for offset, entry in self.entries.items() if is_held(entry, now_ms)]

    def purge(self, log_start_offset: int, log_end_offset: int, rules: DeliveryRules, now_ms: int) -> int:
        """Archive all available records up to the log end offset, those not yet admitted included.

        Acquired records and those to be archived stay.

        Returns:
            The number of records that were archived.
        """
        start = max(self.end_offset, log_start_offset)
        kept = {
            offset: entry
            for offset, entry in self.entries.items()
            if is_acquired(entry, now_ms) or will_be_archived(entry, rules)
        }
        purged = max(0, log_end_offset - start) + len(self.entries) - len(kept)
        self.expired += start - self.end_offset
        self.archived += purged
        self.entries, self.end_offset = kept, max(start, log_end_offset)
        return purged

    def archive_rows(self, delayed: int, references: int) -> None:
        """Count delayed records and references as archived whose rows were deleted."""
        self.delayed -= delayed
        self.references -= references
        self.archived += delayed + references

    def skip(self, offset: int) -> int:
        """Archive all in-flight records below an offset, whatever their state, and those not yet admitted.

        Returns:
            The number of records that were archived.
        """
        kept = {each: entry for each, entry in self.entries.items() if each >= offset}
        skipped = max(0, offset - self.end_offset) + len(self.entries) - len(kept)
        self.archived += skipped
        self.entries, self.end_offset = kept, max(self.end_offset, offset)
        return skipped

    def step_back(self, rules: DeliveryRules, step_ms: int, now_ms: int) -> None:
        """Pull the locks and delays of in-flight records in after the clock has stepped back."""
        for offset, entry in self.entries.items():
            self.entries[offset] = step_back(entry, rules, step_ms, now_ms)

    def schedule_archiving(self, rules: DeliveryRules) -> None:
        """Set the time at which the first in-flight record is to be archived."""
        self.archive_at_ms = archive_at_ms(self.entries.values(), rules)

    def schedule_delayed_archiving(self, at_ms: int | None) -> None:
        """Set the time at which the first delayed record is to be archived."""
        self.delayed_archive_at_ms = at_ms

    def update_delayed(self, entry: InFlightRecord, rules: DeliveryRules) -> None:
        """Move the time of archiving forward if a changed delayed record is to be archived before it."""
        if will_be_archived(entry, rules):
            at_ms = self.delayed_archive_at_ms
            self.delayed_archive_at_ms = entry.until_ms if at_ms is None else min(at_ms, entry.until_ms)

    def postpone_archiving(self, until_ms: int, error: str) -> None:
        """Archive nothing before a time, because of an error that concerns all records."""
        if self.archive_at_ms is not None:
            self.archive_at_ms = max(self.archive_at_ms, until_ms)
        if self.delayed_archive_at_ms is not None:
            self.delayed_archive_at_ms = max(self.delayed_archive_at_ms, until_ms)
        self.dead_letter_error, self.refused_offset = error, None

    def set_dead_letter_error(self, offset: int, error: str) -> None:
        """Store why the dead letter of a record was refused."""
        self.dead_letter_error, self.refused_offset = error, offset

    def clear_dead_letter_error(self) -> None:
        """Remove the error of the last archiving."""
        self.dead_letter_error = self.refused_offset = None

    def _end(self, offset: int) -> bool:
        if self.entries.pop(offset, None) is not None:
            return True
        self.delayed -= 1
        return False
