"""Acquire and acknowledge records; requests of a queue that arrive while a transaction runs share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from app.broker.queues.deliveries.delivery_transaction import DeliveryBatch, DeliveryResult, QueueChanged, deliver
from app.broker.queues.queues import Queues
from app.broker.waiting.batch_committer import BatchCommitter, Lane
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals
from app.domain.log.topic import TopicInfo
from app.domain.metrics.node_metrics import CommitCounts
from app.domain.queues.delivery import (
    Acknowledge,
    Acknowledged,
    Acknowledgement,
    Acquire,
    Acquired,
    Answer,
    Request,
    Retry,
)
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.queues.queue import QueueInfo
from app.errors.broker_error import BrokerError
from app.errors.database import ServiceUnavailable
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.queues.queues import negative_queue_id

_ATTEMPTS = 5
_MAX_REQUESTS = 200
_MAX_RECORDS = 10_000


class _Waiting:
    """A request that waits for its answer.

    Attributes:
        deadline: Deadline of an acquire; nothing is acquired after its client has disconnected.
        wait_for_locks: Whether its transaction waits for share partitions that other nodes have locked.
    """

    __slots__ = ("answer", "deadline", "queue", "request", "topic", "wait_for_locks")

    def __init__(
        self,
        request: Request,
        queue: QueueInfo,
        topic: TopicInfo,
        deadline: Deadline | None,
        answer: asyncio.Future[Answer],
    ) -> None:
        self.request = request
        self.queue = queue
        self.topic = topic
        self.deadline = deadline
        self.wait_for_locks = False
        self.answer = answer

    @property
    def max_records(self) -> int:
        """How many records it acquires or acknowledges at most."""
        return self.request.max_records if isinstance(self.request, Acquire) else len(self.request.items)


class DeliveryBatcher(BatchCommitter[_Waiting, DeliveryResult]):
    """Acquires and acknowledges records of queues.

    Args:
        recheck_ms: Interval at which a waiting acquire searches without an announcement if nodes share the database.
        to_archive: Called when there is a record to archive.
        time: Clock; the default is the database's.
        counts: Counts the transactions; None counts nothing.
    """

    operation = "delivery"
    answered_errors = (BrokerError, QueueChanged)

    def __init__(
        self,
        storage: Storage,
        queues: Queues,
        signals: Signals,
        *,
        recheck_ms: int,
        to_archive: Callable[[], None],
        time: Callable[[Tx], int] = clock.read,
        counts: CommitCounts | None = None,
    ) -> None:
        super().__init__(counts)
        self._storage = storage
        self._queues = queues
        self._signals = signals
        self._recheck_ms = recheck_ms if storage.dialect.shared else None
        self._to_archive = to_archive
        self._time = time
        self._rotation = 0
        self.requests = 0
        self.transactions = 0

    async def acquire(self, name: str, request: Acquire, deadline: Deadline | None = None) -> Acquired:
        """Acquire records, and wait for the first one until the deadline.

        If the client disconnects before it is answered, its records are released. Records of a request with an
        Idempotency-Key stay acquired, because the client may have repeated the request and received them.

        Raises:
            UnknownQueue: There is no such queue, or it was deleted during the wait.
            IdempotencyKeyReused: The key was used for another request.
        """
        acquired = await self._acquired(name, request, deadline)
        if acquired.deliveries and request.key is None and deadline is not None and deadline.disconnected:
            items = [Acknowledgement(each.delivery_id, AcknowledgeType.WITHDRAW) for each in acquired.deliveries]
            await self.acknowledge(name, Acknowledge(items))
        return acquired

    async def acknowledge(self, name: str, request: Acknowledge) -> Acknowledged:
        """Settle deliveries, independently of each other.

        Raises:
            UnknownQueue: There is no such queue.
            IdempotencyKeyReused: The key was used for another request.
        """
        for attempt in range(_ATTEMPTS):
            queue, topic = await self._queues.route(name, refresh=attempt > 0)
            try:
                answer = await self._answer_to(_Waiting(request, queue, topic, None, self._new_future()))
            except QueueChanged:
                continue
            assert isinstance(answer, Acknowledged)  # noqa: S101 - the answer to its request
            return answer
        raise ServiceUnavailable("the queue or its topic changes too often; try again")

    async def _acquired(self, name: str, request: Acquire, deadline: Deadline | None) -> Acquired:
        for attempt in range(_ATTEMPTS):
            queue, topic = await self._queues.route(name, refresh=attempt > 0)
            watched = (
                ()
                if deadline is None or deadline.expired
                else (*topic.partition_ids, negative_queue_id(queue.queue_id))
            )
            with self._signals.watch(watched) as watch:
                try:
                    while True:
                        watch.clear()
                        last = deadline is None or deadline.expired or self._signals.closed
                        answer = await self._answer_to(_Waiting(request, queue, topic, deadline, self._new_future()))
                        assert isinstance(answer, Acquired)  # noqa: S101 - the answer to its request
                        if answer.deliveries or deadline is None or last:
                            return answer
                        watch.log_end_offsets.update(answer.log_end_offsets or {})
                        await deadline.wait(watch, self._pause_ms(answer))
                except QueueChanged:
                    continue
        raise ServiceUnavailable("the queue or its topic changes too often; try again")

    def _pause_ms(self, answer: Acquired) -> int | None:
        """Return after how long to search again without an announcement, or None."""
        pauses = [self._recheck_ms] if self._recheck_ms is not None else []
        if answer.available_at_ms is not None:
            pauses.append(max(1, answer.available_at_ms - answer.now_ms))
        return min(pauses, default=None)

    async def _answer_to(self, waiting: _Waiting) -> Answer:
        self._add(waiting.queue.queue_id, waiting)
        answer = await waiting.answer
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    def _take(self, waiting: deque[_Waiting]) -> list[_Waiting]:
        """Take the requests of the next transaction: those that were routed by the same queue and topic objects."""
        batch: list[_Waiting] = []
        records = 0
        while waiting and len(batch) < _MAX_REQUESTS and records < _MAX_RECORDS:
            request = waiting[0]
            if _is_abandoned(request):
                waiting.popleft()
                continue
            if batch and (request.queue is not batch[0].queue or request.topic is not batch[0].topic):
                break
            batch.append(waiting.popleft())
            records += request.max_records
        return batch

    def _submit(self, _: Lane[_Waiting], batch: list[_Waiting]) -> asyncio.Future[DeliveryResult]:
        first = batch[0]
        wait = any(each.wait_for_locks for each in batch)
        work = DeliveryBatch(first.queue, first.topic, [each.request for each in batch], self._rotation, wait)
        self._rotation += any(isinstance(each.request, Acquire) for each in batch)
        self.transactions += 1
        self.requests += len(batch)
        return self._storage.submit(deliver, work, self._time)

    def _requeue(self, lane: Lane[_Waiting], batch: list[_Waiting], result: DeliveryResult) -> None:
        retried: list[_Waiting] = []
        for waiting, answer in zip(batch, result.answers, strict=True):
            if isinstance(answer, Retry):
                waiting.wait_for_locks = answer.wait
                retried.append(waiting)
        lane.waiting.extendleft(reversed(retried))

    def _answer(self, lane: Lane[_Waiting], batch: list[_Waiting], result: DeliveryResult) -> None:
        for waiting, answer in zip(batch, result.answers, strict=True):
            if not isinstance(answer, Retry) and not waiting.answer.done():
                waiting.answer.set_result(answer)
        if result.freed:
            self._signals.announce([negative_queue_id(lane.key)])
        if result.to_archive:
            self._to_archive()

    def _refuse(self, _: Lane[_Waiting], batch: list[_Waiting], error: Exception) -> None:
        for waiting in batch:
            if waiting.answer.done():
                continue
            if isinstance(error, BrokerError):
                waiting.answer.set_result(error)
            else:
                waiting.answer.set_exception(QueueChanged())


def _is_abandoned(waiting: _Waiting) -> bool:
    """Return whether no client waits for the answer any more; set the empty answer of an acquire."""
    if waiting.answer.done():
        return isinstance(waiting.request, Acquire)
    if waiting.deadline is not None and waiting.deadline.disconnected:
        waiting.answer.set_result(Acquired([]))
        return True
    return False
