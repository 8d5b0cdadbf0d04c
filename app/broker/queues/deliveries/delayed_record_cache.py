"""The delayed records of a locked share partition: those that were read, and changes that are not yet written."""

from __future__ import annotations

from collections.abc import Iterable

from app.domain.queues.in_flight import DeliveryRules, InFlightRecord
from app.domain.queues.share_partition_state import MAX_DELAYED_RECORDS
from app.storage.db.transaction import Tx
from app.storage.queues import delayed_records
from app.storage.queues.delayed_records import DelayedRecord, DelayedSummary
from app.storage.queues.share_partitions import SharePartitionKey


class DelayedQuota:
    """How many more records of a queue may be delayed. The delayed records are counted on first use."""

    def __init__(self, tx: Tx, queue_id: int) -> None:
        self._tx = tx
        self._queue_id = queue_id
        self._left: int | None = None

    def left(self) -> int:
        """Return how many more records may be delayed."""
        if self._left is None:
            self._left = max(0, MAX_DELAYED_RECORDS - delayed_records.count(self._tx, self._queue_id))
        return self._left

    def take(self, number: int) -> None:
        """Take a number of records, not greater than what is left, off the quota."""
        self._left = self.left() - number


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
