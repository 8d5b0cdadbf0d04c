"""Pass over what waits for a webhook."""

from __future__ import annotations

from typing import NamedTuple

from app.broker.log.topics import Topics, partition_id_of
from app.broker.queues.bulk_changes import count_below, skip
from app.broker.waiting.signals import Signals
from app.broker.webhooks.webhooks import CHANGED, Webhooks
from app.domain.log.offset_spec import OffsetSpec
from app.domain.log.topic import TopicInfo
from app.domain.webhooks.webhook import NOT_COVERED
from app.errors.webhooks import InvalidWebhookConfig, UnknownWebhook
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.log import offset_lookup, pages
from app.storage.queues import queues
from app.storage.webhooks import retries, webhooks
from app.storage.webhooks.webhooks import queue_name


class SkipRequest(NamedTuple):
    """What to pass over: all records of a topic, or of a partition, below a position.

    Attributes:
        partition: None for all partitions.
    """

    topic: str
    to: OffsetSpec
    partition: int | None


class SkippedRange(NamedTuple):
    """The records of a partition that wait below an offset."""

    partition: int
    to_offset: int
    records: int


class Skips:
    """Passes over the records that wait for webhooks, and ends those that are retried."""

    def __init__(self, storage: Storage, topics: Topics, signals: Signals, webhooks: Webhooks) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._webhooks = webhooks

    async def plan(self, name: str, request: SkipRequest) -> list[SkippedRange]:
        """Return what a skip passes over.

        Raises:
            UnknownWebhook, UnknownTopicOrPartition
            InvalidWebhookConfig: The webhook does not cover the topic.
        """
        webhook_id, topic, ids = await self._resolved(name, request)
        return await self._storage.read(_skip, webhook_id, topic, ids, request.to, dry_run=True)

    async def skip(self, name: str, request: SkipRequest) -> list[SkippedRange]:
        """Pass over the records, and return how many they were.

        Raises:
            UnknownWebhook, UnknownTopicOrPartition
            InvalidWebhookConfig: The webhook does not cover the topic.
        """
        webhook_id, topic, ids = await self._resolved(name, request)
        skipped = await self._storage.write_freeing(_skip, webhook_id, topic, ids, request.to, dry_run=False)
        self._signals.announce([CHANGED])
        return skipped

    async def _resolved(self, name: str, request: SkipRequest) -> tuple[int, TopicInfo, tuple[int, ...]]:
        stored = await self._webhooks.get(name)
        topic = await self._topics.refresh(request.topic)
        ids = topic.partition_ids
        if request.partition is not None:
            ids = (partition_id_of(topic, request.partition),)
        return stored.info.webhook_id, topic, ids


def _skip(
    tx: Tx, webhook_id: int, topic: TopicInfo, partition_ids: tuple[int, ...], to: OffsetSpec, *, dry_run: bool
) -> list[SkippedRange]:
    stored = webhooks.find_by_id(tx, webhook_id) if dry_run else webhooks.lock_by_id(tx, webhook_id)
    if stored is None:
        raise UnknownWebhook("the webhook was deleted")
    queue = queues.find(tx, queue_name(stored.info.name, topic.name))
    if queue is None:
        raise InvalidWebhookConfig(NOT_COVERED)
    skipped = []
    for partition_id, bounds in sorted(pages.bounds(tx, partition_ids).items()):
        offset = min(offset_lookup.resolve(tx, bounds, to), bounds.log_end_offset)
        if dry_run:
            records = count_below(tx, queue, bounds, offset)
        else:
            records = skip(tx, queue, partition_id, offset) or 0
            retries.remove_below(tx, queue.queue_id, partition_id, offset)
        skipped.append(SkippedRange(bounds.partition, offset, records))
    if not dry_run:
        webhooks.save(tx, stored)  # raises the version, which the holder looks at
    return sorted(skipped)
