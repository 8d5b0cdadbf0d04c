"""The delayed records of a locked share partition: those that were read, and changes that are not yet written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.domain.queues.in_flight import DeliveryRules, InFlightRecord
from app.domain.queues.share_partition_state import MAX_DELAYED_RECORDS, MAX_REFERENCES
from app.storage.db.transaction import Tx
from app.storage.queues import delayed_changes, delayed_records
from app.storage.queues.delayed_records import DelayedRecord, DelayedSummary, RowCounts
from app.storage.queues.share_partitions import SharePartitionKey


class DelayedQuota:
    """How many more rows a queue may have. The rows are counted on first use."""

    def __init__(self, tx: Tx, queue_id: int) -> None:
        self._tx = tx
        self._queue_id = queue_id
        self._left: RowCounts | None = None

    def left(self) -> int:
        """Return how many more records may be delayed."""
        return self._counted().delayed

    def references_left(self) -> int:
        """Return how many more records may wait behind delayed records of their keys."""
        return self._counted().references

    def take(self, delayed: int, references: int = 0) -> None:
        """Take a number of rows, not greater than what is left, off the quota."""
        left = self._counted()
        self._left = RowCounts(left.delayed - delayed, left.references - references)

    def _counted(self) -> RowCounts:
        if self._left is None:
            used = delayed_records.count(self._tx, self._queue_id)
            self._left = RowCounts(max(0, MAX_DELAYED_RECORDS - used.delayed), max(0, MAX_REFERENCES - used.references))
        return self._left


class DelayedRecordCache:
    """The delayed records of a share partition within one transaction.

    Reads by condition write the changes first, so that they include them.
    """

    def __init__(self, tx: Tx, key: SharePartitionKey) -> None:
        self._tx = tx
        self._key = key
        self._loaded: dict[int, DelayedRecord] = {}
        self._changed: dict[int, DelayedRecord] = {}
        self._removed: dict[int, int] = {}

    def __contains__(self, offset: int) -> bool:
        """Return whether the record at an offset was loaded or put."""
        return offset in self._loaded

    def find(self, offset: int) -> DelayedRecord | None:
        """Return the record at an offset if it was loaded or put."""
        return self._loaded.get(offset)

    def load(self, offsets: Iterable[int]) -> None:
        """Read the delayed records among those at some offsets, except those whose rows are older than the changes."""
        if missing := [each for each in offsets if each not in self._loaded and each not in self._removed]:
            self._loaded |= delayed_records.read(self._tx, self._key, missing)

    def put(self, delayed: DelayedRecord) -> None:
        """Add or change a record."""
        offset = delayed.entry.offset
        self._loaded[offset] = self._changed[offset] = delayed

    def update(self, entry: InFlightRecord) -> None:
        """Change the entry of a loaded record."""
        self.put(self._loaded[entry.offset]._replace(entry=entry))

    def remove(self, offset: int) -> None:
        """Remove a loaded record that has ended."""
        delayed = self._loaded.pop(offset)
        self._changed.pop(offset, None)
        self._removed[offset] = delayed.entry.key_hash

    def add_references(self, entries: Sequence[InFlightRecord]) -> None:
        """Add references to available records that wait behind delayed records of their keys."""
        self.write()
        delayed_changes.add_references(self._tx, self._key, entries)

    def remove_references(self, entries: Iterable[InFlightRecord]) -> None:
        """Remove references whose records are put in flight again."""
        delayed_records.remove(self._tx, self._key, {entry.offset: entry.key_hash for entry in entries})

    def remove_references_before(self, offset: int) -> int:
        """Remove the references below an offset, and return their number."""
        self.write()
        return delayed_changes.delete_references_before(self._tx, self._key, offset)

    def write(self) -> None:
        """Write the changes."""
        delayed_records.save(self._tx, self._key, list(self._changed.values()))
        delayed_records.remove(self._tx, self._key, self._removed)
        self._changed.clear()
        self._removed.clear()

    def due(self, rules: DeliveryRules, now_ms: int, limit: int) -> list[DelayedSummary]:
        """Return up to `limit` records that may be delivered now, longest due first; of each key only the first."""
        self.write()
        return delayed_records.due(self._tx, self._key, rules, now_ms, limit)

    def first(self) -> DelayedSummary | None:
        """Return the delayed record with the lowest offset."""
        self.write()
        return next(iter(delayed_records.list_summaries(self._tx, self._key, 0, 1)), None)

    def to_archive(self, rules: DeliveryRules, now_ms: int, limit: int) -> list[DelayedSummary]:
        """Return up to `limit` records that are to be archived now."""
        self.write()
        return delayed_records.to_archive(self._tx, self._key, rules, now_ms, limit)

    def first_offsets(self, hashes: Iterable[int]) -> dict[int, int]:
        """Return the lowest offset by `key_hash`."""
        self.write()
        return delayed_records.first_offsets(self._tx, self._key, hashes)

    def available_at_ms(self, now_ms: int) -> int | None:
        """Return the next time at which a lock expires or a delay ends, or None."""
        self.write()
        return delayed_records.available_at_ms(self._tx, self._key, now_ms)

    def archive_at_ms(self, rules: DeliveryRules) -> int | None:
        """Return when the first record is to be archived, or None."""
        self.write()
        return delayed_records.archive_at_ms(self._tx, self._key, rules)
