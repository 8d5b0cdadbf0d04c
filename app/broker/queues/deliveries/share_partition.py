"""A share partition within the transaction that has locked it: its state, its delayed records, and its log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from app.broker.queues.deliveries.delayed_record_cache import DelayedQuota, DelayedRecordCache
from app.domain.log.record import StoredRecord
from app.domain.queues.in_flight import (
    AcknowledgeType,
    DeliveryRules,
    InFlightRecord,
    RecordState,
    acquire,
    available_at_ms,
    is_delayed,
    settle,
    waiting_behind,
)
from app.domain.queues.record_summary import RecordSummary
from app.domain.queues.share_partition_state import MAX_DELAYED_RECORDS, SharePartitionState
from app.errors.queues import DelayedRecordsLimit
from app.storage.db.transaction import Tx
from app.storage.log import records_by_offset
from app.storage.log.pages import Bounds
from app.storage.queues import share_partitions
from app.storage.queues.delayed_records import DelayedRecord
from app.storage.queues.share_partitions import SharePartitionKey


class SharePartition:
    """A locked share partition.

    Attributes:
        tx: The transaction.
        key: Queue and partition.
        state: Its state; `save` writes it.
        bounds: Bounds of the partition's log, read after the lock was taken.
        rules: Rules of the queue.
        now_ms: Time of the transaction.
        delayed: Its delayed records.
        freed: Whether a record has become available to a waiting acquire.
        incomplete: Whether another acquire may find records although this one found none.
        expired: Offsets of the in-flight records that the log has no more.
    """

    __slots__ = (
        "_changed",
        "bounds",
        "delayed",
        "expired",
        "freed",
        "incomplete",
        "key",
        "now_ms",
        "rules",
        "state",
        "tx",
    )

    def __init__(
        self,
        tx: Tx,
        key: SharePartitionKey,
        state: SharePartitionState,
        bounds: Bounds,
        rules: DeliveryRules,
        now_ms: int,
    ) -> None:
        self.tx = tx
        self.key = key
        self.state = state
        self.bounds = bounds
        self.rules = rules
        self.now_ms = now_ms
        self.delayed = DelayedRecordCache(tx, key)
        self.freed = False
        self.incomplete = False
        self.expired: list[int] = []
        self._changed = False

    def load_delayed(self, offsets: Iterable[int]) -> None:
        """Read the delayed records among those at some offsets."""
        if self.state.delayed and (missing := [each for each in offsets if each not in self.state.entries]):
            self.delayed.load(missing)

    def find(self, offset: int) -> InFlightRecord | None:
        """Return the entry of a record that has not ended; a delayed record has to be loaded before."""
        if (entry := self.state.entries.get(offset)) is not None:
            return entry
        delayed = self.delayed.find(offset)
        return None if delayed is None else delayed.entry

    def has(self, offset: int) -> bool:
        """Return whether a record that was admitted has not ended."""
        self.load_delayed([offset])
        return self.find(offset) is not None

    def records(self, offsets: Sequence[int]) -> dict[int, StoredRecord]:
        """Return records, delayed ones from their own rows; those that the log has no more are missing."""
        found = {offset: delayed.record for offset in offsets if (delayed := self.delayed.find(offset)) is not None}
        if rest := [offset for offset in offsets if offset not in found]:
            found |= records_by_offset.read(self.tx, self.bounds.partition_id, rest)
        return found

    def acquire(self, entry: InFlightRecord, until_ms: int) -> InFlightRecord:
        """Acquire a record until a time, and return its new entry."""
        if self.state.delayed and entry.offset in self.delayed:
            held = acquire(entry, until_ms)
            self.update(held)
            return held
        self._changed = True
        return self.state.acquire(entry, until_ms)

    def settle(
        self,
        offset: int,
        delivery_count: int,
        acknowledge_type: AcknowledgeType,
        delay_ms: int,
        quota: DelayedQuota | None,
    ) -> InFlightRecord | None:
        """Settle a delivery. Return the new entry of the record, or None if it has been accepted.

        Args:
            offset: The record.
            delivery_count: Number of the delivery.
            acknowledge_type: What becomes of it.
            delay_ms: Delay of a release.
            quota: How many records may be delayed; None if whoever acquires them limits them.

        Raises:
            InvalidRecordState: The delivery has ended.
            DelayedRecordsLimit: The record would be delayed, and the quota is used up.
        """
        was_full = self.state.is_full
        entry = settle(self.find(offset), delivery_count, acknowledge_type, self.rules, self.now_ms, delay_ms)
        if entry is None:
            self._changed = True
            if not self.state.accept(offset):
                self.delayed.remove(offset)
        elif offset in self.delayed:
            self.update(entry)
        elif is_delayed(entry, self.now_ms):
            self._delay(entry, quota)
        else:
            self.put_back(entry)
        if acknowledge_type is not AcknowledgeType.RENEW:
            self.freed |= was_full or self.rules.ordered or acknowledge_type is not AcknowledgeType.ACCEPT
        return entry

    def update(self, entry: InFlightRecord) -> None:
        """Store the new entry of a record."""
        self._changed = True
        if entry.offset in self.delayed:
            self.delayed.update(entry)
            self.state.update_delayed(entry, self.rules)
        else:
            self.state.update(entry)

    def put_back(self, entry: InFlightRecord) -> None:
        """Store the new entry of a record that was acquired or to be archived.

        An available record below the log start offset moves to a row of its own, since in flight it would expire.
        """
        in_flight = entry.offset not in self.delayed
        if in_flight and entry.state == RecordState.AVAILABLE and entry.offset < self.bounds.log_start_offset:
            self._copy(entry)
        else:
            self.update(entry)

    def admit(
        self,
        summaries: Sequence[RecordSummary],
        end_offset: int,
        quota: DelayedQuota,
        page: Sequence[StoredRecord] | None = None,
    ) -> bool:
        """Admit records of the log up to an offset.

        Args:
            summaries: The records, in ascending order of offsets.
            end_offset: The offset after the last one.
            quota: Quota of delayed records.
            page: The records if they were read before.

        Returns:
            Whether all were admitted; False if the quota was used up before.
        """
        self._changed = True
        has_delayed = any(each.deliver_at_ms > self.now_ms for each in summaries)
        delayed = self.state.admit(summaries, end_offset, self.now_ms, quota.left() if has_delayed else 0)
        if delayed:
            self._store_delayed(delayed, quota, page)
        return self.state.end_offset == end_offset

    def make_room(self, quota: DelayedQuota) -> None:
        """Take the records out of flight that wait behind delayed records of their keys, as far as the quota allows."""
        state = self.state
        first = self.delayed.first_offsets(entry.key_hash for entry in state.entries.values())
        leaving = list(islice(waiting_behind(state.entries.values(), first, self.now_ms), quota.references_left()))
        if leaving:
            quota.take(0, len(leaving))
            self.delayed.add_references(leaving)
            state.leave(entry.offset for entry in leaving)
            self._changed = True

    def bring_back(self, entries: Sequence[InFlightRecord]) -> None:
        """Put records in flight again that waited behind a delayed record of their key."""
        self.delayed.remove_references(entries)
        self.state.come_back(entries)
        self._changed = True

    def expire_references(self) -> None:
        """End the references below the log start offset."""
        if not self.state.references:
            return
        expired = self.delayed.remove_references_before(self.bounds.log_start_offset)
        self.state.expire_references(expired)
        self._changed = True

    def expire_before_log_start(self) -> None:
        """End the available records that retention has deleted from the log."""
        end_offset = self.state.end_offset
        expired = self.state.expire_before(self.bounds.log_start_offset, self.now_ms)
        self.expired += expired
        self._changed |= bool(expired) or self.state.end_offset > end_offset

    def expire(self, offsets: Iterable[int]) -> None:
        """End records that the log has no more."""
        for offset in offsets:
            self._changed = True
            self.expired.append(offset)
            if not self.state.expire(offset):
                self.delayed.remove(offset)

    def archive(self, offsets: Iterable[int]) -> None:
        """End records as archived."""
        for offset in offsets:
            self._changed = True
            if not self.state.archive(offset):
                self.delayed.remove(offset)

    def available_at_ms(self) -> int | None:
        """Return the next time at which a lock expires or a delay ends, or None."""
        times = [available_at_ms(self.state.entries.values(), self.now_ms)]
        if self.state.delayed:
            times.append(self.delayed.available_at_ms(self.now_ms))
        return min((time for time in times if time is not None), default=None)

    def save(self) -> None:
        """Write what has changed."""
        if self._changed:
            self._save()

    def save_archived(self) -> None:
        """Write the share partition after archiving, with the time at which the next delayed record is archived."""
        self.state.schedule_delayed_archiving(self.delayed.archive_at_ms(self.rules) if self.state.delayed else None)
        self._save()

    def _save(self) -> None:
        self.state.schedule_archiving(self.rules)
        self.delayed.write()
        share_partitions.save(self.tx, self.key.queue_id, self.state)

    def _delay(self, entry: InFlightRecord, quota: DelayedQuota | None) -> None:
        """Move a released record to a row of its own within the quota."""
        if quota is not None:
            if not quota.left():
                raise DelayedRecordsLimit(
                    f"{MAX_DELAYED_RECORDS} records of this queue are delayed already; "
                    "release without delay_ms, or wait"
                )
            quota.take(1)
        self._copy(entry)

    def _copy(self, entry: InFlightRecord) -> None:
        """Move a record from flight to a row of its own."""
        record = records_by_offset.read(self.tx, self.bounds.partition_id, [entry.offset]).get(entry.offset)
        if record is None:
            self.expire([entry.offset])
            return
        self.state.delay(entry.offset)
        self.delayed.put(DelayedRecord(entry, record))
        self._changed = True

    def _store_delayed(
        self, delayed: Sequence[InFlightRecord], quota: DelayedQuota, page: Sequence[StoredRecord] | None
    ) -> None:
        """Store admitted records that are delayed, each in a row of its own."""
        if page is None:
            records = records_by_offset.read(self.tx, self.bounds.partition_id, [entry.offset for entry in delayed])
        else:
            records = {record.offset: record for record in page}
        for entry in delayed:
            record = records.get(entry.offset)
            if record is None or entry.offset < self.bounds.log_start_offset:
                self.state.expire(entry.offset)
            else:
                quota.take(1)
                self.delayed.put(DelayedRecord(entry, record))
