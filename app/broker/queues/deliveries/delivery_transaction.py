"""One transaction that acquires and acknowledges records for several requests of a queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from app.broker.queues.deliveries.acquisition import Candidate, candidates
from app.broker.queues.deliveries.delayed_record_cache import DelayedQuota
from app.broker.queues.deliveries.idempotent_results import IdempotentResults, StoredDelivery
from app.broker.queues.deliveries.share_partition import SharePartition
from app.domain.log.record import StoredRecord
from app.domain.log.topic import TopicInfo
from app.domain.queues.delivery import (
    Acknowledge,
    Acknowledged,
    Acknowledgement,
    Acquire,
    Acquired,
    Answer,
    Delivery,
    Request,
    Retry,
    Settled,
    response_bytes,
)
from app.domain.queues.delivery_id import DeliveryId
from app.domain.queues.in_flight import AcknowledgeType, InFlightRecord, RecordState, is_acquired
from app.domain.queues.queue import QueueInfo
from app.domain.queues.share_partition_state import SharePartitionState
from app.errors.broker_error import BrokerError
from app.errors.log import IdempotencyKeyReused
from app.errors.queues import InvalidRecordState
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.queues import queues, share_partitions
from app.storage.queues.share_partitions import LogSnapshot, SharePartitionKey

MAX_TRANSACTION_BYTES = 32 * 1024 * 1024
_FIRST_LOCKED = 2
_MOST_LOCKED = 64


class DeliveryResult(NamedTuple):
    """Answers in order of the requests.

    Attributes:
        freed: Whether a waiting acquire may find a record now.
        to_archive: Whether there is a record to archive now.
        expired: Partition id and offset of the in-flight records that the log has no more.
    """

    answers: list[Answer]
    freed: bool
    to_archive: bool
    expired: Sequence[tuple[int, int]] = ()


class QueueChanged(Exception):
    """The queue or its topic has changed since it was looked up."""


class DeliveryBatch(NamedTuple):
    """Requests of one queue that share a transaction.

    Attributes:
        rotation: A number that rises with each acquiring batch; each partition in turn is searched first.
        wait: Whether to wait for share partitions that other nodes have locked.
        limits_releases: Whether released records are delayed only within the quota of the queue.
    """

    queue: QueueInfo
    topic: TopicInfo
    requests: Sequence[Request]
    rotation: int
    wait: bool
    limits_releases: bool = True


def deliver(tx: Tx, batch: DeliveryBatch, time: Callable[[Tx], int] = clock.read) -> DeliveryResult:
    """Answer the requests of a batch: first the acknowledges, then the acquires, each in order.

    It waits for the locks of the share partitions that acknowledgements need. Acquires use further share partitions
    that no other transaction has locked.

    Args:
        tx: A write transaction.
        batch: The requests.
        time: Clock; the default is the database's.

    Raises:
        QueueChanged: The queue or its topic has to be looked up again.
    """
    return DeliveryTransaction(tx, batch, time).run()


class DeliveryTransaction:
    """One batch of acquires and acknowledges of a queue in one transaction."""

    def __init__(self, tx: Tx, batch: DeliveryBatch, time: Callable[[Tx], int]) -> None:
        self._tx = tx
        self._batch = batch
        self._queue_id = batch.queue.queue_id
        self._time = time
        self._share_partitions: dict[int, SharePartition] = {}
        self._config = batch.queue.config
        self._quota = DelayedQuota(tx, self._queue_id)
        self._results = IdempotentResults(tx, self._queue_id)
        self._now_ms = 0
        self._to_archive = False
        self._skipped_locked = False
        self._bytes_used_up = False
        ids = batch.topic.partition_ids
        first = batch.rotation % len(ids)
        self._search_order = (*ids[first:], *ids[:first])

    def run(self) -> DeliveryResult:
        """Settle deliveries, then acquire records; return one answer per request."""
        requests = self._batch.requests
        self._lock(self._partitions_to_lock(requests), wait=True)
        unlocked = deque(each for each in self._search_order if each not in self._share_partitions)
        self._claim_keys(requests)
        answers: dict[int, Answer] = {}
        for number, request in enumerate(requests):
            if isinstance(request, Acknowledge):
                answers[number] = self._acknowledge(request)
        acquires = self._replay(requests, answers)
        if acquires:
            answers |= self._acquire(acquires, unlocked)
        self._results.save(self._now_ms)
        for share_partition in self._share_partitions.values():
            share_partition.save()
        freed = any(share_partition.freed for share_partition in self._share_partitions.values())
        expired = [(each.bounds.partition_id, at) for each in self._share_partitions.values() for at in each.expired]
        return DeliveryResult([answers[number] for number in range(len(requests))], freed, self._to_archive, expired)

    def _partitions_to_lock(self, requests: Sequence[Request]) -> set[int]:
        """Return the ids of the partitions of all deliveries that are acknowledged or stored under a key."""
        ids = self._batch.topic.partition_ids
        if self._batch.wait:
            return set(ids)
        numbers = {
            item.delivery_id.partition
            for request in requests
            if isinstance(request, Acknowledge)
            for item in request.items
            if item.delivery_id is not None and item.delivery_id.queue_id == self._queue_id
        }
        numbers |= self._results.partitions(requests)
        return {ids[number] for number in numbers if number < len(ids)}

    def _lock(self, partition_ids: Iterable[int], *, wait: bool) -> bool:
        """Lock share partitions, then read the bounds of their logs. Return whether all of them were locked."""
        wanted = sorted(partition_ids)
        if not wanted:
            return True
        locked = share_partitions.lock(self._tx, self._queue_id, wanted, wait=wait)
        if locked is None:
            if wait:
                raise QueueChanged
            return False
        self._config = queues.decode_config(locked.config)
        snapshot = share_partitions.log_snapshot(self._tx, [state.partition_id for state in locked.states])
        self._now_ms = snapshot.now_ms if self._time is clock.read else self._time(self._tx)
        for state in locked.states:
            self._share_partitions[state.partition_id] = self._open(state, snapshot)
        return len(locked.states) == len(wanted)

    def _open(self, state: SharePartitionState, snapshot: LogSnapshot) -> SharePartition:
        bounds = snapshot.bounds.get(state.partition_id)
        topic = self._batch.topic
        if bounds is None or bounds.topic_id != topic.topic_id or bounds.version != topic.version:
            raise QueueChanged
        key = SharePartitionKey(self._queue_id, state.partition_id)
        return SharePartition(self._tx, key, state, bounds, self._config.rules, self._now_ms)

    def _claim_keys(self, requests: Iterable[Request]) -> None:
        keys = [request.key for request in requests if request.key is not None]
        if keys:
            if not self._now_ms:
                self._now_ms = self._time(self._tx)
            self._results.claim(keys, self._now_ms)

    def _acknowledge(self, request: Acknowledge) -> Answer:
        try:
            stored = self._results.settled(request.key)
        except IdempotencyKeyReused as error:
            return error
        if stored is not None:
            return Acknowledged(stored)
        self._load_delayed(request.items)
        results = [self._settle(item) for item in request.items]
        if request.key is not None:
            self._results.store_settled(request.key, results)
        return Acknowledged(results)

    def _load_delayed(self, items: Iterable[Acknowledgement]) -> None:
        """Read the delayed records among those that are acknowledged, one read per share partition."""
        offsets: dict[int, list[int]] = {}
        for item in items:
            delivery_id = item.delivery_id
            if (share_partition := self._share_partition_of(delivery_id)) is not None and delivery_id is not None:
                offsets.setdefault(share_partition.bounds.partition_id, []).append(delivery_id.offset)
        for partition_id, wanted in offsets.items():
            self._share_partitions[partition_id].load_delayed(wanted)

    def _share_partition_of(self, delivery_id: DeliveryId | None) -> SharePartition | None:
        """Return the share partition of a delivery, or None if it cannot be a delivery of this queue."""
        ids = self._batch.topic.partition_ids
        if delivery_id is None or delivery_id.queue_id != self._queue_id or delivery_id.partition >= len(ids):
            return None
        return self._share_partitions.get(ids[delivery_id.partition])

    def _settle(self, item: Acknowledgement) -> Settled:
        try:
            share_partition = self._share_partition_of(item.delivery_id)
            if share_partition is None or item.delivery_id is None:
                raise InvalidRecordState("there is no such delivery in this queue")
            _, _, offset, delivery_count = item.delivery_id
            quota = self._quota if self._batch.limits_releases else None
            entry = share_partition.settle(offset, delivery_count, item.acknowledge_type, item.delay_ms, quota)
        except BrokerError as error:
            return Settled(error.code, error.detail)
        if entry is None:
            return Settled()
        if entry.state in {RecordState.REJECTED, RecordState.EXHAUSTED}:
            self._to_archive = True
        return Settled(locked_until_ms=entry.until_ms if item.acknowledge_type is AcknowledgeType.RENEW else None)

    def _replay(self, requests: Sequence[Request], answers: dict[int, Answer]) -> dict[int, Acquire]:
        """Answer the acquires whose stored deliveries are all still acquired; return the others by their number."""
        acquires: dict[int, Acquire] = {}
        new_keys: set[bytes] = set()
        for number, request in enumerate(requests):
            if not isinstance(request, Acquire):
                continue
            key = request.key
            if key is None:
                acquires[number] = request
            elif key.key_hash in new_keys:
                answers[number] = Retry()
            elif (answer := self._repeated(request)) is not None:
                answers[number] = answer
            else:
                acquires[number] = request
                new_keys.add(key.key_hash)
        return acquires

    def _repeated(self, request: Acquire) -> Answer | None:
        """Return the answer to an acquire whose key is in use, or None if it has to acquire."""
        try:
            stored = self._results.deliveries(request.key)
        except IdempotencyKeyReused as error:
            return error
        return None if stored is None else self._still_acquired(stored)

    def _still_acquired(self, stored: Iterable[StoredDelivery]) -> Answer | None:
        """Return stored deliveries, or None unless all of them are still acquired."""
        ids = self._batch.topic.partition_ids
        found: list[Delivery] = []
        for partition, offset, delivery_count in stored:
            if (share_partition := self._share_partitions.get(ids[partition])) is None:
                return Retry(wait=True)
            share_partition.load_delayed([offset])
            entry, record = share_partition.find(offset), share_partition.records([offset]).get(offset)
            if entry is None or record is None or entry.delivery_count != delivery_count:
                return None
            if not is_acquired(entry, self._now_ms):
                return None
            found.append(self._delivery(partition, entry, record))
        return Acquired(found, self._now_ms)

    def _delivery(self, partition: int, entry: InFlightRecord, record: StoredRecord) -> Delivery:
        delivery_id = DeliveryId(self._queue_id, partition, entry.offset, entry.delivery_count)
        return Delivery(delivery_id, record, entry.until_ms)

    def _acquire(self, acquires: dict[int, Acquire], unlocked: deque[int]) -> dict[int, Answer]:
        """Search for the acquires that admit nothing new, and then for the others."""
        answers: dict[int, Answer] = {}
        for admit_new in (False, True):
            some = {number: request for number, request in acquires.items() if request.admit_new is admit_new}
            if some:
                wanted = sum(each.max_records for each in some.values())
                max_bytes = min(MAX_TRANSACTION_BYTES, sum(each.max_bytes for each in some.values()))
                found = self._search(wanted, max_bytes, unlocked, admit_new=admit_new)
                answers |= {number: self._answer(request, found) for number, request in some.items()}
        return answers

    def _search(self, wanted: int, max_bytes: int, unlocked: deque[int], *, admit_new: bool) -> deque[Candidate]:
        """Return up to `wanted` candidates.

        They come from the first partition of the search order, then from the share partitions locked before, then
        from further ones until there are enough.
        """
        found: deque[Candidate] = deque()
        searched = list(self._share_partitions.values())
        if searched and unlocked and unlocked[0] == self._search_order[0]:
            searched = self._lock_next(unlocked, 1) + searched
        number = _FIRST_LOCKED
        while True:
            for share_partition in searched:
                if self._config.paused or len(found) >= wanted or max_bytes <= 0:
                    break
                some = candidates(share_partition, wanted - len(found), max_bytes, self._quota, admit_new=admit_new)
                max_bytes -= sum(response_bytes(each.record) for each in some)
                found.extend(some)
            self._bytes_used_up = max_bytes <= 0
            if not unlocked or len(found) >= wanted or self._bytes_used_up or (searched and self._config.paused):
                return found
            searched = self._lock_next(unlocked, number)
            number = min(2 * number, _MOST_LOCKED)

    def _lock_next(self, unlocked: deque[int], number: int) -> list[SharePartition]:
        """Lock the next share partitions, without those that other transactions have locked."""
        ids = [unlocked.popleft() for _ in range(min(number, len(unlocked)))]
        self._skipped_locked |= not self._lock(ids, wait=False)
        return [self._share_partitions[each] for each in ids if each in self._share_partitions]

    def _answer(self, request: Acquire, found: deque[Candidate]) -> Answer:
        """Acquire the first candidates for a request."""
        until_ms = self._now_ms + (request.lock_duration_ms or self._config.lock_duration_ms)
        deliveries: list[Delivery] = []
        left_bytes = request.max_bytes
        while found and len(deliveries) < request.max_records:
            share_partition, entry, record = found[0]
            left_bytes -= response_bytes(record)
            if deliveries and left_bytes < 0:
                break
            found.popleft()
            acquired = share_partition.acquire(entry, until_ms)
            deliveries.append(self._delivery(share_partition.bounds.partition, acquired, record))
        if deliveries:
            if request.key is not None:
                self._results.store_deliveries(request.key, deliveries)
            return Acquired(deliveries, self._now_ms)
        if self._config.paused and self._share_partitions:
            return Acquired([], self._now_ms, None, {})
        if self._is_incomplete():
            return Retry(wait=self._skipped_locked)
        return self._nothing()

    def _is_incomplete(self) -> bool:
        """Return whether another transaction may find records although this one found none."""
        if self._skipped_locked or self._bytes_used_up:
            return True
        return any(share_partition.incomplete for share_partition in self._share_partitions.values())

    def _nothing(self) -> Acquired:
        times = [share_partition.available_at_ms() for share_partition in self._share_partitions.values()]
        available_at_ms = min((time for time in times if time is not None), default=None)
        log_end_offsets = {
            partition_id: share_partition.bounds.log_end_offset
            for partition_id, share_partition in self._share_partitions.items()
        }
        return Acquired([], self._now_ms, available_at_ms, log_end_offsets)
