"""Produce: check the records, choose their partitions, and append them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from app.broker.log.appender import Appender
from app.broker.log.topics import UNKNOWN_TOPIC, TopicRequest, Topics, partition_id_of
from app.domain.log.append import Accepted, Append, AppendOutcome, IdempotencyKey, TopicVersionChanged
from app.domain.log.partitioner import partition_for_key
from app.domain.log.producer import MAX_EPOCH, ProducerStamp, stored_result
from app.domain.log.record import MAX_TIMESTAMP_AHEAD_MS, Record
from app.domain.log.topic import TopicInfo, check_not_reserved
from app.domain.log.trace_context import TraceContext, carry
from app.errors.broker_error import BrokerError
from app.errors.database import ServiceUnavailable
from app.errors.log import (
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTimestamp,
    MessageTooLarge,
    OffsetMismatch,
    UnknownPartitionInRecord,
    UnknownTopicOrPartition,
)
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.log import producers

UNKNOWN_PRODUCER = "there is no producer with this id; POST to this path registers it"

if TYPE_CHECKING:
    from app.broker.tracing.tracer import Tracer

_ATTEMPTS = 5


class ProduceRequest(NamedTuple):
    """Records for a topic, and the conditions of the append.

    Attributes:
        partition: The partition in the path, or None.
        size_bytes: Bytes of the request body. No record is larger.
        trace: The trace context of the request, for the headers of its records.
        check_create: Raises an error if the client may not create the topic; None if it may.
    """

    topic: str
    partition: int | None
    records: list[Record]
    size_bytes: int
    expected_offset: int | None = None
    key: IdempotencyKey | None = None
    stamp: ProducerStamp | None = None
    trace: TraceContext | None = None
    check_create: Callable[[], None] | None = None


class Producer:
    """Appends records to topics, and creates an unknown topic if that is enabled.

    Args:
        auto_create_topics: Whether an unknown topic is created.
        clock: Wall clock in milliseconds.
        tracer: Begins the spans of appends; None without traces.
    """

    def __init__(
        self,
        storage: Storage,
        topics: Topics,
        appender: Appender,
        *,
        auto_create_topics: bool,
        clock: Callable[[], int],
        tracer: Tracer | None = None,
    ) -> None:
        self._storage = storage
        self._topics = topics
        self._appender = appender
        self._auto_create_topics = auto_create_topics
        self._clock = clock
        self._round_robin = count()
        self._tracer = tracer

    async def produce(self, request: ProduceRequest) -> Accepted:
        """Append all records of a request or none.

        Raises:
            BrokerError: The request is refused; nothing is written.
        """
        check_not_reserved(request.topic)
        for _ in range(_ATTEMPTS):
            topic = self._topics.cached(request.topic) or await self._topic(request)
            try:
                append = self._prepare(topic, request)
            except BrokerError:
                if await self._is_current(topic):
                    raise
                continue
            outcome = await self._append(append, request.size_bytes)
            if isinstance(outcome, Accepted):
                return outcome
            if outcome is append.error or not isinstance(outcome, TopicVersionChanged | UnknownTopicOrPartition):
                raise outcome
            self._topics.evict(topic)
        raise ServiceUnavailable("the topic changes too often; try again")

    def _append(self, append: Append, size_bytes: int) -> Awaitable[AppendOutcome]:
        """Return the append under way; without traces no coroutine is added to it."""
        if self._tracer is None:
            return self._appender.append(append, size_bytes)
        return self._append_traced(self._tracer, append, size_bytes)

    async def _append_traced(self, tracer: Tracer, append: Append, size_bytes: int) -> AppendOutcome:
        with tracer.append(append.topic, len(append.records)):
            return await self._appender.append(append, size_bytes)

    async def prepare(self, request: ProduceRequest) -> Append:
        """Check a request and return the append.

        A topic that the append creates has the id DRAFT, the server's defaults, and partitions without ids.

        Raises:
            BrokerError: The request is refused; nothing is written.
        """
        check_not_reserved(request.topic)
        for _ in range(_ATTEMPTS):
            topic = await self._topics.find(request.topic)
            if topic is None:
                return self._prepare(self._draft(request.topic), request)
            try:
                return self._prepare(topic, request)
            except BrokerError:
                if await self._is_current(topic):
                    raise
        raise ServiceUnavailable("the topic changes too often; try again")

    async def raise_epoch(self, producer_id: str) -> int:
        """Raise a producer's epoch by one, which fences older instances, and return it."""
        return await self._storage.write(_raise_epoch, producer_id, self._clock())

    async def _is_current(self, topic: TopicInfo) -> bool:
        """Return whether a topic that refuses a request is the current one, and not a stale one of the cache."""
        self._topics.evict(topic)
        return await self._topics.find(topic.name) == topic

    async def _topic(self, request: ProduceRequest) -> TopicInfo:
        topic = await self._topics.find(request.topic)
        if topic is None:
            self._check(self._draft(request.topic), request, count())
            if request.expected_offset:
                raise OffsetMismatch(f"log_end_offset is 0, not {request.expected_offset}", log_end_offset=0)
            if request.stamp is not None:
                stored_result(None, -1, request.stamp)
            if request.check_create is not None:
                request.check_create()
            topic, _ = await self._topics.create(request.topic, TopicRequest(None, {}))
        return topic

    def _draft(self, name: str) -> TopicInfo:
        """Return the topic that is to be created for a request."""
        if not self._auto_create_topics:
            raise UnknownTopicOrPartition(UNKNOWN_TOPIC)
        return self._topics.draft(name)

    def _prepare(self, topic: TopicInfo, request: ProduceRequest) -> Append:
        """Return the append. The error of a request that may be a repeat becomes a part of the append."""
        error: BrokerError | None = None
        try:
            partitions = self._check(topic, request, self._round_robin)
        except BrokerError as raised:
            if request.key is None and request.stamp is None:
                raise
            partitions, error = [0] * len(request.records), raised
        records = request.records
        if request.trace is not None and error is None:
            records = carry(records, request.trace, topic.config.max_message_bytes)
        return Append(
            topic.topic_id,
            topic.name,
            topic.version,
            topic.partition_ids,
            records,
            partitions,
            topic.config.message_timestamp_type == "LogAppendTime",
            request.expected_offset,
            request.key,
            request.stamp,
            error,
        )

    def _check(self, topic: TopicInfo, request: ProduceRequest, round_robin: Iterator[int]) -> list[int]:
        """Check the records against the topic's configuration, and return the partition of each."""
        _check_records(topic, request, self._clock() + MAX_TIMESTAMP_AHEAD_MS)
        return _choose_partitions(topic, request, round_robin)


