"""Sends the records of a webhook's replays: one after the other, in the order of the log within a partition.

Its progress is stored after each record, together with a check that this node still holds the webhook. So a crash sends
at most the record again that was on its way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple

from app.broker.webhooks.parts import WorkerParts, attempt_of
from app.broker.webhooks.sender import Receiver, Sent
from app.domain.log.record import StoredRecord
from app.domain.log.topic import TopicConfig
from app.domain.queues.dead_letter import origin_of, without_origin
from app.domain.webhooks import replay
from app.domain.webhooks.filter import Filter
from app.domain.webhooks.message import WebhookRecord, content, message_id
from app.domain.webhooks.replay import ReplayInfo, ReplayProgress, ReplayStatus
from app.domain.webhooks.retries import judge
from app.domain.webhooks.subject import subject_of
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import pages, topics
from app.storage.webhooks import attempts, replays, webhooks
from app.storage.webhooks.leases import LeaseLost
from app.storage.webhooks.webhooks import StoredWebhook

_UNCHARGED_MS = 5_000
_BLOCKED_S = 0.2


class Line(NamedTuple):
    """What the worker of the webhook gives its replayer.

    Attributes:
        room: Returns whether an attempt may begin now.
        sent: Called with each attempt, for the breaker and the rate of the webhook.
    """

    stored: StoredWebhook
    receiver: Receiver
    passes: Filter | None
    room: Callable[[], bool]
    sent: Callable[[Sent], None]


class _Step(NamedTuple):
    """The next record of a replay; without a record the replay passes a gap or has ended.

    Attributes:
        offset: Of the record in the range; a dead letter is sent as the record that it is a copy of.
    """

    progress: ReplayProgress
    record: WebhookRecord | None = None
    offset: int = 0
    is_done: bool = False


class Replayer:
    """Sends the replays of one webhook."""

    def __init__(self, parts: WorkerParts, line: Callable[[], Line | None]) -> None:
        self._parts = parts
        self._line = line

    async def run_next(self, webhook_id: int) -> bool:
        """Send the oldest running replay to its end. Return whether there was one.

        Raises:
            LeaseLost: Another node works the webhook.
        """
        found = await self._parts.storage.read(replays.next_running, webhook_id)
        if found is None:
            return False
        progress = found.progress
        while True:
            step = await self._parts.storage.read(_next, found, progress)
            if step.is_done:
                await self._save(found, step.progress, "done")
                return True
            progress = step.progress
            if step.record is not None:
                progress = await self._send(found, progress, step.record, step.offset)
            if not await self._save(found, progress, "running"):
                return True

    async def _send(
        self, found: ReplayInfo, progress: ReplayProgress, record: WebhookRecord, offset: int
    ) -> ReplayProgress:
        """Send one record, once or again after its delay, and return the progress after it."""
        wait_ms = progress.retry_at_ms - self._parts.clock_ms()
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1_000)
        line = self._line()
        while line is None or not line.room():
            await asyncio.sleep(_BLOCKED_S)
            line = self._line()
        if line.passes is not None and not line.passes.matches(subject_of(record.record)):
            return replay.passed(found.plan, progress, offset, filtered=1)
        config = line.stored.info.config
        message = content(config.mode, line.receiver.name, [record], progress.attempts + 1)
        sent = await self._parts.sender.send(line.receiver, message, self._parts.clock_ms())
        line.sent(sent)
        after, next_at_ms = self._judged(found, progress, offset, sent, line)
        number = progress.attempts + 1
        attempt = attempt_of(record.message_id, sent, number, record, next_attempt_at_ms=next_at_ms)
        self._parts.log.add(found.webhook_id, attempt)
        return after

    def _judged(
        self, found: ReplayInfo, progress: ReplayProgress, offset: int, sent: Sent, line: Line
    ) -> tuple[ReplayProgress, int | None]:
        now_ms = self._parts.clock_ms()
        if sent.outcome == "delivered":
            return replay.passed(found.plan, progress, offset, delivered=1), None
        if not sent.is_charged:
            retry_at_ms = now_ms + _UNCHARGED_MS
            return replay.postponed(progress, progress.attempts, retry_at_ms), retry_at_ms
        attempts = progress.attempts + 1
        delays = line.stored.info.config.retry_delays_ms
        verdict = judge(attempts, delays, sent.status, sent.requested_ms, random.random())  # noqa: S311 - spreads retries
        if verdict.delay_ms is None:
            return replay.passed(found.plan, progress, offset, failed=1), None
        retry_at_ms = now_ms + verdict.delay_ms
        return replay.postponed(progress, attempts, retry_at_ms), retry_at_ms

    async def _save(self, found: ReplayInfo, progress: ReplayProgress, status: ReplayStatus) -> bool:
        line = self._line()
        epoch = -1 if line is None else line.stored.epoch
        return await self._parts.storage.write(_save, found, progress, status, epoch)


def _next(tx: Tx, found: ReplayInfo, progress: ReplayProgress) -> _Step:
    """Return the next record of a replay. Records that the log has no more are passed."""
    plan = found.plan
    here = replay.place(plan, progress)
    if here is None:
        return _Step(progress, is_done=True)
    part, offset = here
    bounds = pages.bounds(tx, [part.partition_id]).get(part.partition_id)
    page = [] if bounds is None else pages.read(tx, bounds, max(offset, bounds.log_start_offset), 1, 1)
    if not page or page[0].offset >= part.to_offset:
        return _Step(replay.passed(plan, progress, part.to_offset - 1))
    record = page[0]
    if record.offset > offset:
        progress = replay.passed(plan, progress, record.offset - 1)
    if plan.queue:
        return _letter(tx, found, progress, record)
    sent = WebhookRecord(
        plan.topic_id,
        plan.topic,
        part.partition,
        record,
        message_id(found.webhook_id, plan.topic_id, part.partition, record.offset),
    )
    return _Step(progress, sent, record.offset)


def _letter(tx: Tx, found: ReplayInfo, progress: ReplayProgress, letter: StoredRecord) -> _Step:
    """Return a dead letter as its record, with the same id. Those of other queues, and delivered ones, are passed."""
    origin = origin_of(letter.headers)
    if (
        origin is None
        or not origin.queue.startswith(found.plan.queue)
        or attempts.is_delivered(tx, found.webhook_id, origin.topic, origin.partition, origin.offset)
    ):
        return _Step(replay.passed(found.plan, progress, letter.offset))
    topic = topics.find(tx, origin.topic, TopicConfig())
    topic_id = found.plan.topic_id if topic is None else topic.info.topic_id
    identity = message_id(found.webhook_id, topic_id, origin.partition, origin.offset)
    record = letter._replace(offset=origin.offset, headers=without_origin(letter.headers)[0])
    return _Step(progress, WebhookRecord(topic_id, origin.topic, origin.partition, record, identity), letter.offset)


def _save(tx: Tx, found: ReplayInfo, progress: ReplayProgress, status: ReplayStatus, epoch: int) -> bool:
    stored = webhooks.lock_by_id(tx, found.webhook_id)
    if stored is None or stored.epoch != epoch:
        raise LeaseLost
    ended_at_ms = None if status == "running" else clock.read(tx)
    return replays.save(tx, found.replay_id, progress, status, ended_at_ms)
