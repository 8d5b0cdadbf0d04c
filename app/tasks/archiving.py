"""Background task that archives records of queues, independently of acquires."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

from app.broker.queues.archiver import OnEnd, archive
from app.broker.waiting.signals import Signals
from app.domain.log.topic import TopicConfig
from app.storage.db.engine import Storage
from app.storage.queues import share_partitions
from app.storage.queues.queues import negative_queue_id
from app.tasks.runner import OnSuccess

_SHARE_PARTITIONS_AT_ONCE = 200


@dataclass
class ArchiveTask:
    """A task that archives at once when a delivery of this node ends so, and at intervals what other nodes left.

    Every node may run it at the same time: a transaction skips share partitions that another one has locked.

    Attributes:
        defaults: Configuration of topics where they do not set a value.
        on_end: Called in the transaction for the records that have ended.
    """

    storage: Storage
    signals: Signals
    defaults: TopicConfig
    on_end: OnEnd | None = None
    _woken: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def wake(self) -> None:
        """Start the next run now."""
        self._woken.set()

    async def run(self, interval_ms: int, on_success: OnSuccess) -> None:
        """Archive repeatedly: at once while there is more, else after an interval or a call of `wake`."""
        while True:
            self._woken.clear()
            more = await self.archive_due()
            on_success()
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), interval_ms / 1000)

    async def archive_due(self) -> bool:
        """Archive the records that are due. Return whether there may be more."""
        due = await self.storage.read(share_partitions.due, _SHARE_PARTITIONS_AT_ONCE)
        more = False
        for key in random.sample(due, len(due)):  # a share partition that fails must not always block the others
            done = await self.storage.write(archive, key, self.defaults, full=self.storage.full, on_end=self.on_end)
            more |= done.more
            if done.settled:
                self.signals.announce([*done.partition_ids, negative_queue_id(key.queue_id)])
        return more
