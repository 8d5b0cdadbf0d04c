"""Sends the records of a webhook's replays: one after the other, within a partition in the order of the log.

The replays take turns, so that one whose record waits for its next attempt does not hold the others up.
Its progress is stored after each record, together with a check that this node still holds the webhook. So a crash sends
at most the record again that was on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from app.broker.webhooks.deliveries.parts import WorkerParts, attempt_of
from app.broker.webhooks.deliveries.sender import Receiver, Sent
from app.broker.webhooks.deliveries.sending import Sending
from app.broker.webhooks.deliveries.settling import Verdicts
from app.domain.log.record import StoredRecord
from app.domain.log.topic import TopicConfig
from app.domain.queues.dead_letter import origin_of, without_origin
from app.domain.webhooks import replay
from app.domain.webhooks.filter import Filter
from app.domain.webhooks.message import WebhookRecord, marks_of, message_id
from app.domain.webhooks.replay import ReplayInfo, ReplayProgress, ReplayStatus
from app.domain.webhooks.retries import retry_delay_ms
from app.domain.webhooks.subject import subject_of
from app.errors.broker_error import BrokerError
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import pages, topics
from app.storage.webhooks import attempts, replays, webhooks
from app.storage.webhooks.leases import LeaseLost
from app.storage.webhooks.webhooks import StoredWebhook

_UNCHARGED_MS = 5_000
_PAUSE_S = 1.0
_OWNER_CHECK_MS = 2_000
"""How long a replay waits whose owner may not read the topic."""


class Line(NamedTuple):
    """The webhook as its worker has it now.

    Attributes:
        receiver: None if its secrets cannot be decrypted: then nothing is sent.
    """

    stored: StoredWebhook
    receiver: Receiver | None
    filter: Filter | None

    def passes(self, record: StoredRecord) -> bool:
        """Return whether a record is sent: it fits the filter, and has not passed this webhook before."""
        marks = marks_of(record)
        if marks and self.stored.info.mark in marks:
            return False
        return self.filter is None or self.filter.matches(subject_of(record))


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
    """Sends the replays of one webhook in turns, beside its new records.

    Args:
        parts: What all workers share.
        sending: The attempts of the webhook: those of replays are a part of `max_in_flight`.
        verdicts: The state of the webhook.
        line: Returns the webhook as it is now.
        on_change: Called when an attempt has ended, and when the replayer has.
    """

    def __init__(
        self,
        parts: WorkerParts,
        sending: Sending,
        verdicts: Verdicts,
        line: Callable[[], Line],
        on_change: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._sending = sending
        self._verdicts = verdicts
        self._line = line
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._running: dict[int, ReplayInfo] = {}
        self._last_id = 0

    def wake(self) -> None:
        """Look for replays that have begun or were cancelled.

        Raises:
            LeaseLost: Another node works the webhook.
        """
        self._woken.set()
        self.check()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="webhook-replay")
            self._task.add_done_callback(lambda _: self._on_change())

    def check(self) -> None:
        """Raise the error that has ended the replayer, if one did.

        Raises:
            LeaseLost: Another node works the webhook.
        """
        task = self._task
        if task is not None and task.done():
            self._task = None
            task.result()

    def step_back(self, step_ms: int) -> None:
        """Attempt again no later than before, because the clock has stepped back."""
        for replay_id, info in self._running.items():
            retry_at_ms = info.progress.retry_at_ms - step_ms
            progress = msgspec.structs.replace(info.progress, retry_at_ms=retry_at_ms)
            self._running[replay_id] = info._replace(progress=progress)
        self._woken.set()

    async def stop(self) -> None:
        """Break off what is being sent, and wait until its connection is closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Send one record after the other, each of the next replay that has one to send, until no replay is left."""
        while self._woken.is_set():
            self._woken.clear()
            try:
                while (found := await self._next_due()) is not None:
                    await self._advance(found)
            except BrokerError:  # the storage has logged it
                await asyncio.sleep(_PAUSE_S)
                self._woken.set()
            if self._running:
                await self._wait_for_due()

    async def _next_due(self) -> ReplayInfo | None:
        """Return the running replay whose turn it is among those that need not wait, or None."""
        webhook_id = self._line().stored.info.webhook_id
        self._running = await self._parts.storage.read(_running, webhook_id, self._running)
        now_ms = self._parts.clock_ms()
        due = [each for each in self._running.values() if each.progress.retry_at_ms <= now_ms]
        return min(due, key=lambda each: (each.replay_id <= self._last_id, each.replay_id), default=None)

    async def _wait_for_due(self) -> None:
        """Wait for a change, or until the next attempt of a replay is due."""
        due_at_ms = min(each.progress.retry_at_ms for each in self._running.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(1, due_at_ms - self._parts.clock_ms()) / 1_000):
                await self._woken.wait()
        self._woken.set()

    async def _advance(self, found: ReplayInfo) -> None:
        """Send the next record of a replay, and store how far it is."""
        self._last_id = found.replay_id
        step = await self._parts.storage.read(_next, found, found.progress)
        progress = step.progress
        if step.record is not None and await self._is_denied(step.record.topic):
            retry_at_ms = self._parts.clock_ms() + _OWNER_CHECK_MS
            self._running[found.replay_id] = found._replace(
                progress=msgspec.structs.replace(found.progress, retry_at_ms=retry_at_ms)
            )
            return
        if step.record is not None:
            progress = await self._send(found, progress, step.record, step.offset)
        self._running[found.replay_id] = found._replace(progress=progress)
        status: ReplayStatus = "done" if step.is_done else "running"
        await self._parts.storage.write(_save, found, progress, status, self._line().stored.epoch)

    async def _is_denied(self, topic: str) -> bool:
        """Return whether the owner of the webhook may not read a topic now."""
        return bool(await self._parts.access.unreadable(self._line().stored.owner, [topic]))

    async def _send(
        self, found: ReplayInfo, progress: ReplayProgress, record: WebhookRecord, offset: int
    ) -> ReplayProgress:
        """Send one record when its turn has come, and return the progress after it."""
        if not found.plan.unfiltered and not self._line().passes(record.record):
            return replay.passed(found.plan, progress, offset, filtered=1)
        await self._sending.begin_other()
        is_probe = self._sending.is_probing
        try:
            is_running = await self._parts.storage.read(replays.is_running, found.replay_id)
            stored, receiver, _ = self._line()
            if receiver is None or not is_running:
                return progress
            number = progress.attempts + 1
            now_ms = self._parts.clock_ms()
            sent = await self._parts.sender.send_records(receiver, stored.info.config.mode, [record], number, now_ms)
        finally:
            self._sending.end_other()
        if sent.is_charged:
            self._verdicts.record(stored.info, sent, self._parts.clock_ms())
        after, next_at_ms = self._judged(found, progress, offset, sent, stored, is_probe=is_probe)
        attempt = attempt_of(record.message_id, sent, number, record, next_attempt_at_ms=next_at_ms)
        self._parts.log.add(found.webhook_id, attempt)
        self._on_change()
        return after

    def _judged(
        self,
        found: ReplayInfo,
        progress: ReplayProgress,
        offset: int,
        sent: Sent,
        stored: StoredWebhook,
        *,
        is_probe: bool,
    ) -> tuple[ReplayProgress, int | None]:
        now_ms = self._parts.clock_ms()
        if sent.outcome == "delivered":
            return replay.passed(found.plan, progress, offset, delivered=1), None
        if is_probe or not sent.is_charged:
            retry_at_ms = now_ms + (0 if is_probe else _UNCHARGED_MS)
            return replay.postponed(progress, progress.attempts, retry_at_ms), retry_at_ms
        attempts = progress.attempts + 1
        delays = stored.info.config.retry_delays_ms
        jitter = random.random()  # noqa: S311 - spreads retries
        delay_ms = retry_delay_ms(attempts, delays, sent.status, sent.requested_ms, jitter)
        if delay_ms is None:
            return replay.passed(found.plan, progress, offset, failed=1), None
        return replay.postponed(progress, attempts, now_ms + delay_ms), now_ms + delay_ms


def _running(tx: Tx, webhook_id: int, known: Mapping[int, ReplayInfo]) -> dict[int, ReplayInfo]:
    """Return the running replays of a webhook by id; what is known of them is not loaded again."""
    ids = replays.running(tx, webhook_id)
    loaded = {each: replays.find(tx, webhook_id, each) for each in ids if each not in known}
    return {each: info for each in ids if (info := known.get(each) or loaded[each]) is not None}


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


def _save(tx: Tx, found: ReplayInfo, progress: ReplayProgress, status: ReplayStatus, epoch: int) -> None:
    stored = webhooks.lock_by_id(tx, found.webhook_id)
    if stored is None or stored.epoch != epoch:
        raise LeaseLost
    ended_at_ms = None if status == "running" else clock.read(tx)
    replays.save(tx, found.replay_id, progress, status, ended_at_ms)
