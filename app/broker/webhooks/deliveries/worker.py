"""The worker of one webhook on the node that holds it: acquire, post, settle, in a loop.

No transaction is open during a POST. What ended while a transaction ran is settled in the next one, which also acquires
what is sent next; so a busy webhook needs one transaction for many attempts, and an idle one none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence

from app.broker.encryption.secret_box import WrongSecretKey
from app.broker.queues.deliveries.delivery_transaction import QueueChanged
from app.broker.webhooks.deliveries.cycle import (
    Counts,
    CycleResult,
    OpenQueue,
    QueueResult,
    QueueWork,
    Settling,
    load_webhook,
    run_cycle,
)
from app.broker.webhooks.deliveries.feeds import (
    Feed,
    OnItsWay,
    QueueWatch,
    WorkerSnapshot,
    batches_of,
    divided,
    exhausted_event,
    on_its_way,
)
from app.broker.webhooks.deliveries.parts import WorkerParts, attempt_of, open_receiver
from app.broker.webhooks.deliveries.sender import Receiver, Sent
from app.broker.webhooks.deliveries.sending import Sending
from app.broker.webhooks.deliveries.settling import Verdicts, pulled_in, settle_all
from app.broker.webhooks.replays.replayer import Line, Replayer
from app.domain.queues.delivery import Acknowledgement
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.webhooks.breaker import BreakerState
from app.domain.webhooks.filter import Filter, compile_filter
from app.errors.broker_error import BrokerError
from app.storage.queues.queues import negative_queue_id
from app.storage.webhooks import retries
from app.storage.webhooks.leases import LeaseLost
from app.storage.webhooks.webhooks import StoredWebhook

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_OWNER_CHECK_S = 2.0
"""How often a worker looks whether the owner may read a topic again."""
_GATHER_S = 0.02
"""How long an attempt that has ended waits to be settled, if others end in the meantime."""

_log = logging.getLogger(__name__)


class Worker:
    """Works one webhook until another node takes it, or it changes.

    Raises of `run`:
        LeaseLost: Another node works the webhook, or it was deleted.
    """

    def __init__(self, parts: WorkerParts, stored: StoredWebhook) -> None:
        self._parts = parts
        self._stored = stored
        self._woken = asyncio.Event()
        self._feeds: dict[int, Feed] = {}
        self._gathering_since: float | None = None
        self._verdicts = Verdicts.of(pulled_in(stored, parts.clock_ms()))
        self._sending = Sending(
            parts.sender, parts.egress, self._verdicts, parts.clock_ms, self._note, parts.lease, parts.memory
        )
        self._overlap_ends_at_ms: int | None = None
        self._receiver: Receiver | None = None
        self._is_keyless = False
        self._filter: Filter | None = None
        self._rotation = 0
        self._retrying = 0
        self._is_stale = True
        self._denied: frozenset[str] = frozenset()
        self._pause_s = _FIRST_PAUSE_S
        self._replayer = Replayer(parts, self._sending, self._verdicts, self._line, self._woken.set)

    @property
    def snapshot(self) -> WorkerSnapshot:
        """What the worker does now, for metrics."""
        is_open = self._verdicts.breaker.state(self._parts.clock_ms()) is not BreakerState.CLOSED
        return WorkerSnapshot(self._stored.info.name, self._retrying, self._sending.in_flight, is_open)

    def reload(self) -> None:
        """Load the webhook again, because it has changed. What is being sent goes on."""
        self._is_stale = True
        self._woken.set()

    def step_back(self, step_ms: int) -> None:
        """Let replays wait no longer than before, because the clock has stepped back."""
        self._replayer.step_back(step_ms)
        self._woken.set()

    async def run(self) -> None:
        """Work the webhook."""
        try:
            while True:
                try:
                    await self._step()
                    self._pause_s = _FIRST_PAUSE_S
                except BrokerError:  # the storage has logged it
                    await asyncio.sleep(self._pause_s)
                    self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        except asyncio.CancelledError:
            await self._stop_sending()
            await self._settle_last()
            raise
        finally:
            await self._stop_sending()
            self._sending.forget()
            self._close_feeds()

    async def _stop_sending(self) -> None:
        await self._sending.stop()
        await self._replayer.stop()

    async def _settle_last(self) -> None:
        """Settle what has ended, and give back what was not sent; another node, or the next start, goes on there."""
        self._give_back(self._sending.take_back())
        works = [
            QueueWork(feed.open_queue, tuple(feed.settlings), 0, 0, admit_new=False, rotation=0)
            for _, feed in sorted(self._feeds.items())
            if feed.settlings
        ]
        if works or self._verdicts.changed:
            with contextlib.suppress(BrokerError, LeaseLost, QueueChanged):
                await self._parts.storage.write(run_cycle, self._stored, works, self._verdicts.take())

    async def _step(self) -> None:
        """Run one transaction, or wait. What waits to be settled outlives an outage of the database."""
        self._woken.clear()
        self._replayer.check()
        if self._is_stale:
            await self._open()
            self._replayer.wake()
        now_ms = self._parts.clock_ms()
        if self._overlap_ends_at_ms is not None and now_ms >= self._overlap_ends_at_ms:
            self._configure(self._stored)
        self._sending.begin()
        await self._check_owner()
        self._give_back(self._sending.take_back_held())
        if (left_s := self._left_to_gather()) > 0:
            await self._wait_for(left_s)
            return
        works = self._works()
        if works or self._verdicts.changed:
            self._gathering_since = None
            await self._cycle(works)
        else:
            await self._wait(now_ms)

    async def _check_owner(self) -> None:
        """Stop what the owner may no longer read, and go on with what it may read again."""
        topics = [feed.open_queue.queue.topic for feed in self._feeds.values()]
        denied = await self._parts.access.unreadable(self._stored.owner, topics)
        if denied != self._denied:
            self._denied = denied
            self._give_back(self._sending.take_back())
            self._replayer.wake()

    def _left_to_gather(self) -> float:
        """Return how many seconds to wait for more attempts to end, so that one transaction settles several.

        There is nothing to wait for if no attempt has ended, none is under way, or few records are left to send.
        """
        if self._gathering_since is None or not self._sending.in_flight or self._is_stale:
            return 0
        if self._sending.ready <= self._stored.info.config.max_in_flight:
            return 0
        return self._gathering_since + _GATHER_S - asyncio.get_running_loop().time()

    async def _open(self) -> None:
        """Load the webhook, its queues and their topics. A queue keeps what waits to be settled."""
        self._is_stale = False
        try:
            stored, infos, retrying = await self._parts.storage.read(load_webhook, self._stored.info.webhook_id)
            if stored is None or stored.epoch != self._stored.epoch:
                raise LeaseLost
            opened = [OpenQueue(info, await self._parts.topics.refresh(info.topic)) for info in infos]
        except BrokerError:
            self._is_stale = True
            raise
        pending = [each for feed in self._feeds.values() for each in feed.settlings]
        self._retrying = retrying + sum(each.more_retrying for each in pending)
        before = self._feeds
        self._close_feeds()
        for open_queue in opened:
            queue_id = open_queue.queue.queue_id
            ids = (*open_queue.topic.partition_ids, negative_queue_id(queue_id))
            watch = QueueWatch(self._parts.signals, ids, self._woken)
            watch.__enter__()
            feed = before.get(queue_id) or Feed(open_queue, watch)
            feed.open_queue, feed.watch, feed.due_at_s = open_queue, watch, None
            self._feeds[queue_id] = feed
        self._configure(stored)

    def _configure(self, stored: StoredWebhook) -> None:
        """Take the configuration over. What is ready was chosen by the one before: it is acquired again."""
        self._give_back(self._sending.take_back())
        config, now_ms = stored.info.config, self._parts.clock_ms()
        if stored.version != self._stored.version:
            self._verdicts.adopt(stored)
        self._stored = stored
        is_overlap = stored.previous_secret is not None and now_ms < stored.previous_until_ms
        self._overlap_ends_at_ms = stored.previous_until_ms if is_overlap else None
        self._filter = None if config.filter is None else compile_filter(config.filter)
        try:
            self._receiver = open_receiver(self._parts.box, stored, now_ms)
        except WrongSecretKey as error:
            if not self._is_keyless:
                _log.error("webhook %s sends nothing: %s", stored.info.name, error)
                self._parts.log.add(
                    stored.info.webhook_id, attempt_of("", Sent("not_sent", now_ms, 0, None, str(error)), 1)
                )
            self._receiver = None
        self._is_keyless = self._receiver is None
        self._sending.configure(stored.info, self._receiver)

    def _line(self) -> Line:
        return Line(self._stored, self._receiver, self._filter)

    def _close_feeds(self) -> None:
        for feed in self._feeds.values():
            feed.watch.__exit__(None, None, None)
        self._feeds = {}

    def _works(self) -> list[QueueWork]:
        """Return what the next transaction does in each queue."""
        max_bytes = self._sending.bytes_to_acquire()
        left = self._parts.max_retrying - self._retrying - self._sending.held
        wanted = self._shares(left) if max_bytes else {}
        max_bytes = max(1, max_bytes // max(1, len(wanted)))
        works = []
        for queue_id in sorted(self._feeds):
            feed = self._feeds[queue_id]
            if queue_id in wanted or feed.settlings:
                share = wanted.get(queue_id, 0)
                settlings = tuple(feed.settlings)
                works.append(QueueWork(feed.open_queue, settlings, share, max_bytes, left > 0, self._rotation))
        self._rotation += 1
        return works

    def _shares(self, left: int) -> dict[int, int]:
        """Divide what may be acquired among the queues that may have records; the remainder goes round.

        Args:
            left: How many more records may be retried or in flight; without any, only retried ones are acquired.
        """
        config = self._stored.info.config
        room = 0 if self._parts.signals.closed else self._sending.room_to_acquire()
        room *= config.max_batch_records if config.batches else 1
        room = min(room, left) if left > 0 else room
        now_s = time.monotonic()
        ids = [
            queue_id
            for queue_id, feed in sorted(self._feeds.items())
            if feed.may_have_records(now_s) and feed.open_queue.queue.topic not in self._denied
        ]
        if not room or not ids:
            return {}
        return divided(room, ids, self._rotation)

    async def _cycle(self, works: Sequence[QueueWork]) -> None:
        """Run one transaction, and begin to send what it acquired."""
        outcome = self._verdicts.take()
        feeds = [self._feeds[work.open_queue.queue.queue_id] for work in works]
        for feed, work in zip(feeds, works, strict=True):
            if work.wanted:
                feed.watch.announced = False
        try:
            result = await self._parts.storage.write(run_cycle, self._stored, works, outcome)
        except QueueChanged:
            self._verdicts.give_back(outcome)
            self.reload()
            return
        except BaseException:
            self._verdicts.give_back(outcome)
            for feed in feeds:
                feed.watch.announced = True
            raise
        for feed, work in zip(feeds, works, strict=True):
            del feed.settlings[: len(work.settlings)]
        self._after(result, works)

    def _after(self, result: CycleResult, works: Sequence[QueueWork]) -> None:
        if result.stored.version != self._stored.version:
            self._configure(result.stored)
        if result.appended:
            self._parts.signals.announce(result.appended)
        now_s = time.monotonic()
        for work in works:
            feed = self._feeds[work.open_queue.queue.queue_id]
            found = result.queues[work.open_queue.queue.queue_id]
            if found.to_archive:
                self._parts.to_archive()
            if found.lost:  # its attempts are not counted any more
                self.reload()
            if work.wanted:
                feed.watch.announced |= found.more
                feed.watch.log_end_offsets.update(found.log_end_offsets)
                feed.due_at_s = (
                    None
                    if found.available_at_ms is None
                    else now_s + max(1, found.available_at_ms - found.now_ms) / 1_000
                )
            elif found.more:
                feed.watch.announced = True
            self._begin(feed, found)

    def _begin(self, feed: Feed, found: QueueResult) -> None:
        """Filter what was acquired, and send the rest."""
        to_send = []
        for delivery in found.deliveries:
            each = on_its_way(self._stored.info.webhook_id, feed, delivery, found)
            if each.attempts == retries.EXHAUSTED:
                self._end_again(each)
            elif not self._line().passes(delivery.record):
                accepted = Acknowledgement(delivery.delivery_id, AcknowledgeType.ACCEPT)
                feed.settlings.append(Settling(accepted, each.key, None, each.attempts != 0))
                self._retrying -= each.attempts > 0
                self._verdicts.add(Counts(filtered=1))
            else:
                to_send.append(each)
        self._sending.add(batches_of(self._stored.info.config, to_send))

    def _end_again(self, each: OnItsWay) -> None:
        """End a record whose dead letter was refused before: it is not sent again."""
        rejected = Acknowledgement(each.delivery.delivery_id, AcknowledgeType.REJECT)
        each.feed.settlings.append(Settling(rejected, each.key, retries.EXHAUSTED, had_attempts=False))
        self._woken.set()

    def _give_back(self, held: Sequence[OnItsWay]) -> None:
        """Release records that were not sent, uncharged."""
        for each in held:
            withdrawn = Acknowledgement(each.delivery.delivery_id, AcknowledgeType.WITHDRAW)
            each.feed.settlings.append(Settling(withdrawn, each.key, each.attempts or None, each.attempts != 0))

    def _note(self, batch: Sequence[OnItsWay], sent: Sent, is_probe: bool) -> None:  # noqa: FBT001 - a callback
        """Note what becomes of the records of an attempt."""
        now_ms = self._parts.clock_ms()
        fates = settle_all(
            self._stored.info,
            [each.attempts for each in batch],
            sent,
            self._verdicts,
            now_ms,
            random.random(),  # noqa: S311 - spreads retries over time
            is_probe=is_probe,
        )
        for each, fate in zip(batch, fates, strict=True):
            acknowledgement = Acknowledgement(each.delivery.delivery_id, fate.acknowledge_type, fate.delay_ms)
            each.feed.settlings.append(Settling(acknowledgement, each.key, fate.attempts, each.attempts != 0))
            self._retrying += ((fate.attempts or 0) > 0) - (each.attempts > 0)
            self._log(each, sent, fate.next_attempt_at_ms)
            if fate.is_exhausted:
                self._verdicts.note(exhausted_event(self._stored.info, each, sent, now_ms))
        if self._gathering_since is None:
            self._gathering_since = asyncio.get_running_loop().time()
        self._woken.set()

    def _log(self, each: OnItsWay, sent: Sent, next_attempt_at_ms: int | None) -> None:
        attempt = attempt_of(
            each.record.message_id, sent, each.attempts + 1, each.record, next_attempt_at_ms=next_attempt_at_ms
        )
        self._parts.log.add(self._stored.info.webhook_id, attempt)

    async def _wait(self, now_ms: int) -> None:
        """Wait for an announcement, an attempt that ends, a change, or the next time at which something is due."""
        left_s: float | None = None
        if (ready_at_ms := self._sending.ready_at_ms()) is not None:
            left_s = (ready_at_ms - now_ms) / 1_000  # nothing begins before, and records may wait that are not delayed
        elif self._sending.room_to_acquire() and self._sending.bytes_to_acquire():
            times = [feed.due_at_s for feed in self._feeds.values() if feed.due_at_s is not None]
            left_s = min(times) - time.monotonic() if times else None
        if self._denied:
            left_s = _OWNER_CHECK_S if left_s is None else min(left_s, _OWNER_CHECK_S)
        await self._wait_for(None if left_s is None else max(0.001, left_s))

    async def _wait_for(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
