"""Delete rows of records: those that the log has no more, and those that compaction supersedes.

What depends on topics is locked first, and copies the records that it still needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from app.domain.log.topic import TopicInfo
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import compaction, retention
from app.storage.log.retention import Deletion, Purge


class HeldRecords(Protocol):
    """Records of a partition that are still needed, locked until the transaction ends."""

    def copy_before(self, offset: int, now_ms: int, limit: int) -> int:
        """Copy some of the held records below an offset. Return the offset up to which all have been copied."""

    def copy(self, offsets: Iterable[int], now_ms: int) -> None:
        """Copy the held records among those at some offsets."""


class RecordHolder(Protocol):
    """A part of the service that needs records which the log may delete."""

    def hold(self, tx: Tx, partition_id: int) -> HeldRecords:
        """Lock what is needed of a partition, before the partition is locked."""


def purge(tx: Tx, limit: int, skipped: int, holders: Sequence[RecordHolder]) -> Deletion:
    """Delete up to `limit` rows that are no longer in the log.

    Args:
        tx: A write transaction.
        limit: Rows that are deleted, and records that each holder copies, at most.
        skipped: How many partitions with such rows to pass over.
        holders: What may need the records.
    """
    found = retention.next_purge(tx, skipped)
    if found is None:
        return Deletion(0, more=False)
    partition_id, before_offset = found
    for holder in holders:
        held = holder.hold(tx, partition_id)
        before_offset = held.copy_before(before_offset, clock.read(tx), limit)
    return retention.purge(tx, Purge(partition_id, before_offset), limit)


def compact(
    tx: Tx, partition_id: int, topic: TopicInfo, now_ms: int, limit: int, holders: Sequence[RecordHolder]
) -> Deletion:
    """Clean one chunk of a partition; see `app.storage.log.compaction`."""
    held = [holder.hold(tx, partition_id) for holder in holders]

    records = 0

    def copy(offsets: Sequence[int]) -> None:
        nonlocal records
        records = len(offsets)
        for each in held:
            each.copy(offsets, clock.read(tx))

    more = compaction.compact(tx, partition_id, topic, now_ms, limit, copy)
    return Deletion(records, more)
