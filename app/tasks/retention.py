"""Retention, compaction and forgetting: what the topics' policies no longer keep, in short passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from app.domain.log.topic import TopicConfig
from app.errors.database import DiskFull
from app.storage.db.engine import Storage
from app.storage.log import compaction, idempotency, producers, retention, topics
from app.storage.log.retention import RetainedPartition

_PASS_S = 0.010
_PARTITIONS_AT_ONCE = 50
_COMPACTED_AT_ONCE = 500
_FORGOTTEN_AT_ONCE = 500
_MOST_ROWS = 20_000


@dataclass
class Retention:
    """Steps for the task runner, safe to run on every node at once.

    Attributes:
        clock: Wall clock in milliseconds.
        rows: Rows that a pass of removal takes, adapted so that it stays within ten milliseconds.
    """

    storage: Storage
    defaults: TopicConfig
    clock: Callable[[], int]
    rows: int = field(default=500, init=False)

    async def raise_starts(self) -> bool:
        """Raise `log_start_offset` of all partitions to what their policy keeps."""
        stored = await self.storage.read(topics.all_, self.defaults)
        kept = (
            RetainedPartition(partition_id, topic.info.config)
            for topic in stored
            if topic.info.config.deleted
            for partition_id in topic.info.partition_ids
        )
        for some in _chunks(kept, _PARTITIONS_AT_ONCE):
            for partition_id, start in await self.storage.read(retention.new_starts, some, self.clock()):
                await self.storage.write(retention.delete_before, partition_id, start)
        return False

    async def compact(self) -> bool:
        """Clean all partitions of compacted topics."""
        stored = await self.storage.read(topics.all_, self.defaults)
        for topic in stored:
            if topic.info.config.compacted:
                for partition_id in topic.info.partition_ids:
                    while await self.storage.write(
                        compaction.compact, partition_id, topic.info.config, self.clock(), _COMPACTED_AT_ONCE
                    ):
                        pass
        return False

    async def purge(self) -> bool:
        """Remove some rows that are no longer in the log."""
        started = time.monotonic()
        try:
            more = await self.storage.write(retention.purge, self.rows)
        except DiskFull:
            self.rows = max(1, self.rows // 2)
            return self.rows > 1
        if more:
            factor = _PASS_S / max(time.monotonic() - started, 0.0001)
            self.rows = round(min(_MOST_ROWS, max(1, self.rows * min(2.0, max(0.5, factor)))))
        return more

    async def forget(self) -> bool:
        """Forget expired Idempotency-Keys and silent producers."""
        now_ms = self.clock()
        keys = await self.storage.write(idempotency.expire, now_ms, _FORGOTTEN_AT_ONCE)
        gone = await self.storage.write(producers.expire, now_ms, _FORGOTTEN_AT_ONCE)
        return max(keys, gone) == _FORGOTTEN_AT_ONCE


def _chunks(kept: Iterator[RetainedPartition], size: int) -> Iterator[list[RetainedPartition]]:
    while some := list(islice(kept, size)):
        yield some
