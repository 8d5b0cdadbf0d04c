"""Archiving what was rejected or delivered too often, whether anybody acquires or not."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

from app.broker.queues.archiver import archive
from app.broker.waiting.signals import Signals
from app.domain.log.topic import TopicConfig
from app.storage.db.engine import Storage
from app.storage.queues import share_partitions
from app.storage.queues.delayed_records import SharePartitionKey
from app.storage.queues.queues import scope_id
from app.tasks.runner import OnSuccess

_WINDOWS_AT_ONCE = 200


@dataclass
class ArchiveTask:
    """A task that archives at once what this node's workers ended, and looks for what others left.

    Safe to run on every node at once: a window is archived by who has its row.
    """

    storage: Storage
    signals: Signals
    defaults: TopicConfig
    _woken: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    async def run(self, interval_ms: int, on_success: OnSuccess) -> None:
        """Archive, and again when poked or after an interval."""
        while True:
            self._woken.clear()
            more = await self.archive_due()
            on_success()
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), interval_ms / 1000)

    async def archive_due(self) -> bool:
        """Archive what is due. Return whether there may be more."""
        due = await self.storage.read(share_partitions.due, _WINDOWS_AT_ONCE)
        more = False
        for queue_id, partition_id in random.sample(due, len(due)):  # one that fails is not always before the others
            done = await self.storage.write(
                archive, SharePartitionKey(queue_id, partition_id), self.defaults, full=self.storage.full
            )
            more |= done.more
            if done.settled:
                self.signals.announce([*done.partition_ids, scope_id(queue_id)])
        return more
