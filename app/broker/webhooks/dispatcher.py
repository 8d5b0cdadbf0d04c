"""Runs the workers of the webhooks that this node holds.

With PostgreSQL a node has a lease, extended every few seconds; webhooks without a live holder are taken by the nodes in
equal shares. With SQLite this process holds all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from secrets import randbits
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from app.broker.encryption.secret_box import WrongSecretKey
from app.broker.queues.bulk_changes import release_locks
from app.broker.webhooks.attempt_log import AttemptLog
from app.broker.webhooks.deliveries.parts import WorkerParts, attempt_of, open_receiver
from app.broker.webhooks.deliveries.sender import Sent
from app.broker.webhooks.deliveries.settling import stepped_back
from app.broker.webhooks.webhook_queues import add_queue, dead_letters_of
from app.broker.webhooks.webhooks import CHANGED
from app.domain.log.topic import TopicInfo
from app.errors.broker_error import BrokerError
from app.storage.db.transaction import Tx
from app.storage.log import topics
from app.storage.queues import queues
from app.storage.webhooks import attempts, lags, leases, webhooks
from app.storage.webhooks.attempts import Attempt, AttemptQuery
from app.storage.webhooks.leases import LeaseLost
from app.storage.webhooks.webhooks import StoredWebhook

if TYPE_CHECKING:
    from app.broker.webhooks.deliveries.feeds import WorkerSnapshot
    from app.broker.webhooks.deliveries.worker import Worker

LEASE_MS = 10_000
_SYNC_S = 3.0
_UNUSED_SYNC_S = 60.0
"""Without webhooks; a new one is announced, also by other nodes."""
_TAKEN_AT_ONCE = 500
_PAUSE_S = 1.0
_SMALLEST_STEP_MS = 1_000
_PING_BITS = 63
_LAST = 2**62
"""Above the ids of all attempts."""

_log = logging.getLogger(__name__)


class _Present(NamedTuple):
    """A webhook as the last look at all of them found it."""

    webhook_id: int
    version: int
    holder: str | None


class Dispatcher:
    """Keeps one worker running for each webhook that this node holds.

    Args:
        parts: What the workers share.
        shared: Whether other nodes use the database.

    Attributes:
        node_id: The id of this node, also in its lease.
    """

    def __init__(self, parts: WorkerParts, *, shared: bool) -> None:
        self._parts = parts
        self._shared = shared
        self.node_id = uuid4().hex if shared else "local"
        self._woken = asyncio.Event()
        self._workers: dict[int, tuple[Worker, asyncio.Task[None]]] = {}
        self._versions: dict[int, int] = {}
        self._has_lease = False
        self._is_first = True
        self._covered: tuple[tuple[int, int], int] | None = None
        self._is_used = False
        self._looked: tuple[int, float] | None = None
        parts.signals.add_listener(self._listen)

    async def run(self, on_success: Callable[[], None]) -> None:
        """Take webhooks and work them, until the task is cancelled. After an error the workers go on."""
        try:
            while True:
                self._woken.clear()
                await self._check_clock()
                await self._sync()
                on_success()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SYNC_S if self._is_used else _UNUSED_SYNC_S):
                        await self._woken.wait()
        except asyncio.CancelledError:
            await self._stop()
            raise

    async def test(self, stored: StoredWebhook) -> Attempt:
        """Send a signed ping of a webhook now, store the attempt, and return it."""
        from app.domain.webhooks.message import ping  # noqa: PLC0415 - only servers with webhooks

        parts, info = self._parts, stored.info
        now_ms = parts.clock_ms()
        message = ping(info.webhook_id, info.name, randbits(_PING_BITS))
        try:
            sent = await parts.sender.send(open_receiver(parts.box, stored, now_ms), message, now_ms)
        except WrongSecretKey as error:
            sent = Sent("not_sent", now_ms, 0, None, str(error))
        attempt = attempt_of(message.message_id, sent, 1)
        parts.log.add(info.webhook_id, attempt)
        await parts.log.store()
        query = AttemptQuery(message_id=message.message_id)
        stored_attempts = await parts.storage.read(attempts.list_, info.webhook_id, query, _LAST, 1)
        return stored_attempts[0] if stored_attempts else attempt

    async def store_attempts(self) -> bool:
        """Store the attempts since the last call. Return False: there is no more to do now."""
        return await self._parts.log.store()

    async def expire_attempts(self) -> bool:
        """Delete old attempts. Return whether there may be more."""
        return await self._parts.log.expire()

    @property
    def log(self) -> AttemptLog:
        """The attempts of this node."""
        return self._parts.log

    def snapshots(self) -> list[WorkerSnapshot]:
        """Return what the workers of this node do now."""
        return [worker.snapshot for worker, _ in self._workers.values()]

    async def lags(self) -> dict[str, int]:
        """Return how many records have not ended for each webhook that this node works."""
        if not self._workers:
            return {}
        found = await self._parts.storage.read(lags.unfinished)
        return {each.webhook: found[each.webhook] for each in self.snapshots()}

    def _listen(self, announced: int | None) -> None:
        if announced is None or announced == CHANGED:
            self._woken.set()

    async def _sync(self) -> None:
        """Take what is free, start and stop workers, and wake those whose webhook has changed."""
        storage = self._parts.storage
        present, topic_set = await storage.read(_present)
        self._is_used = bool(present)
        if self._shared and (present or self._has_lease):
            live = await self._renew()
            if await self._share(present, live):
                present, topic_set = await storage.read(_present)
        elif self._is_first or any(each.holder != self.node_id for each in present):
            await self._take_all()
            present, topic_set = await storage.read(_present)
        self._is_first = False
        await self._run_workers(present, topic_set)

    async def _check_clock(self) -> None:
        """Pull in what waits for a time, if the clock has stepped back since the last look."""
        now_ms, now_s = self._parts.clock_ms(), time.monotonic()
        if self._looked is not None:
            before_ms, before_s = self._looked
            step_ms = before_ms + round((now_s - before_s) * 1_000) - now_ms
            if step_ms > _SMALLEST_STEP_MS:
                await self._parts.storage.write(_step_back, self.node_id, step_ms, now_ms)
                for worker, _ in self._workers.values():
                    worker.step_back(step_ms)
        self._looked = now_ms, now_s

    async def _renew(self) -> list[str]:
        """Extend the lease of this node. Workers that could not send without it go on."""
        lease, began_s = self._parts.lease, time.monotonic()
        had_ended = not lease.lasts
        live = await self._parts.storage.write(leases.renew, self.node_id, LEASE_MS)
        lease.until_s = began_s + LEASE_MS / 1_000
        self._has_lease = True
        if had_ended:
            for worker, _ in self._workers.values():
                worker.reload()
        return live

    async def _share(self, present: Sequence[_Present], live: Sequence[str]) -> bool:
        """Take free webhooks up to the share of this node, and leave what is beyond it to the others.

        Returns:
            Whether a holder has changed.
        """
        share = math.ceil(len(present) / max(1, len(live)))
        held = [each.webhook_id for each in present if each.holder == self.node_id]
        if len(held) > share:
            left = held[share:]
            for webhook_id in left:
                await self._end(webhook_id)
            await self._parts.storage.write(leases.release, self.node_id, left)
            return True
        if len(held) < share and any(each.holder not in live for each in present):
            taken = await self._parts.storage.write(leases.take_free, self.node_id, live, share - len(held))
            await self._free_locks(taken)
            return True
        return False

    async def _take_all(self) -> None:
        """Take all webhooks of an embedded database. At the start, locks of the process before it are freed."""
        live = () if self._is_first else (self.node_id,)
        while taken := await self._parts.storage.write(leases.take_free, self.node_id, live, _TAKEN_AT_ONCE):
            await self._free_locks(taken)
            live = (self.node_id,)

    async def _free_locks(self, webhook_ids: Sequence[int]) -> None:
        for webhook_id in webhook_ids:
            await self._parts.storage.write(_free_locks, webhook_id)

    async def _run_workers(self, present: Sequence[_Present], topic_set: tuple[int, int]) -> None:
        held = {each.webhook_id: each.version for each in present if each.holder == self.node_id}
        for webhook_id in [*self._workers]:
            _, task = self._workers[webhook_id]
            if webhook_id not in held:
                await self._end(webhook_id)
            elif task.done():
                self._report(webhook_id, task)
                del self._workers[webhook_id]
        for webhook_id, version in held.items():
            if webhook_id not in self._workers:
                await self._start(webhook_id)
            elif self._versions.get(webhook_id) != version:
                self._workers[webhook_id][0].reload()
        changed = held != self._versions
        self._versions = held
        to_cover = topic_set, self._parts.access.version
        if changed or to_cover != self._covered:
            await self._cover_new_topics(held)
            self._covered = to_cover

    async def _start(self, webhook_id: int) -> None:
        from app.broker.webhooks.deliveries.worker import Worker  # noqa: PLC0415 - only servers with webhooks

        stored = await self._parts.storage.read(webhooks.find_by_id, webhook_id)
        if stored is not None and stored.holder == self.node_id:
            worker = Worker(self._parts, stored)
            self._workers[webhook_id] = worker, asyncio.create_task(worker.run(), name=f"webhook-{stored.info.name}")

    async def _end(self, webhook_id: int) -> None:
        """Stop a worker: what it is sending is given up, and comes back when its lock has ended or is freed."""
        if (found := self._workers.pop(webhook_id, None)) is not None:
            found[1].cancel()
            await asyncio.gather(found[1], return_exceptions=True)

    def _report(self, webhook_id: int, task: asyncio.Task[None]) -> None:
        """Log why a worker ended, unless another node has taken the webhook or the database fails."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LeaseLost | BrokerError):
            _log.error("the worker of webhook %d failed and starts again", webhook_id, exc_info=error)

    async def _cover_new_topics(self, held: dict[int, int]) -> None:
        """Add queues for topics that have appeared, to webhooks with a pattern or with a topic that was deleted."""
        if not held or not await self._parts.storage.read(_any_uncovered, self.node_id):
            return
        for webhook_id in held:
            for name in await self._parts.storage.read(_uncovered, webhook_id):
                await self._cover(webhook_id, name)
                self._workers[webhook_id][0].reload()

    async def _cover(self, webhook_id: int, name: str) -> None:
        parts = self._parts
        stored = await parts.storage.read(webhooks.find_by_id, webhook_id)
        if stored is not None and name not in await parts.access.unreadable(stored.owner, [name]):
            topic = await parts.topics.refresh(name)
            letters = await dead_letters_of(parts.topics, stored.info.config)
            await parts.storage.write(_cover, webhook_id, topic, letters)

    async def _stop(self) -> None:
        await asyncio.gather(*(self._end(webhook_id) for webhook_id in [*self._workers]))
        with contextlib.suppress(BrokerError):
            await self._parts.log.store()
        await self._parts.sender.close()
        if self._has_lease:
            with contextlib.suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await self._parts.storage.write(leases.release, self.node_id)


