"""Redrive: a queue's dead letters go back to the topic and partition that they came from, with a plan first."""

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
from app.domain.queues.queue import QueueInfo, origin_of, without_origin
from app.errors.broker_error import BrokerError
from app.errors.database import DiskFull, ServiceUnavailable
from app.errors.log import MessageTooLarge, UnknownTopicOrPartition
from app.errors.queues import UnknownQueue
from app.storage.db import clock
from app.storage.db.engine import Storage, Tx
from app.storage.log import pages
from app.storage.log.appends import append_all
from app.storage.queues import queues

_AT_ONCE = 500
_AT_ONCE_BYTES = 8 * 1024 * 1024


class Redriven(NamedTuple):
    """What goes back, or would.

    Attributes:
        dead_letter_topic: Where the dead letters are; None if the queue has none.
        partitions: Number of records by partition of the queue's topic.
        remaining: Whether there may be more than `max_records`.
    """

    dead_letter_topic: str | None
    partitions: dict[int, int]
    remaining: bool


class _Stretch(NamedTuple):
    """One stretch of a partition of dead letters.

    Attributes:
        next_offset: Where the next stretch begins.
        end: Whether the partition has been read to its end.
    """

    chosen: Counter[int]
    next_offset: int
    end: bool


class _Source(NamedTuple):
    """Whose dead letters, from where, to where."""

    queue: QueueInfo
    topic: TopicInfo
    dead_letters: TopicInfo


class Redriver:
    """Sends dead letters back."""

    def __init__(self, storage: Storage, topics: Topics, queues_: Queues, signals: Signals) -> None:
        self._storage = storage
        self._topics = topics
        self._queues = queues_
        self._signals = signals

    async def redrive(self, name: str, dead_letter_topic: str | None, max_records: int, *, dry_run: bool) -> Redriven:
        """Append the queue's dead letters to the partitions that they came from, each once; or only say how many.

        Each stretch is one transaction with the place up to which the queue's dead letters have been redriven. The
        dead letters stay where they are.

        Args:
            name: Of the queue.
            dead_letter_topic: Where to look; None for what the queue names.
            max_records: How many to send back at most.
            dry_run: Whether to leave it at the plan.

        Raises:
            UnknownQueue: There is none of this name.
            UnknownTopicOrPartition: There is no such dead-letter topic.
            MessageTooLarge: The topic does not take a record back any more.
            DiskFull: No space is left; what went back until then is not sent again.
        """
        queue, topic = await self._queues.route(name, anew=True)
        source_name = dead_letter_topic or queue.dead_letter_topic
        if source_name is None:
            return Redriven(None, {}, remaining=False)
        source = _Source(queue, topic, await self._topics.refresh(source_name))
        found: Counter[int] = Counter()
        planned = await self._storage.read(queues.redriven_of, queue.queue_id)
        for partition_id in source.dead_letters.partition_ids:
            offset = planned.get(partition_id, 0)
            while True:
                left = max_records - found.total()
                if left <= 0:
                    return Redriven(source_name, dict(sorted(found.items())), remaining=True)
                step = await self._step(source, partition_id, offset, min(left, _AT_ONCE), dry_run=dry_run)
                found += step.chosen
                offset = step.next_offset
                if step.end:
                    break
        return Redriven(source_name, dict(sorted(found.items())), remaining=False)

    async def _step(self, source: _Source, partition_id: int, offset: int, limit: int, *, dry_run: bool) -> _Stretch:
        if dry_run:
            return await self._storage.read(_plan, source, partition_id, offset, limit)
        if self._storage.full:
            raise DiskFull("the database has no space left; redrive again once it has")
        step = await self._storage.write(_send_back, source, partition_id, limit)
        self._signals.announce([source.topic.partition_ids[number] for number in step.chosen])
        return step


def _plan(tx: Tx, source: _Source, partition_id: int, offset: int, limit: int) -> _Stretch:
    """Say what a stretch would send back."""
    page, next_offset, end = _read(tx, partition_id, offset, limit)
    chosen = Counter(number for record in page if (number := _home(source, record)) is not None)
    return _Stretch(chosen, next_offset, end)


def _send_back(tx: Tx, source: _Source, partition_id: int, limit: int) -> _Stretch:
    """Append a stretch, and note up to where."""
    done = queues.redriven(tx, source.queue.queue_id)
    if done is None:
        raise UnknownQueue("the queue was deleted")
    page, next_offset, end = _read(tx, partition_id, done.get(partition_id, 0), limit)
    homes = [(record, number) for record in page if (number := _home(source, record)) is not None]
    if homes:
        _append(tx, source.topic, [_record(source.topic, record) for record, _ in homes], [n for _, n in homes])
    queues.set_redriven(tx, source.queue.queue_id, done | {partition_id: next_offset})
    return _Stretch(Counter(number for _, number in homes), next_offset, end)


def _read(tx: Tx, partition_id: int, offset: int, limit: int) -> tuple[list[StoredRecord], int, bool]:
    bounds = pages.bounds(tx, [partition_id]).get(partition_id)
    if bounds is None:
        raise UnknownTopicOrPartition("the dead-letter topic was deleted")
    page = pages.read(tx, bounds, max(offset, bounds.log_start_offset), limit, _AT_ONCE_BYTES)
    next_offset = page[-1].offset + 1 if page else bounds.log_end_offset
    return page, next_offset, next_offset >= bounds.log_end_offset


def _home(source: _Source, record: StoredRecord) -> int | None:
    """Return the partition that a dead letter of the queue goes back to; None if it is none of it."""
    origin = origin_of(record.headers)
    if origin is None or origin.queue != source.queue.name or origin.topic != source.topic.name:
        return None
    if origin.partition < source.topic.partitions:
        return origin.partition
    return partition_for_key(record.key or b"", source.topic.partitions)


def _record(topic: TopicInfo, record: StoredRecord) -> Record:
    headers, header_bytes = without_origin(record.headers)
    letter = Record(-1, -1, record.key, record.value, headers, record.encoding, header_bytes)
    if letter.size_bytes > topic.config.max_message_bytes:
        raise MessageTooLarge(
            f"the dead letter at offset {record.offset} has {letter.size_bytes} bytes, and max_message_bytes of "
            f"{topic.name} is {topic.config.max_message_bytes}; raise it to send it back",
            max_message_bytes=topic.config.max_message_bytes,
        )
    return letter


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
