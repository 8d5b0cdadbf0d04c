"""Create, confirm, change, delete, describe and purge queues; cache their definitions."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from app.broker.log.topics import TopicRequest, Topics
from app.broker.queues.bulk_changes import purge, release_locks, skip
from app.broker.queues.counts import QueueState, describe
from app.broker.waiting.signals import Signals
from app.domain.log.offset_spec import OffsetSpec
from app.domain.log.topic import TopicInfo, check_name, check_topic_name
from app.domain.queues.queue import QueueConfig, QueueInfo, check_config, start_of
from app.errors.database import ServiceUnavailable
from app.errors.http import InvalidRequest
from app.errors.log import UnknownTopicOrPartition
from app.errors.queues import InvalidQueueConfig, QueueAlreadyExists, UnknownQueue
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.log import offset_lookup, pages
from app.storage.log.pages import Bounds
from app.storage.queues import queues, share_partitions
from app.storage.queues.queues import negative_queue_id

_ATTEMPTS = 5
_FIXED = frozenset({"topic", "start", "ordering"})
UNKNOWN_QUEUE = "there is no queue of this name; GET /v1/queues lists the queues, PUT /v1/queues/{queue} creates one"


class CreatedQueue(NamedTuple):
    """A queue that was created or confirmed.

    Attributes:
        created_topics: Names of its topics that did not exist and were created.
    """

    info: QueueInfo
    is_new: bool
    created_topics: tuple[str, ...]


class QueueRequest(NamedTuple):
    """The definition of a queue in a request.

    Attributes:
        topic: The topic whose records it delivers, or None for the topic of the existing queue.
        given: Configuration values to set, by field.
        restored: Fields to reset to their defaults.
        dead_letter_topic: Name of a topic; None for no dead-letter topic; UNSET to keep the present one.
    """

    topic: str | None
    given: dict[str, object]
    restored: frozenset[str] = frozenset()
    dead_letter_topic: str | UnsetType | None = UNSET


class Queues:
    """The queues over topics.

    A cached definition may be old: each transaction reads the configuration with the share partitions that it locks.
    """

    def __init__(self, storage: Storage, topics: Topics, signals: Signals) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._cache: dict[str, QueueInfo] = {}

    async def get(self, name: str) -> QueueInfo:
        """Load a queue from the database.

        Raises:
            UnknownQueue: There is no queue of this name.
        """
        check_name(name, "queue")
        found = await self._storage.read(queues.find, name)
        if found is None:
            self._cache.pop(name, None)
            raise UnknownQueue(UNKNOWN_QUEUE)
        return self._keep(found)

    async def route(self, name: str, *, refresh: bool) -> tuple[QueueInfo, TopicInfo]:
        """Return a queue and its topic from the caches; `refresh` loads both from the database.

        Raises:
            UnknownQueue: There is no queue of this name, or it was deleted with its topic.
        """
        queue = None if refresh else self._cache.get(name)
        queue = queue or await self.get(name)
        try:
            topic = await (self._topics.refresh(queue.topic) if refresh else self._topics.get(queue.topic))
        except UnknownTopicOrPartition:
            topic = None
        if topic is None or topic.topic_id != queue.topic_id:
            if not refresh:
                return await self.route(name, refresh=True)
            raise UnknownQueue("the topic of this queue was deleted, and the queue with it")
        return queue, topic

    async def list_(self, after: str, limit: int) -> list[QueueInfo]:
        """Return up to `limit` queues in order of their names, starting after the name `after`."""
        return await self._storage.read(queues.list_, after, limit)

    async def create(self, name: str, request: QueueRequest) -> CreatedQueue:
        """Create a queue and its missing topics, or confirm an existing queue.

        Returns:
            The queue, whether it was created, and which topics were created for it.

        Raises:
            InvalidTopicName, InvalidQueueConfig, InvalidRequest: The request is invalid.
            QueueAlreadyExists: The queue exists, and a given field differs.
            PolicyViolation: There are too many queues.
        """
        check_name(name, "queue")
        check_config(request.given)
        config = msgspec.convert(request.given, QueueConfig)
        created_topics: dict[str, None] = {}
        for _ in range(_ATTEMPTS):
            found = await self._storage.read(queues.find, name)
            if found is not None:
                _confirm(found, request)
                return CreatedQueue(self._keep(found), is_new=False, created_topics=tuple(created_topics))
            if request.topic is None:
                message = "topic is required for a new queue: the topic whose records it delivers"
                raise InvalidRequest.at(None, "topic", "is required", message=message)
            check_topic_name(request.topic)
            dead_letters, created = await self._dead_letters(request.dead_letter_topic, request.topic)
            topic, is_new = await self._topics.create(request.topic, TopicRequest(None, {}))
            created_topics |= dict.fromkeys([*([topic.name] if is_new else ()), *created])
            made = await self._storage.write(
                create_queue, name, topic, dead_letters, config, self._topics.limits.max_queues
            )
            if made is not None:
                self._cache[name] = made
                return CreatedQueue(made, is_new=True, created_topics=tuple(created_topics))
        raise ServiceUnavailable("the queue or its topics change too often; try again")

    async def change(self, name: str, request: QueueRequest) -> tuple[QueueInfo, tuple[str, ...]]:
        """Change the configuration of a queue, pause or resume it.

        Returns:
            The queue, and its dead-letter topic if that did not exist and was created.

        Raises:
            UnknownQueue, InvalidQueueConfig
        """
        check_config(request.given)
        before = await self.get(name)
        dead_letters, created_topics = await self._dead_letters(request.dead_letter_topic, before.topic)
        info = await self._storage.write(_change, name, request, dead_letters)
        if info is None:
            raise UnknownQueue(UNKNOWN_QUEUE)
        self._cache[name] = info
        self._signals.announce([negative_queue_id(info.queue_id)])
        return info, created_topics

    async def delete(self, name: str) -> None:
        """Delete a queue with its state, and keep its topics.

        Raises:
            UnknownQueue: There is no queue of this name.
        """
        check_name(name, "queue")
        queue_id = await self._storage.write_freeing(_delete, name)
        self._cache.pop(name, None)
        if queue_id is None:
            raise UnknownQueue(UNKNOWN_QUEUE)
        self._signals.announce([negative_queue_id(queue_id)])

    async def describe(self, name: str) -> tuple[QueueInfo, QueueState]:
        """Return a queue and the state of its records.

        Raises:
            UnknownQueue: There is no queue of this name.
        """
        info = await self.get(name)
        return info, await self._storage.read(describe, info)

    async def purge(self, name: str) -> int:
        """Archive all available and delayed records, and return their number; acquired records stay.

        Raises:
            UnknownQueue: There is no queue of this name.
        """
        info = await self.get(name)
        purged = await self._storage.write_freeing(purge, info)
        if purged is None:
            raise UnknownQueue(UNKNOWN_QUEUE)
        return purged

    async def release_locks(self, name: str) -> int:
        """Make all acquired records available now, and return their number; their delivery counts stay.

        It is for a worker that takes over the queue from one that has failed.

        Raises:
            UnknownQueue: There is no queue of this name.
        """
        info = await self.get(name)
        released = await self._storage.write(release_locks, info)
        if released is None:
            raise UnknownQueue(UNKNOWN_QUEUE)
        self._signals.announce([negative_queue_id(info.queue_id)])
        return released

    async def skip(self, name: str, partition_id: int, offset: int) -> int:
        """Archive all records of a partition below an offset, acquired and delayed ones included.

        An offset above the log end offset skips to the log end offset.

        Returns:
            The number of records that were archived.

        Raises:
            UnknownQueue: There is no queue of this name, or the partition is not one of its topic.
        """
        info = await self.get(name)
        skipped = await self._storage.write_freeing(skip, info, partition_id, offset)
        if skipped is None:
            raise UnknownQueue(UNKNOWN_QUEUE)
        self._signals.announce([negative_queue_id(info.queue_id)])
        return skipped

    def _keep(self, found: QueueInfo) -> QueueInfo:
        """Cache a queue and return the cached object, which is the same as before unless the queue has changed.

        Requests share a transaction only if they have the same object.
        """
        if self._cache.get(found.name) != found:
            self._cache[found.name] = found
        return self._cache[found.name]

    async def _dead_letters(self, name: str | UnsetType | None, topic: str) -> tuple[TopicInfo | None, tuple[str, ...]]:
        """Return the dead-letter topic, which is created if it is missing, and its name if it was created.

        Raises:
            InvalidTopicName: The name is invalid.
            InvalidQueueConfig: It is the queue's own topic, or compacted.
        """
        if name is None or name is UNSET:
            return None, ()
        if name == topic:
            raise _refused("must not be the queue's own topic")
        found = await self._topics.find(name)
        is_new = False
        if found is None:
            _, is_new = await self._topics.create(name, TopicRequest(None, {}))
        found = await self._topics.refresh(name)
        if found.config.compacted:
            raise _refused("must have the cleanup_policy delete")
        return found, (name,) if is_new else ()


def _refused(detail: str) -> InvalidQueueConfig:
    return InvalidQueueConfig.at(None, "dead_letter_topic", detail)


def _confirm(info: QueueInfo, request: QueueRequest) -> None:
    """Raise QueueAlreadyExists if a given field differs from an existing queue."""
    differing = [field for field, value in request.given.items() if getattr(info.config, field) != value]
    if request.dead_letter_topic not in {UNSET, info.dead_letter_topic}:
        differing.insert(0, "dead_letter_topic")
    if request.topic not in {None, info.topic}:
        differing.insert(0, "topic")
    if differing:
        fixed = [field for field in differing if field in _FIXED]
        remedy = (
            f"{' and '.join(fixed)} cannot be changed: delete the queue first, or take another name"
            if fixed
            else "PATCH /v1/queues/{queue} changes that"
        )
        raise QueueAlreadyExists(
            f"the queue exists and differs in {', '.join(differing)}; {remedy}", differing=differing
        )


def create_queue(
    tx: Tx,
    name: str,
    topic: TopicInfo,
    dead_letters: TopicInfo | None,
    config: QueueConfig,
    max_queues: int | None = None,
) -> QueueInfo | None:
    """Create a queue, or return None if it exists by now or one of its topics has changed."""
    wanted = {topic.topic_id} | ({dead_letters.topic_id} if dead_letters is not None else set())
    if queues.lock_topics(tx, sorted(wanted)) != wanted:
        return None
    found = pages.bounds(tx, topic.partition_ids)
    if any(bounds.version != topic.version for bounds in found.values()) or len(found) < topic.partitions:
        return None
    start_offsets = {each: _start_offset(tx, bounds, start_of(config)) for each, bounds in found.items()}
    dead_letter_topic_id = None if dead_letters is None else dead_letters.topic_id
    created = queues.create(tx, name, topic.topic_id, dead_letter_topic_id, config, start_offsets, clock.read(tx))
    if not created:
        return None
    if max_queues is not None:
        queues.check_limit(tx, max_queues)
    return queues.find(tx, name)


def _start_offset(tx: Tx, bounds: Bounds, spec: OffsetSpec) -> int:
    """Return the offset at which a queue starts; an offset out of bounds is clamped."""
    offset = offset_lookup.resolve(tx, bounds, spec)
    return min(max(bounds.log_start_offset, offset), bounds.log_end_offset)


def _change(tx: Tx, name: str, request: QueueRequest, dead_letters: TopicInfo | None) -> QueueInfo | None:
    info = queues.find_locked(tx, name)
    if info is None:
        return None
    defaults = msgspec.structs.asdict(QueueConfig())
    restored = {field: defaults[field] for field in request.restored}
    config = msgspec.structs.replace(info.config, **(restored | request.given))
    if config.max_delivery_count != info.config.max_delivery_count:
        share_partitions.schedule_archiving(tx, info.queue_id)
    if dead_letters is not None and not queues.lock_topics(tx, [dead_letters.topic_id]):
        raise _refused("was deleted meanwhile; try again")
    if dead_letters is None and request.dead_letter_topic is UNSET:
        queues.change_config(tx, info.queue_id, config)
    else:
        queues.change(tx, info.queue_id, None if dead_letters is None else dead_letters.topic_id, config)
    return queues.find(tx, name)


def _delete(tx: Tx, name: str) -> int | None:
    info = queues.find_locked(tx, name)
    if info is None:
        return None
    queues.delete_(tx, info.queue_id)
    return info.queue_id