def _present(tx: Tx) -> tuple[list[_Present], tuple[int, int]]:
    """Return all webhooks, and two numbers that differ after a topic was created or deleted."""
    present = [_Present(*each) for each in webhooks.versions(tx)]
    return present, webhooks.topic_set(tx) if present else (0, 0)


def _free_locks(tx: Tx, webhook_id: int) -> None:
    stored = webhooks.find_by_id(tx, webhook_id)
    for queue in () if stored is None else webhooks.hidden_queues(tx, stored.info.name):
        if (info := queues.find_by_id(tx, queue.queue_id)) is not None:
            release_locks(tx, info)


def _step_back(tx: Tx, holder: str, step_ms: int, now_ms: int) -> None:
    """Pull in the breakers and the pauses of the webhooks of a node."""
    for webhook_id in [each.info.webhook_id for each in webhooks.held_by(tx, holder)]:
        if (stored := webhooks.lock_by_id(tx, webhook_id)) is not None:
            webhooks.save(tx, stepped_back(stored, step_ms, now_ms))


def _any_uncovered(tx: Tx, holder: str) -> bool:
    return any(_uncovered_of(tx, stored) for stored in webhooks.held_by(tx, holder))


def _uncovered(tx: Tx, webhook_id: int) -> list[str]:
    stored = webhooks.find_by_id(tx, webhook_id)
    return [] if stored is None else _uncovered_of(tx, stored)


def _uncovered_of(tx: Tx, stored: StoredWebhook) -> list[str]:
    """Return the existing topics that a webhook covers and has no queue for."""
    covered = {queue.topic for queue in webhooks.hidden_queues(tx, stored.info.name)}
    config = stored.info.config
    if config.topic_pattern is None and covered >= set(config.topics):
        return []
    return [name for name in topics.all_names(tx) if name not in covered and config.covers(name)]


def _cover(tx: Tx, webhook_id: int, topic: TopicInfo, letters: TopicInfo | None) -> None:
    """Add the queue of a topic that has appeared: it starts at its earliest record.

    A webhook that was changed meanwhile is left as it is: its new version is looked at next.
    """
    stored = webhooks.lock_by_id(tx, webhook_id)
    if stored is None or topic.name not in _uncovered_of(tx, stored):
        return
    if stored.info.config.dead_letters == (None if letters is None else letters.name):
        add_queue(tx, stored, topic, letters, "earliest")
