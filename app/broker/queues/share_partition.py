"""One partition of a queue inside a transaction that has locked its window: settle, take, save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from app.domain.log.record import StoredRecord
from app.domain.queues import in_flight as rules_of
from app.domain.queues.in_flight import (
    MAX_IN_FLIGHT,
    AcknowledgeType,
    DeliveryRules,
    InFlightRecord,
    RecordState,
    RecordSummary,
)
from app.domain.queues.queue import MAX_COPIES, deliver_at_ms, key_hash, size_of
from app.errors.queues import DelayedRecordsLimit
from app.storage.db.engine import Tx
from app.storage.log import pages, records_by_offset
from app.storage.log.pages import Bounds
from app.storage.queues import delayed_records, share_partitions
from app.storage.queues.delayed_records import DelayedRecord, SharePartitionKey
from app.storage.queues.share_partitions import SharePartitionState

_FEWEST_LOOKS = 100
_READ_AT_ONCE = 64


class DelayedQuota:
    """How many more records of a queue may be delayed; counted once it matters."""

    def __init__(self, tx: Tx, queue_id: int) -> None:
        self._tx = tx
        self._queue_id = queue_id
        self._left: int | None = None

    def take(self) -> bool:
        """Take the place of one record. Return False if there is none."""
        if self._left is None:
            self._left = MAX_COPIES - delayed_records.total(self._tx, self._queue_id)
        if self._left <= 0:
            return False
        self._left -= 1
        return True


class Candidate(NamedTuple):
    """A record that may be delivered, and the share that it is of."""

    share: SharePartition
    entry: InFlightRecord
    record: StoredRecord


class SharePartition:
    """A queue's window of a partition, its copies, and the log that they are of.

    Attributes:
        freed: Whether something became free that somebody may wait for.
        unfinished: Whether looking again may find more, though this time it found nothing.
    """

    def __init__(
        self,
        tx: Tx,
        place: SharePartitionKey,
        window: SharePartitionState,
        bounds: Bounds,
        rules: DeliveryRules,
        now_ms: int,
    ) -> None:
        self._tx = tx
        self._place = place
        self.window = window
        self.bounds = bounds
        self._rules = rules
        self._now_ms = now_ms
        self._copies: dict[int, DelayedRecord] = {}
        self._copied: dict[int, DelayedRecord] = {}
        self._removed: dict[int, int] = {}
        self._dirty = False
        self.freed = False
        self.unfinished = False

    def load_copies(self, offsets: Iterable[int]) -> None:
        """Read the copies among the records at these offsets, which somebody will name."""
        if self.window.delayed and (wanted := [each for each in offsets if each not in self.window.entries]):
            self._copies |= delayed_records.at(self._tx, self._place, wanted)

    def find(self, offset: int) -> InFlightRecord | None:
        """Return the entry of a record that has not ended; of copies, those that were loaded."""
        if (entry := self.window.entries.get(offset)) is not None:
            return entry
        copy = self._copies.get(offset)
        return None if copy is None else copy.entry

    def has(self, offset: int) -> bool:
        """Return whether a record has not ended, of those that have been looked at."""
        if offset in self._removed:
            return False
        self.load_copies([offset])
        return self.find(offset) is not None

    def record_of_copy(self, offset: int) -> StoredRecord | None:
        """Return the record of a copy that was loaded."""
        copy = self._copies.get(offset)
        return None if copy is None else copy.record

    def settle(
        self, offset: int, delivery_count: int, outcome: AcknowledgeType, delay_ms: int, room: DelayedQuota
    ) -> InFlightRecord | None:
        """Do what a holder says of a delivery. Return the record's entry, or None if it has ended.

        Raises:
            InvalidRecordState: It holds it no more.
            DelayedRecordsLimit: There is no place for another delayed record.
        """
        full = len(self.window.entries) >= MAX_IN_FLIGHT
        old = self.find(offset)
        new = rules_of.settle(old, delivery_count, outcome, self._rules, self._now_ms, delay_ms)
        if new is None:
            self._end(offset)
            self.window.accepted += 1
        elif offset in self._copies:
            self.put(new)
        elif rules_of.is_delayed(new, self._now_ms):
            self._delay(new, room)
        elif new.state == RecordState.AVAILABLE and offset < self.bounds.log_start_offset:
            self.lose([offset])
        else:
            self.put(new)
        if outcome is not AcknowledgeType.RENEW:
            self.freed |= full or self._rules.by_key or outcome is not AcknowledgeType.ACCEPT
        return new

    def put(self, entry: InFlightRecord) -> None:
        """Store a record's new entry."""
        self._dirty = True
        if (copy := self._copies.get(entry.offset)) is not None:
            self._copies[entry.offset] = self._copied[entry.offset] = copy._replace(entry=entry)
            if rules_of.is_last(entry, self._rules):
                at_ms = self.window.delayed_archive_at_ms
                self.window.delayed_archive_at_ms = entry.until_ms if at_ms is None else min(at_ms, entry.until_ms)
            return
        self.window.entries[entry.offset] = entry

    def expire(self) -> None:
        """Let go of the records that retention has passed, as far as nobody holds them."""
        start = self.bounds.log_start_offset
        self.lose(rules_of.passed(self.window.entries, start, self._now_ms))
        if self.window.end_offset < start:
            self.window.expired += start - self.window.end_offset
            self.window.end_offset = start
            self._dirty = True

    def take(self, wanted: int, max_bytes: int, room: DelayedQuota) -> list[Candidate]:
        """Return up to `wanted` records that may be delivered now: those due, those released, then new ones."""
        self.expire()
        taken = [Candidate(self, copy.entry, copy.record) for copy in self._due(wanted, max_bytes)]
        left_bytes = max_bytes - sum(size_of(each.record) for each in taken)
        if taken and left_bytes <= 0:
            return taken
        if self._rules.by_key:
            chosen = self._first_of_keys(wanted - len(taken), room)
        else:
            free = rules_of.takeable(self.window.entries.values(), self._rules, self._now_ms)
            chosen = list(islice(free, wanted - len(taken)))
        for each in self._with_records(chosen, left_bytes):
            if taken and left_bytes <= 0:
                return taken
            taken.append(each)
            left_bytes -= size_of(each.record)
        if not self._rules.by_key and left_bytes > 0:
            taken += self._new(wanted - len(taken), left_bytes, room)
        return taken

    def free_at_ms(self) -> int | None:
        """Return when something may be free by the passing of time, or None."""
        times = [rules_of.free_at_ms(self.window.entries.values(), self._now_ms)]
        if self.window.delayed:
            times.append(delayed_records.free_at_ms(self._tx, self._place, self._now_ms))
        return min((time for time in times if time is not None), default=None)

    def records(self, offsets: Iterable[int]) -> dict[int, StoredRecord]:
        """Return the records of entries, copies among them; those that are gone are missing."""
        wanted = list(offsets)
        found = {offset: copy.record for offset in wanted if (copy := self._copies.get(offset)) is not None}
        if rest := [offset for offset in wanted if offset not in found]:
            found |= records_by_offset.read(self._tx, self.bounds.partition_id, rest)
        return found

    def archive(self, offsets: Iterable[int]) -> None:
        """End records as archived."""
        for offset in offsets:
            self._end(offset)
            self.window.archived += 1

    def lose(self, offsets: Iterable[int]) -> None:
        """End records that are gone from the log: they have expired."""
        for offset in offsets:
            self._end(offset)
            self.window.expired += 1

    def save(self, *, copies_too: bool = False) -> None:
        """Write what has changed; `copies_too` looks anew when the next copy is to be archived."""
        if copies_too:
            self._write_copies()
            self.window.delayed_archive_at_ms = (
                delayed_records.archive_at_ms(self._tx, self._place, self._rules) if self.window.delayed else None
            )
        elif not self._dirty:
            return
        self.window.archive_at_ms = rules_of.archive_at_ms(self.window.entries.values(), self._rules)
        self._write_copies()
        share_partitions.save(self._tx, self._place.queue_id, self.window)

    def _write_copies(self) -> None:
        delayed_records.save(self._tx, self._place, list(self._copied.values()))
        delayed_records.remove(self._tx, self._place, self._removed)
        self._copied.clear()
        self._removed.clear()

    def _end(self, offset: int) -> None:
        """Forget a record that has ended."""
        self._dirty = True
        if self.window.entries.pop(offset, None) is None:
            copy = self._copies.pop(offset)
            self._copied.pop(offset, None)
            self._removed[offset] = copy.entry.key_hash
            self.window.delayed -= 1

    def _delay(self, entry: InFlightRecord, room: DelayedQuota, record: StoredRecord | None = None) -> None:
        """Move a record out of the window into a row of its own.

        Raises:
            DelayedRecordsLimit: There is no place, and the record was released.
        """
        record = record or records_by_offset.read(self._tx, self.bounds.partition_id, [entry.offset]).get(entry.offset)
        if record is None or entry.offset < self.bounds.log_start_offset:
            self.lose([entry.offset])
            return
        if not room.take():
            raise DelayedRecordsLimit(
                f"{MAX_COPIES} records of this queue are delayed already; release without delay_ms, or wait"
            )
        self.window.entries.pop(entry.offset, None)
        self._copies[entry.offset] = self._copied[entry.offset] = DelayedRecord(entry, record)
        self._removed.pop(entry.offset, None)
        self.window.delayed += 1
        self._dirty = True

    def _due(self, wanted: int, max_bytes: int) -> list[DelayedRecord]:
        """Return copies that may be delivered, unless a record of their key is before them in the window."""
        if not self.window.delayed:
            return []
        self._write_copies()
        limit = min(wanted, _READ_AT_ONCE)
        first = rules_of.first_of_keys(self.window.entries.values()) if self._rules.by_key else {}
        due = delayed_records.due(self._tx, self._place, self._rules, self._now_ms, limit + len(first))
        free = [each for each in due if first.get(each.entry.key_hash, each.entry.offset) >= each.entry.offset]
        chosen = records_by_offset.fitting({each.entry.offset: each.size_bytes for each in free[:limit]}, max_bytes)
        self.unfinished |= len(chosen) < len(free) or (limit < wanted and len(free) >= limit)
        self._copies |= delayed_records.at(self._tx, self._place, chosen)
        return [self._copies[offset] for offset in chosen]

    def _first_of_keys(self, wanted: int, room: DelayedQuota) -> list[InFlightRecord]:
        """Return free records that are the first of their key, looking further until there are enough."""
        budget, step = MAX_IN_FLIGHT - len(self.window.entries), max(_FEWEST_LOOKS, 2 * wanted)
        while True:
            chosen = self._free_by_key(wanted)
            if len(chosen) >= wanted or self.window.end_offset >= self.bounds.log_end_offset:
                return chosen
            if budget <= 0:
                self.unfinished |= len(self.window.entries) < MAX_IN_FLIGHT
                return chosen
            looks, end = self._look(min(step, budget))
            budget -= max(1, len(looks))
            step *= 2
            if not self._admit(looks, room):
                return self._free_by_key(wanted)
            self.window.end_offset, self._dirty = end, True

    def _free_by_key(self, wanted: int) -> list[InFlightRecord]:
        """Return up to `wanted` free records of the window that are the first of their key."""
        entries = self.window.entries.values()
        copied = self._first_copied(entry.key_hash for entry in entries)
        return list(islice(rules_of.takeable(entries, self._rules, self._now_ms, copied), max(0, wanted)))

    def _first_copied(self, hashes: Iterable[int]) -> dict[int, int]:
        """Return the lowest offset of the delayed records of each key, those of this transaction included."""
        if not self.window.delayed:
            return {}
        self._write_copies()
        return delayed_records.first_offsets(self._tx, self._place, hashes)

    def _look(self, limit: int) -> tuple[list[RecordSummary], int]:
        found, end = records_by_offset.keys(self._tx, self.bounds, self.window.end_offset, limit)
        return [RecordSummary(offset, key_hash(key), deliver_at_ms(headers)) for offset, key, headers in found], end

    def _admit(
        self, looks: list[RecordSummary], room: DelayedQuota, records: dict[int, StoredRecord] | None = None
    ) -> bool:
        """Take records into the window. Return False if one is delayed and there is no place: it stops there."""
        for entry in rules_of.admit(looks, self._now_ms):
            if rules_of.is_delayed(entry, self._now_ms):
                try:
                    self._delay(entry, room, None if records is None else records[entry.offset])
                except DelayedRecordsLimit:
                    self.window.end_offset, self._dirty = entry.offset, True
                    return False
            else:
                self.window.entries[entry.offset] = entry
        return True

    def _with_records(self, chosen: list[InFlightRecord], max_bytes: int) -> Iterator[Candidate]:
        """Yield entries of the window with their records; what compaction took has expired."""
        left = iter(chosen)
        offsets = [entry.offset for entry in chosen]
        for record in records_by_offset.read_bounded(
            self._tx, self.bounds.partition_id, offsets, _READ_AT_ONCE, max_bytes
        ):
            for entry in left:
                if entry.offset == record.offset:
                    yield Candidate(self, entry, record)
                    break
                self._miss(entry)
        for entry in left:
            self._miss(entry)

    def _miss(self, entry: InFlightRecord) -> None:
        """Let go of a record that is gone from the log."""
        self.lose([entry.offset])
        self.unfinished = True

    def _new(self, wanted: int, max_bytes: int, room: DelayedQuota) -> Iterator[Candidate]:
        """Yield records that come into the window, as they lie in the log."""
        budget = MAX_IN_FLIGHT - len(self.window.entries)
        while wanted > 0 and budget > 0 and max_bytes > 0 and self.window.end_offset < self.bounds.log_end_offset:
            page = pages.read(self._tx, self.bounds, self.window.end_offset, min(wanted, budget), max_bytes)
            self._dirty = True
            if not page:
                self.window.end_offset = self.bounds.log_end_offset
                return
            looks = [RecordSummary(record.offset, rules_of.KEYLESS, deliver_at_ms(record.headers)) for record in page]
            admitted = self._admit(looks, room, {record.offset: record for record in page})
            for record in page:
                if (entry := self.window.entries.get(record.offset)) is not None:
                    wanted -= 1
                    max_bytes -= size_of(record)
                    yield Candidate(self, entry, record)
            if not admitted:
                return
            budget -= len(page)
            self.window.end_offset = page[-1].offset + 1
        if wanted > 0 and self.window.end_offset < self.bounds.log_end_offset:
            self.unfinished |= len(self.window.entries) < MAX_IN_FLIGHT
