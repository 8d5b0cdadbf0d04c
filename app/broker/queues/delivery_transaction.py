"""One transaction that acquires and acknowledges for many requests of a queue at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from app.broker.queues.share_partition import Candidate, DelayedQuota, SharePartition
from app.domain.log.append import IdempotencyKey, KeyId, StoredKey
from app.domain.log.record import StoredRecord
from app.domain.log.topic import TopicInfo
from app.domain.queues import in_flight as rules_of
from app.domain.queues.delivery import (
    Acknowledge,
    Acknowledged,
    Acknowledgement,
    Acquire,
    Acquired,
    Again,
    Answer,
    Delivery,
    Request,
    Settled,
)
from app.domain.queues.in_flight import AcknowledgeType, InFlightRecord, RecordState
from app.domain.queues.queue import DeliveryId, QueueInfo, size_of
from app.errors.broker_error import BrokerError
from app.errors.log import IdempotencyKeyReused
from app.errors.queues import InvalidRecordState
from app.storage.db import clock
from app.storage.db.engine import Tx
from app.storage.log import idempotency
from app.storage.queues import queues, share_partitions
from app.storage.queues.delayed_records import SharePartitionKey
from app.storage.queues.queues import scope_id
from app.storage.queues.share_partitions import LogSnapshot, SharePartitionState

MAX_TRANSACTION_BYTES = 32 * 1024 * 1024
_FIRST_WINDOWS = 2
_MOST_WINDOWS = 64


class DeliveryResult(NamedTuple):
    """Answers in order of the requests.

    Attributes:
        freed: Whether others may find something now.
        to_archive: Whether there is something to archive now.
    """

    answers: list[Answer]
    freed: bool
    to_archive: bool


class QueueChanged(Exception):
    """The queue or its topic is not as it was when it was looked up."""


class DeliveryBatch(NamedTuple):
    """Requests of one queue that share a transaction.

    Attributes:
        turn: Rises by one with each acquiring batch, so that each partition is the first in turn.
        wait: Whether to wait for windows that other nodes are at.
    """

    queue: QueueInfo
    topic: TopicInfo
    requests: Sequence[Request]
    turn: int
    wait: bool


_deliveries = msgspec.msgpack.Decoder(list[tuple[int, int, int]])
_results = msgspec.msgpack.Decoder(list[Settled])
_encode = msgspec.msgpack.Encoder().encode


def deliver(tx: Tx, batch: DeliveryBatch, time: Callable[[Tx], int] = clock.read) -> DeliveryResult:
    """Answer the requests in order, each against what those before it have changed.

    The windows that acknowledgements name are waited for, in ascending order, others are taken as they are free.

    Args:
        tx: A write.
        batch: The requests.
        time: The database's clock, or another.

    Raises:
        QueueChanged: Look the queue and its topic up again.
    """
    return DeliveryTransaction(tx, batch, time).run()


class DeliveryTransaction:
    """One batch of acquires and acknowledgements of a queue, in one transaction."""

    def __init__(self, tx: Tx, batch: DeliveryBatch, time: Callable[[Tx], int]) -> None:
        self._tx = tx
        self._batch = batch
        self._queue_id = batch.queue.queue_id
        self._time = time
        self._shares: dict[int, SharePartition] = {}
        self._config = batch.queue.config
        self._room = DelayedQuota(tx, self._queue_id)
        self._stored: dict[KeyId, StoredKey] = {}
        self._written: dict[KeyId, StoredKey] = {}
        self._now_ms = 0
        self._to_archive = False
        self._skipped = False
        self._cut = False
        ids = batch.topic.partition_ids
        self._turn = batch.turn % len(ids)
        self._in_turn = ids[self._turn]

    def run(self) -> DeliveryResult:
        """Settle what is acknowledged, then deal out what is free; return one answer per request."""
        requests = self._batch.requests
        self._lock(self._named(requests), wait=True)
        ids = self._batch.topic.partition_ids
        turn = self._turn
        unlocked = deque(each for each in (*ids[turn:], *ids[:turn]) if each not in self._shares)
        claimed = self._claim(requests)
        answers: dict[int, Answer] = {}
        for number, request in enumerate(requests):
            if isinstance(request, Acknowledge):
                answers[number] = self._acknowledge(request)
        wanting = self._replay(requests, answers)
        if wanting:
            answers |= self._acquire(wanting, unlocked)
        if claimed:
            idempotency.settle(
                self._tx, [key for key in claimed if key not in self._stored], self._written, self._now_ms
            )
        for share in self._shares.values():
            share.save()
        freed = any(share.freed for share in self._shares.values())
        return DeliveryResult([answers[number] for number in range(len(requests))], freed, self._to_archive)

    def _named(self, requests: Iterable[Request]) -> set[int]:
        """Return the ids of the partitions that must be locked: those of acknowledged and of stored deliveries."""
        if self._batch.wait:
            return set(self._batch.topic.partition_ids)
        numbers = {
            item.delivery_id.partition
            for request in requests
            if isinstance(request, Acknowledge)
            for item in request.items
            if item.delivery_id is not None and item.delivery_id.queue_id == self._queue_id
        }
        keys = {self._key_id(each.key): each.key for each in requests if isinstance(each, Acquire) and each.key}
        for key_id, stored in idempotency.peek(self._tx, list(keys)).items() if keys else ():
            if stored.fingerprint == keys[key_id].fingerprint:
                numbers |= {partition for partition, _, _ in _deliveries.decode(stored.result)}
        ids = self._batch.topic.partition_ids
        return {ids[number] for number in numbers if number < len(ids)}

    def _lock(self, partition_ids: Iterable[int], *, wait: bool) -> bool:
        """Lock some windows and read the log's bounds after that. Return whether all of them were to be had."""
        wanted = sorted(partition_ids)
        if not wanted:
            return True
        locked = share_partitions.lock(self._tx, self._queue_id, wanted, wait=wait)
        if locked is None:
            if wait:
                raise QueueChanged
            return False
        self._config = queues.decode_config(locked.config)
        scene = share_partitions.log_snapshot(self._tx, [window.partition_id for window in locked.windows])
        self._now_ms = scene.now_ms if self._time is clock.read else self._time(self._tx)
        for window in locked.windows:
            self._shares[window.partition_id] = self._share(window, scene)
        return len(locked.windows) == len(wanted)

    def _share(self, window: SharePartitionState, scene: LogSnapshot) -> SharePartition:
        bounds = scene.bounds.get(window.partition_id)
        topic = self._batch.topic
        if bounds is None or bounds.topic_id != topic.topic_id or bounds.version != topic.version:
            raise QueueChanged
        place = SharePartitionKey(self._queue_id, window.partition_id)
        return SharePartition(self._tx, place, window, bounds, self._config.rules, self._now_ms)

    def _key_id(self, key: IdempotencyKey) -> KeyId:
        return scope_id(self._queue_id), key.key_hash

    def _claim(self, requests: Iterable[Request]) -> list[KeyId]:
        """Take the Idempotency-Keys of the requests, after the windows and before anything else."""
        ids = sorted({self._key_id(request.key) for request in requests if request.key is not None})
        if ids:
            if not self._now_ms:
                self._now_ms = self._time(self._tx)
            self._stored = idempotency.claim(self._tx, ids, self._now_ms)
        return ids

    def _known(self, key: IdempotencyKey | None) -> bytes | None:
        """Return what is stored under a key.

        Raises:
            IdempotencyKeyReused: It is the answer to another request.
        """
        if key is None:
            return None
        entry = self._written.get(self._key_id(key)) or self._stored.get(self._key_id(key))
        if entry is None:
            return None
        if entry.fingerprint != key.fingerprint:
            raise IdempotencyKeyReused("this Idempotency-Key was used on this queue for another request; use a new key")
        return entry.result

    def _remember(self, key: IdempotencyKey | None, result: object) -> None:
        if key is not None:
            self._written[self._key_id(key)] = StoredKey(key.fingerprint, _encode(result))

    def _acknowledge(self, request: Acknowledge) -> Answer:
        try:
            known = self._known(request.key)
        except IdempotencyKeyReused as refusal:
            return refusal
        if known is not None:
            return Acknowledged(_results.decode(known))
        self._load_copies(request.items)
        results = [self._settle(item) for item in request.items]
        self._remember(request.key, results)
        return Acknowledged(results)

    def _load_copies(self, items: Iterable[Acknowledgement]) -> None:
        offsets: dict[int, list[int]] = {}
        for item in items:
            if (share := self._share_of(item.delivery_id)) is not None and item.delivery_id is not None:
                offsets.setdefault(share.bounds.partition_id, []).append(item.delivery_id.offset)
        for partition_id, wanted in offsets.items():
            self._shares[partition_id].load_copies(wanted)

    def _share_of(self, delivery_id: DeliveryId | None) -> SharePartition | None:
        ids = self._batch.topic.partition_ids
        if delivery_id is None or delivery_id.queue_id != self._queue_id or delivery_id.partition >= len(ids):
            return None
        return self._shares.get(ids[delivery_id.partition])

    def _settle(self, item: Acknowledgement) -> Settled:
        try:
            share = self._share_of(item.delivery_id)
            if share is None or item.delivery_id is None:
                raise InvalidRecordState("there is no such delivery in this queue")
            _, _, offset, count = item.delivery_id
            entry = share.settle(offset, count, item.outcome, item.delay_ms, self._room)
        except BrokerError as refusal:
            return Settled(refusal.code, refusal.detail)
        if entry is not None and entry.state in {RecordState.REJECTED, RecordState.EXHAUSTED}:
            self._to_archive = True
        return Settled(
            locked_until_ms=entry.until_ms if entry is not None and item.outcome is AcknowledgeType.RENEW else None
        )

    def _replay(self, requests: Sequence[Request], answers: dict[int, Answer]) -> dict[int, Acquire]:
        """Answer the acquires whose deliveries are still held under their key; return the others."""
        wanting: dict[int, Acquire] = {}
        fresh: set[bytes] = set()
        for number, request in enumerate(requests):
            if not isinstance(request, Acquire):
                continue
            if request.key is not None and request.key.key_hash in fresh:
                answers[number] = Again()
                continue
            try:
                known = self._known(request.key)
            except IdempotencyKeyReused as refusal:
                answers[number] = refusal
                continue
            held = None if known is None else self._held(_deliveries.decode(known))
            if held is not None:
                answers[number] = held
                continue
            wanting[number] = request
            if request.key is not None:
                fresh.add(request.key.key_hash)
        return wanting

    def _held(self, stored: list[tuple[int, int, int]]) -> Answer | None:
        """Return deliveries that were given before, or None unless all of them are still held."""
        ids = self._batch.topic.partition_ids
        found: list[Delivery] = []
        for partition, offset, count in stored:
            if (share := self._shares.get(ids[partition])) is None:
                return Again(wait=True)
            share.load_copies([offset])
            entry, record = share.find(offset), share.records([offset]).get(offset)
            if entry is None or record is None or entry.delivery_count != count:
                return None
            if not rules_of.is_held(entry, self._now_ms):
                return None
            found.append(self._delivery(partition, entry, record))
        return Acquired(found, self._now_ms)

    def _delivery(self, partition: int, entry: InFlightRecord, record: StoredRecord) -> Delivery:
        delivery_id = DeliveryId(self._queue_id, partition, entry.offset, entry.delivery_count)
        return Delivery(delivery_id, record, entry.until_ms)

    def _acquire(self, wanting: dict[int, Acquire], unlocked: deque[int]) -> dict[int, Answer]:
        wanted = sum(each.max_records for each in wanting.values())
        max_bytes = min(MAX_TRANSACTION_BYTES, sum(each.max_bytes for each in wanting.values()))
        pool = self._gather(wanted, max_bytes, unlocked)
        return {number: self._deal(request, pool) for number, request in wanting.items()}

    def _gather(self, wanted: int, max_bytes: int, unlocked: deque[int]) -> deque[Candidate]:
        """Take from the window whose turn it is and those that are locked, then from more, until there is enough."""
        pool: deque[Candidate] = deque()
        visiting = list(self._shares.values())
        if visiting and unlocked and unlocked[0] == self._in_turn:
            visiting = self._visit(unlocked, 1) + visiting
        size = _FIRST_WINDOWS
        while True:
            for share in visiting:
                if self._config.paused or len(pool) >= wanted or max_bytes <= 0:
                    break
                taken = share.take(wanted - len(pool), max_bytes, self._room)
                max_bytes -= sum(size_of(each.record) for each in taken)
                pool.extend(taken)
            self._cut = max_bytes <= 0
            if not unlocked or len(pool) >= wanted or self._cut or (visiting and self._config.paused):
                return pool
            visiting = self._visit(unlocked, size)
            size = min(2 * size, _MOST_WINDOWS)

    def _visit(self, unlocked: deque[int], size: int) -> list[SharePartition]:
        """Lock the next windows, as far as they are free."""
        some = [unlocked.popleft() for _ in range(min(size, len(unlocked)))]
        self._skipped |= not self._lock(some, wait=False)
        return [self._shares[each] for each in some if each in self._shares]

    def _deal(self, request: Acquire, pool: deque[Candidate]) -> Answer:
        """Give a request its share of what there is."""
        duration_ms = request.lock_duration_ms or self._config.lock_duration_ms
        found: list[Delivery] = []
        left_bytes = request.max_bytes
        while pool and len(found) < request.max_records:
            share, entry, record = pool[0]
            left_bytes -= size_of(record)
            if found and left_bytes < 0:
                break
            pool.popleft()
            held = rules_of.acquire(entry, self._now_ms + duration_ms)
            share.put(held)
            found.append(self._delivery(share.bounds.partition, held, record))
        if found:
            self._remember(request.key, [each.delivery_id[1:] for each in found])
            return Acquired(found, self._now_ms)
        if self._config.paused and self._shares:
            return Acquired([], self._now_ms, None, {})
        if self._skipped or self._cut or any(share.unfinished for share in self._shares.values()):
            return Again(wait=self._skipped)
        return self._nothing()

    def _nothing(self) -> Acquired:
        times = [share.free_at_ms() for share in self._shares.values()]
        free_at_ms = min((time for time in times if time is not None), default=None)
        ends = {each: share.bounds.log_end_offset for each, share in self._shares.items()}
        return Acquired([], self._now_ms, free_at_ms, ends)
