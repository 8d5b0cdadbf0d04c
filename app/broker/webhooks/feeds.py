"""The queues of a webhook that a worker watches, and the records that it is sending."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.broker.waiting.signals import Signals, Watch
from app.broker.webhooks.cycle import OpenQueue, Settling
from app.domain.queues.delivery import Delivery, response_bytes
from app.domain.webhooks.message import WebhookRecord
from app.storage.webhooks.retries import RecordKey


class QueueWatch(Watch):
    """Notes that a queue may have records, and wakes the worker."""

    __slots__ = ("_worker", "announced")

    def __init__(self, signals: Signals, partition_ids: Sequence[int], worker: asyncio.Event) -> None:
        super().__init__(signals, partition_ids)
        self._worker = worker
        self.announced = True

    def wake(self, *_: object) -> None:
        """Note the announcement."""
        self.announced = True
        self._worker.set()


@dataclass(slots=True)
class Feed:
    """A queue of the webhook.

    Attributes:
        settlings: What has ended since the last transaction.
        due_at_s: When a delay ends or a lock expires next, by the monotonic clock; None for never.
    """

    open_queue: OpenQueue
    watch: QueueWatch
    settlings: list[Settling] = field(default_factory=list)
    due_at_s: float | None = None

    def may_have_records(self, now_s: float) -> bool:
        """Return whether an acquire may find records."""
        return self.watch.announced or (self.due_at_s is not None and self.due_at_s <= now_s)


class OnItsWay(NamedTuple):
    """A record that is being sent, with its attempts so far.

    Attributes:
        lock_ends_at_s: When its lock ends, by the monotonic clock.
    """

    feed: Feed
    delivery: Delivery
    key: RecordKey
    record: WebhookRecord
    attempts: int
    lock_ends_at_s: float

    @property
    def size_bytes(self) -> int:
        """How much it holds in memory."""
        return response_bytes(self.delivery.record)


class WorkerSnapshot(NamedTuple):
    """What a worker does at a time."""

    webhook: str
    retrying: int
    in_flight: int
    is_breaker_open: bool
