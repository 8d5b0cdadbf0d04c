"""Records that queues have not ended, copied before the log deletes their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from app.domain.queues.in_flight import DeliveryRules
from app.domain.queues.share_partition_state import SharePartitionState
from app.storage.db.transaction import Tx
from app.storage.log import records_by_offset
from app.storage.queues import delayed_records, queues, share_partitions
from app.storage.queues.delayed_records import DelayedRecord
from app.storage.queues.share_partitions import SharePartitionKey

_MAX_RECORDS = 100
_MAX_BYTES = 8 * 1024 * 1024
"""Records, and bytes of records, that are in memory at once."""


_SIZES_AT_ONCE = 500


class _SharePartition(NamedTuple):
    key: SharePartitionKey
    state: SharePartitionState
    rules: DeliveryRules


class HeldRecords:
    """The records of a partition that its queues hold, with the share partitions locked.

    A queue holds the records that are acquired, to be archived, or delayed. Retention, deletion and compaction of the
    log do not end them: they are moved to rows of their own, as delayed records are.
    """

    def __init__(self, tx: Tx, partition_id: int) -> None:
        self._tx = tx
        self._share_partitions: list[_SharePartition] = []
        for queue_id in queues.ids_by_partition(tx, partition_id):
            locked = share_partitions.lock(tx, queue_id, [partition_id], wait=True)
            if locked is not None:
                rules, key = queues.decode_config(locked.config).rules, SharePartitionKey(queue_id, partition_id)
                self._share_partitions += [_SharePartition(key, state, rules) for state in locked.states]

    def copy_before(self, offset: int, now_ms: int, limit: int) -> int:
        """Copy up to `limit` held records of each queue below an offset.

        Returns:
            The offset up to which all held records have been copied.
        """
        for share_partition in self._share_partitions:
            held = [each for each in share_partition.state.held_offsets(now_ms) if each < offset]
            rest = self._copy(share_partition, held, limit)
            offset = min([offset, *rest[:1]])
        return offset

    def copy(self, offsets: Iterable[int], now_ms: int) -> None:
        """Copy the held records among those at some offsets."""
        wanted = set(offsets)
        for share_partition in self._share_partitions:
            held = [each for each in share_partition.state.held_offsets(now_ms) if each in wanted]
            while held:
                held = self._copy(share_partition, held, _MAX_RECORDS)

    def _copy(self, share_partition: _SharePartition, held: Sequence[int], limit: int) -> list[int]:
        """Move the first records at some offsets to rows of their own, and return the offsets that are left."""
        key, state, rules = share_partition
        sizes = self._sizes(key.partition_id, held)
        copied = records_by_offset.fitting(dict(islice(sizes.items(), min(limit, _MAX_RECORDS))), _MAX_BYTES)
        if not copied:
            return []
        records = records_by_offset.read(self._tx, key.partition_id, copied)
        entries = [state.entries[offset] for offset in copied]
        delayed_records.save(self._tx, key, [DelayedRecord(entry, records[entry.offset]) for entry in entries])
        for entry in entries:
            state.delay(entry.offset)
            state.update_delayed(entry, rules)
        state.schedule_archiving(rules)
        share_partitions.save(self._tx, key.queue_id, state)
        return [offset for offset in sizes if offset > copied[-1]]

    def _sizes(self, partition_id: int, offsets: Sequence[int]) -> dict[int, int]:
        """Return the bytes of the records at some ascending offsets, in that order; deleted records are missing."""
        found: dict[int, int] = {}
        for start in range(0, len(offsets), _SIZES_AT_ONCE):
            found |= records_by_offset.sizes(self._tx, partition_id, offsets[start : start + _SIZES_AT_ONCE])
        return {offset: found[offset] for offset in offsets if offset in found}
