"""The queues of a webhook that a worker watches, and the records that it is sending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.broker.waiting.signals import Signals, Watch
from app.broker.webhooks.deliveries.cycle import OpenQueue, QueueResult, Settling, key_of
from app.broker.webhooks.deliveries.sender import Sent
from app.domain.queues.delivery import Delivery, response_bytes
from app.domain.webhooks.event import WebhookEvent
from app.domain.webhooks.message import WebhookRecord, message_id
from app.domain.webhooks.webhook import WebhookConfig, WebhookInfo
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


def on_its_way(webhook_id: int, feed: Feed, delivery: Delivery, found: QueueResult) -> OnItsWay:
    """Return an acquired record as it is sent."""
    topic, identity = feed.open_queue.topic, delivery.delivery_id
    key = key_of(feed.open_queue, identity.partition, identity.offset)
    record = WebhookRecord(
        topic.topic_id,
        topic.name,
        identity.partition,
        delivery.record,
        message_id(webhook_id, topic.topic_id, identity.partition, identity.offset),
    )
    ends_at_s = time.monotonic() + (delivery.locked_until_ms - found.now_ms) / 1_000
    return OnItsWay(feed, delivery, key, record, found.attempts.get(key, 0), ends_at_s)


def batches_of(config: WebhookConfig, to_send: Sequence[OnItsWay]) -> list[list[OnItsWay]]:
    """Return what is sent together: in batch modes new records, and each that failed before on its own."""
    size = config.max_batch_records if config.batches else 1
    single = [[each] for each in to_send if size == 1 or each.attempts]
    together = [each for each in to_send if size > 1 and not each.attempts]
    return single + [together[start : start + size] for start in range(0, len(together), size)]


def divided(room: int, queue_ids: Sequence[int], rotation: int) -> dict[int, int]:
    """Divide what may be acquired among queues; the remainder goes round. Queues that get nothing are left out."""
    first = rotation % len(queue_ids)
    share, rest = divmod(room, len(queue_ids))
    in_turn = [*queue_ids[first:], *queue_ids[:first]]
    shares = {queue_id: share + (number < rest) for number, queue_id in enumerate(in_turn)}
    return {queue_id: number for queue_id, number in shares.items() if number}


def exhausted_event(webhook: WebhookInfo, each: OnItsWay, sent: Sent, now_ms: int) -> WebhookEvent:
    """Return the event of a record whose last attempt failed."""
    return WebhookEvent(
        type="record.exhausted",
        webhook=webhook.name,
        at_ms=now_ms,
        reason=sent.error,
        message_id=each.record.message_id,
        topic=each.record.topic,
        partition=each.record.partition,
        offset=each.record.record.offset,
        attempts=each.attempts + 1,
        on_exhausted=webhook.config.on_exhausted,
    )
