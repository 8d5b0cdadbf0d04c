"""Redrive: append the dead letters of a queue to the topic and partition that they came from, or return a plan."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from app.broker.log.topics import Topics
from app.broker.queues.queues import Queues
from app.broker.waiting.signals import Signals
from app.domain.log.append import Accepted, Append
from app.domain.log.partitioner import partition_for_key
from app.domain.log.record import Record, StoredRecord
from app.domain.log.topic import TopicInfo
from app.domain.queues.dead_letter import origin_of, without_origin
from app.domain.queues.queue import QueueInfo
from app.errors.broker_error import BrokerError
from app.errors.database import ServiceUnavailable
from app.errors.log import InvalidRecord, MessageTooLarge, UnknownTopicOrPartition
from app.errors.queues import UnknownQueue
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.log import pages
from app.storage.log.appends import append_all
from app.storage.queues import queues

_MAX_RECORDS = 500
_MAX_BYTES = 8 * 1024 * 1024


class Redriven(NamedTuple):
    """The records that were redriven, or would be.

    Attributes:
        dead_letter_topic: Topic of the dead letters; None if the queue has none.
        partitions: Number of records by partition of the queue's topic.
        remaining: Whether there may be more than `max_records`.
    """

    dead_letter_topic: str | None
    partitions: dict[int, int]
    remaining: bool


class _Step(NamedTuple):
    """The result of one step through a partition of dead letters.

    Attributes:
        redriven: Number of records by partition of the queue's topic.
        next_offset: Offset of the next dead letter.
        at_end: Whether the partition was read to its end.
    """

    redriven: Counter[int]
    next_offset: int
    at_end: bool


class _Source(NamedTuple):
    """A queue, its topic, and the topic of its dead letters."""

    queue: QueueInfo
    topic: TopicInfo
    dead_letters: TopicInfo


class Redriver:
    """Appends dead letters to the topics that they came from."""

    def __init__(self, storage: Storage, topics: Topics, queues_: Queues, signals: Signals) -> None:
        self._storage = storage
        self._topics = topics
        self._queues = queues_
        self._signals = signals

    async def redrive(self, name: str, dead_letter_topic: str | None, max_records: int, *, dry_run: bool) -> Redriven:
        """Append the dead letters of a queue, each once, to the partitions that they came from.

        Each step is one transaction, which also stores the offset of the next dead letter to redrive. The dead letters
        stay in their topic.

        Args:
            name: Name of the queue.
            dead_letter_topic: Topic of the dead letters; None for that of the queue.
            max_records: How many records to redrive at most.
            dry_run: Whether to append nothing, and only count the records.

        Raises:
            UnknownQueue: There is no queue of this name.
            UnknownTopicOrPartition: There is no such dead-letter topic.
            MessageTooLarge: A record exceeds `max_message_bytes` of the topic.
            InvalidRecord: A record has no key, and the topic is compacted.
            DiskFull: No space is left; the records appended before are not redriven again.
        """
        queue, topic = await self._queues.route(name, refresh=True)
        source_name = dead_letter_topic or queue.dead_letter_topic
        if source_name is None:
            return Redriven(None, {}, remaining=False)
        source = _Source(queue, topic, await self._topics.refresh(source_name))
        redriven: Counter[int] = Counter()
        next_offsets = await self._storage.read(queues.find_redriven, queue.queue_id)
        for partition_id in source.dead_letters.partition_ids:
            offset = next_offsets.get(partition_id, 0)
            while True:
                left = max_records - redriven.total()
                if left <= 0:
                    return Redriven(source_name, dict(sorted(redriven.items())), remaining=True)
                step = await self._step(source, partition_id, offset, min(left, _MAX_RECORDS), dry_run=dry_run)
                redriven += step.redriven
                offset = step.next_offset
                if step.at_end:
                    break
        return Redriven(source_name, dict(sorted(redriven.items())), remaining=False)

    async def _step(self, source: _Source, partition_id: int, offset: int, limit: int, *, dry_run: bool) -> _Step:
        if dry_run:
            return await self._storage.read(_plan, source, partition_id, offset, limit)
        if self._storage.full:
            raise self._storage.disk_full()
        step = await self._storage.write(_redrive, source, partition_id, limit)
        self._signals.announce([source.topic.partition_ids[number] for number in step.redriven])
        return step


def _plan(tx: Tx, source: _Source, partition_id: int, offset: int, limit: int) -> _Step:
    """Count the records of a step."""
    page, next_offset, at_end = _read(tx, partition_id, offset, limit)
    partitions = Counter(number for record in page if (number := _partition(source, record)) is not None)
    return _Step(partitions, next_offset, at_end)


def _redrive(tx: Tx, source: _Source, partition_id: int, limit: int) -> _Step:
    """Append the records of a step, and store the offset of the next dead letter."""
    next_offsets = queues.lock_redriven(tx, source.queue.queue_id)
    if next_offsets is None:
        raise UnknownQueue("the queue was deleted")
    page, next_offset, at_end = _read(tx, partition_id, next_offsets.get(partition_id, 0), limit)
    records: list[Record] = []
    partitions: list[int] = []
    for dead_letter in page:
        if (number := _partition(source, dead_letter)) is not None:
            records.append(_record(source.topic, dead_letter))
            partitions.append(number)
    if records:
        _append(tx, source.topic, records, partitions)
    queues.save_redriven(tx, source.queue.queue_id, next_offsets | {partition_id: next_offset})
    return _Step(Counter(partitions), next_offset, at_end)


def _read(tx: Tx, partition_id: int, offset: int, limit: int) -> tuple[list[StoredRecord], int, bool]:
    """Return dead letters from an offset on, the offset of the next one, and whether the partition ends there."""
    bounds = pages.bounds(tx, [partition_id]).get(partition_id)
    if bounds is None:
        raise UnknownTopicOrPartition("the dead-letter topic was deleted")
    page = pages.read(tx, bounds, max(offset, bounds.log_start_offset), limit, _MAX_BYTES)
    next_offset = page[-1].offset + 1 if page else bounds.log_end_offset
    return page, next_offset, next_offset >= bounds.log_end_offset


def _partition(source: _Source, record: StoredRecord) -> int | None:
    """Return the partition that a dead letter came from, or None if it is no dead letter of the queue."""
    origin = origin_of(record.headers)
    if origin is None or origin.queue != source.queue.name or origin.topic != source.topic.name:
        return None
    if origin.partition < source.topic.partitions:
        return origin.partition
    return partition_for_key(record.key or b"", source.topic.partitions)


def _record(topic: TopicInfo, dead_letter: StoredRecord) -> Record:
    """Return the record that a dead letter is a copy of.

    Raises:
        MessageTooLarge, InvalidRecord: The configuration of the topic refuses it.
    """
    if dead_letter.key is None and topic.config.compacted:
        raise InvalidRecord(
            f"the dead letter at offset {dead_letter.offset} has no key, and compaction of {topic.name} would delete "
            "it; set the cleanup_policy to delete to redrive it"
        )
    headers, header_bytes = without_origin(dead_letter.headers)
    record = Record(-1, -1, dead_letter.key, dead_letter.value, headers, dead_letter.encoding, header_bytes)
    limit = topic.config.max_message_bytes
    if record.size_bytes > limit:
        raise MessageTooLarge(
            f"the dead letter at offset {dead_letter.offset} has {record.size_bytes} bytes, and max_message_bytes of "
            f"{topic.name} is {limit}; raise it to redrive the dead letter",
            max_message_bytes=limit,
        )
    return record


def _append(tx: Tx, topic: TopicInfo, records: list[Record], partitions: list[int]) -> None:
    append = Append(
        topic.topic_id,
        topic.name,
        topic.version,
        topic.partition_ids,
        records,
        partitions,
        topic.config.message_timestamp_type == "LogAppendTime",
    )
    (outcome,) = append_all(tx, [append], clock.read(tx))
    if isinstance(outcome, BrokerError):
        raise outcome
    if not isinstance(outcome, Accepted):
        raise ServiceUnavailable("the topic was changed meanwhile; try again")
