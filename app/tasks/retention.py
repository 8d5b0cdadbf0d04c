"""Retention, compaction, and the expiry of keys and producers, in short passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from app.broker.log import record_deletion
from app.broker.log.record_deletion import RecordHolder
from app.domain.log.topic import TopicConfig, TopicInfo
from app.domain.metrics.node_metrics import RetentionCounts
from app.errors.database import DiskFull
from app.storage.db.engine import Storage
from app.storage.log import idempotency, producers, retention, topics
from app.storage.log.retention import RetainedPartition

_PASS_S = 0.010
_PARTITIONS_AT_ONCE = 50
_COMPACTED_AT_ONCE = 500
_EXPIRED_AT_ONCE = 500
_MOST_ROWS = 20_000


@dataclass
class Retention:
    """Steps for the task runner. All nodes may run them concurrently.

    Attributes:
        clock: Wall clock in milliseconds.
        holders: What may need records that are deleted.
        counts: The work done.
        rows: Rows that one pass deletes, adapted so that a pass takes about ten milliseconds.
        skipped: Partitions that the next pass passes over, because the disk lacks the space to copy their records.
    """

    storage: Storage
    defaults: TopicConfig
    clock: Callable[[], int]
    holders: Sequence[RecordHolder] = ()
    counts: RetentionCounts = field(default_factory=RetentionCounts)
    rows: int = field(default=500, init=False)
    skipped: int = field(default=0, init=False)

    async def raise_log_starts(self) -> bool:
        """Raise the `log_start_offset` of all partitions by their policy."""
        stored = await self.storage.read(topics.all_, self.defaults)
        retained = (
            RetainedPartition(partition_id, topic.info.version, topic.info.config)
            for topic in stored
            if topic.info.config.deleted
            for partition_id in topic.info.partition_ids
        )
        for chunk in _chunks(retained, _PARTITIONS_AT_ONCE):
            for start in await self.storage.read(retention.new_starts, chunk, self.clock()):
                self.counts.raised_starts += await self.storage.write(retention.delete_before, *start)
        return False

    async def compact(self) -> bool:
        """Compact all partitions of compacted topics."""
        stored = await self.storage.read(topics.all_, self.defaults)
        for topic in stored:
            if topic.info.config.compacted:
                for partition_id in topic.info.partition_ids:
                    await self._compact(partition_id, topic.info)
        return False

    async def _compact(self, partition_id: int, topic: TopicInfo) -> None:
        more = True
        while more:
            done = await self.storage.write(
                record_deletion.compact, partition_id, topic, self.clock(), _COMPACTED_AT_ONCE, self.holders
            )
            self.counts.compacted_records += done.records
            more = done.more

    async def purge(self) -> bool:
        """Delete some rows that are no longer in the log. Return whether there may be more."""
        started = time.monotonic()
        try:
            done = await self.storage.write(record_deletion.purge, self.rows, self.skipped, self.holders)
        except DiskFull:
            self.rows = max(1, self.rows // 2)
            self.skipped += self.rows == 1
            return self.rows > 1
        self.counts.deleted_records += done.records
        if not done.more:
            self.skipped = 0
        else:
            factor = _PASS_S / max(time.monotonic() - started, 0.0001)
            self.rows = round(min(_MOST_ROWS, max(1, self.rows * min(2.0, max(0.5, factor)))))
        return done.more

    async def expire(self) -> bool:
        """Delete expired Idempotency-Keys and producers. Return whether there may be more."""
        now_ms = self.clock()
        expired_keys = await self.storage.write(idempotency.expire, now_ms, _EXPIRED_AT_ONCE)
        expired_producers = await self.storage.write(producers.expire, now_ms, _EXPIRED_AT_ONCE)
        return max(expired_keys, expired_producers) == _EXPIRED_AT_ONCE


def _chunks(retained: Iterator[RetainedPartition], size: int) -> Iterator[list[RetainedPartition]]:
    while chunk := list(islice(retained, size)):
        yield chunk
