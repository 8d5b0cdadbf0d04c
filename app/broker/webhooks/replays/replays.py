"""Plan replays of a webhook: ranges, single records, its dead letters; describe and cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.broker.log.topics import Topics, partition_id_of
from app.broker.waiting.signals import Signals
from app.broker.webhooks.webhooks import CHANGED, Webhooks
from app.domain.log.offset_spec import At, Earliest, OffsetSpec
from app.domain.log.topic import TopicInfo
from app.domain.webhooks import replay
from app.domain.webhooks.replay import Only, ReplayInfo, ReplayPlan, ReplayRange
from app.domain.webhooks.webhook import NOT_COVERED
from app.errors.log import UnknownTopicOrPartition
from app.errors.webhooks import InvalidWebhookConfig, ReplaysLimit, UnknownReplay, UnknownWebhook
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.log import offset_lookup, pages
from app.storage.webhooks import attempts, replays, webhooks
from app.storage.webhooks.webhooks import queue_name

_KEPT_MS = 86_400_000
MAX_RUNNING = 1_000
"""Running replays of a webhook."""


class ReplayRequest(NamedTuple):
    """What to send again.

    Attributes:
        partition: None for all partitions.
        to: Exclusive; None for the end of the log.
    """

    topic: str
    start: OffsetSpec
    to: OffsetSpec | None
    partition: int | None
    only: Only


class Replays:
    """The replays of all webhooks."""

    def __init__(self, storage: Storage, topics: Topics, signals: Signals, webhooks: Webhooks) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._webhooks = webhooks

    async def plan(self, name: str, request: ReplayRequest) -> tuple[int, ReplayPlan]:
        """Resolve a request to offsets. Return the id of the webhook and the plan.

        Raises:
            UnknownWebhook, UnknownTopicOrPartition
            InvalidWebhookConfig: The webhook does not cover the topic.
        """
        stored = await self._webhooks.get(name)
        topic = await self._topics.refresh(request.topic)
        if not stored.info.config.covers(topic.name):
            raise InvalidWebhookConfig(NOT_COVERED)
        ids = topic.partition_ids
        if request.partition is not None:
            ids = (partition_id_of(topic, request.partition),)
        webhook_id = stored.info.webhook_id
        return webhook_id, await self._storage.read(_plan, webhook_id, topic, ids, request)

    async def plan_letters(self, name: str) -> tuple[int, ReplayPlan]:
        """Return the plan that sends the dead letters of a webhook again.

        Raises:
            UnknownWebhook: There is no webhook of this name.
            InvalidWebhookConfig: It has no dead-letter topic.
        """
        stored = await self._webhooks.get(name)
        letters = stored.info.config.dead_letter_topic
        if letters is None:
            raise InvalidWebhookConfig("the webhook has no dead_letter_topic; set it with on_exhausted dead_letter")
        topic = await self._topics.refresh(letters)
        request = ReplayRequest(letters, Earliest(), None, None, "all")
        webhook_id = stored.info.webhook_id
        plan = await self._storage.read(_plan, webhook_id, topic, topic.partition_ids, request)
        prefix = queue_name(name, "")
        return webhook_id, ReplayPlan(plan.topic_id, plan.topic, plan.ranges, plan.only, prefix, plan.records)

    async def plan_record(self, name: str, topic_name: str, partition: int, offset: int) -> tuple[int, ReplayPlan]:
        """Return the plan that sends one record again.

        Raises:
            UnknownWebhook: There is no webhook of this name.
            UnknownTopicOrPartition: There is no such topic, partition or record.
            InvalidWebhookConfig: The webhook does not cover the topic.
        """
        request = ReplayRequest(topic_name, At(offset), At(offset + 1), partition, "all")
        webhook_id, plan = await self.plan(name, request)
        if not plan.records:
            raise UnknownTopicOrPartition("the log has no record at this offset")
        return webhook_id, msgspec.structs.replace(plan, unfiltered=True)

    async def begin(self, webhook_id: int, plan: ReplayPlan) -> int:
        """Begin a replay, and return its id.

        Raises:
            UnknownWebhook: The webhook was deleted.
            ReplaysLimit: Too many replays are running.
        """
        replay_id = await self._storage.write(_begin, webhook_id, plan)
        self._signals.announce([CHANGED])
        return replay_id

    async def get(self, name: str, replay_id: int) -> ReplayInfo:
        """Return a replay.

        Raises:
            UnknownWebhook, UnknownReplay
        """
        stored = await self._webhooks.get(name)
        found = await self._storage.read(replays.find, stored.info.webhook_id, replay_id)
        if found is None:
            raise UnknownReplay("the webhook has no replay of this id, or it ended more than a day ago")
        return found

    async def cancel(self, name: str, replay_id: int) -> None:
        """End a replay. What it is sending now still ends.

        Raises:
            UnknownWebhook, UnknownReplay
        """
        found = await self.get(name, replay_id)
        await self._storage.write(_cancel, found)
        self._signals.announce([CHANGED])


def _plan(
    tx: Tx, webhook_id: int, topic: TopicInfo, partition_ids: Sequence[int], request: ReplayRequest
) -> ReplayPlan:
    found = pages.bounds(tx, partition_ids)
    ranges, records = [], 0
    for partition_id in partition_ids:
        if (bounds := found.get(partition_id)) is None:
            continue
        first = max(bounds.log_start_offset, offset_lookup.resolve(tx, bounds, request.start))
        end = bounds.log_end_offset if request.to is None else offset_lookup.resolve(tx, bounds, request.to)
        end = min(end, bounds.log_end_offset)
        if first < end:
            ranges.append(ReplayRange(bounds.partition, partition_id, first, end))
            records += end - first
    if request.only == "failed":
        wanted = attempts.failed(tx, webhook_id, topic.name)
        by_partition = {part.partition: part for part in ranges}
        ranges = [
            ReplayRange(partition, by_partition[partition].partition_id, offset, offset + 1)
            for partition, offset in wanted
            if partition in by_partition
            and by_partition[partition].from_offset <= offset < by_partition[partition].to_offset
        ]
        records = len(ranges)
    return ReplayPlan(topic.topic_id, topic.name, tuple(ranges), request.only, "", records)


def _begin(tx: Tx, webhook_id: int, plan: ReplayPlan) -> int:
    now_ms = clock.read(tx)
    if (stored := webhooks.lock_by_id(tx, webhook_id)) is None:
        raise UnknownWebhook("the webhook was deleted")
    if replays.count_running(tx, webhook_id) >= MAX_RUNNING:
        raise ReplaysLimit(f"{MAX_RUNNING:,} replays of this webhook are running")
    webhooks.save(tx, stored)  # raises the version, which the holder looks at
    replays.delete_ended(tx, webhook_id, now_ms - _KEPT_MS)
    return replays.create(tx, webhook_id, plan, replay.start(plan), now_ms)


def _cancel(tx: Tx, found: ReplayInfo) -> None:
    webhooks.lock_by_id(tx, found.webhook_id)
    replays.save(tx, found.replay_id, found.progress, "cancelled", clock.read(tx))