def _raise_epoch(tx: Tx, producer_id: str, now_ms: int) -> int:
    epoch = producers.raise_epoch(tx, producer_id, now_ms)
    if epoch > MAX_EPOCH:
        raise InvalidProducerEpoch("this producer's epochs are used up; choose another id", producer_epoch=MAX_EPOCH)
    return epoch


def _choose_partitions(topic: TopicInfo, request: ProduceRequest, round_robin: Iterator[int]) -> list[int]:
    """Choose the partition of each record: that of the path, its own, that of its key, or the next in turn."""
    if request.partition is not None:
        partition_id_of(topic, request.partition)
        _check_agreement(request.records, request.partition)
        return [request.partition] * len(request.records)
    partitions = len(topic.partition_ids)
    next_in_turn = -1
    chosen = []
    for index, record in enumerate(request.records):
        partition = record.partition
        if partition < 0:
            if record.key is not None:
                partition = partition_for_key(record.key, partitions)
            else:
                if next_in_turn < 0:
                    next_in_turn = next(round_robin) % partitions
                partition = next_in_turn
        elif partition >= partitions:
            raise UnknownPartitionInRecord.at(
                index,
                "partition",
                f"must be below {partitions}",
                message=f"the topic has the partitions 0 to {partitions - 1}",
            )
        chosen.append(partition)
    return chosen


def _check_records(topic: TopicInfo, request: ProduceRequest, latest_ms: int) -> None:
    """Refuse records that the topic's configuration does not allow, with the index of the first."""
    config = topic.config
    if request.size_bytes > config.max_message_bytes:
        _check_sizes(request.records, config.max_message_bytes)
    if config.compacted:
        for index, record in enumerate(request.records):
            if record.key is None:
                raise InvalidRecord.at(index, "key", "is required on a compacted topic")
    if config.message_timestamp_type == "CreateTime":
        for index, record in enumerate(request.records):
            if record.timestamp_ms > latest_ms:
                detail = f"must be at most one hour ahead of the server's clock, {latest_ms}"
                raise InvalidTimestamp.at(index, "timestamp_ms", detail)


def _check_sizes(records: list[Record], max_bytes: int) -> None:
    for index, record in enumerate(records):
        if (size := record.size_bytes) > max_bytes:
            detail = f"key, value and headers have {size} bytes, and max_message_bytes is {max_bytes}"
            message = f"record {index} is too large: {detail}"
            raise MessageTooLarge.at(index, "value", detail, message=message, max_message_bytes=max_bytes)


def _check_agreement(records: list[Record], partition: int) -> None:
    for index, record in enumerate(records):
        if record.partition not in {-1, partition}:
            raise InvalidRecord.at(
                index,
                "partition",
                f"must be {partition} or left out",
                message=f"a record names another partition than the path, which says {partition}",
            )
