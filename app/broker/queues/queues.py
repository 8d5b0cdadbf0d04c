"""Queues: create, confirm, change, delete, describe, purge; and the cache of what this node knows of them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from app.broker.log.topics import TopicRequest, Topics
from app.broker.queues.counts import QueueState, describe
from app.broker.waiting.signals import Signals
from app.domain.log.offset_spec import OffsetSpec
from app.domain.log.topic import TopicInfo, check_name, check_topic_name
from app.domain.queues import in_flight as rules_of
from app.domain.queues.in_flight import DeliveryRules
from app.domain.queues.queue import QueueConfig, QueueInfo, check_config, start_of
from app.errors.database import ServiceUnavailable
from app.errors.http import InvalidRequest
from app.errors.log import UnknownTopicOrPartition
from app.errors.queues import InvalidQueueConfig, QueueAlreadyExists, UnknownQueue
from app.storage.db import clock
from app.storage.db.engine import Storage, Tx
from app.storage.log import offset_lookup, pages
from app.storage.log.pages import Bounds
from app.storage.queues import delayed_records, queues, share_partitions
from app.storage.queues.delayed_records import SharePartitionKey
from app.storage.queues.queues import scope_id
from app.storage.queues.share_partitions import SharePartitionState

_ATTEMPTS = 5
_FIXED = frozenset({"topic", "start", "ordering"})
_UNKNOWN = "there is no queue of this name; PUT /v1/queues/{queue} creates one"


class QueueRequest(NamedTuple):
    """What a caller wants a queue to be.

    Attributes:
        topic: The topic that it hands out, or None for that of the queue which is there.
        given: Configuration values to set, by field.
        restored: Fields to give their defaults back.
        dead_letter_topic: A topic's name; None for none; UNSET if the caller does not say.
    """

    topic: str | None
    given: dict[str, object]
    restored: frozenset[str] = frozenset()
    dead_letter_topic: str | UnsetType | None = UNSET


class Queues:
    """The queues over topics.

    What is cached may be old: every transaction of a queue reads its configuration in the windows that it locks.
    """

    def __init__(self, storage: Storage, topics: Topics, signals: Signals) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._cache: dict[str, QueueInfo] = {}

    async def get(self, name: str) -> QueueInfo:
        """Load a queue from the database.

        Raises:
            UnknownQueue: There is none of this name.
        """
        check_name(name, "queue")
        found = await self._storage.read(queues.find, name)
        if found is None:
            self._cache.pop(name, None)
            raise UnknownQueue(_UNKNOWN)
        return self._keep(found)

    async def route(self, name: str, *, anew: bool) -> tuple[QueueInfo, TopicInfo]:
        """Return a queue and its topic as this node knows them; `anew` loads both.

        Raises:
            UnknownQueue: There is none of this name, or its topic is gone and the queue with it.
        """
        queue = None if anew else self._cache.get(name)
        queue = queue or await self.get(name)
        try:
            topic = await (self._topics.refresh(queue.topic) if anew else self._topics.get(queue.topic))
        except UnknownTopicOrPartition:
            topic = None
        if topic is None or topic.topic_id != queue.topic_id:
            if not anew:
                return await self.route(name, anew=True)
            raise UnknownQueue("the topic of this queue was deleted, and the queue with it")
        return queue, topic

    async def list_(self, after: str, limit: int) -> list[QueueInfo]:
        """Return up to `limit` queues by name, from the first above `after`."""
        return await self._storage.read(queues.list_, after, limit)

    async def create(self, name: str, request: QueueRequest) -> tuple[QueueInfo, bool]:
        """Create a queue, and its topics where they are missing, or confirm one that is as asked.

        Raises:
            InvalidTopicName, InvalidQueueConfig, InvalidRequest: The request breaks a rule.
            QueueAlreadyExists: It is there and a given field differs.
        """
        check_name(name, "queue")
        check_config(request.given)
        config = msgspec.convert(request.given, QueueConfig)
        for _ in range(_ATTEMPTS):
            found = await self._storage.read(queues.find, name)
            if found is not None:
                _confirm(found, request)
                return self._keep(found), False
            if request.topic is None:
                message = "topic is required for a new queue: the topic whose records it hands out"
                raise InvalidRequest.at(None, "topic", "is required", message=message)
            check_topic_name(request.topic)
            dead_letters = await self._dead_letters(request.dead_letter_topic, request.topic)
            topic, _ = await self._topics.create(request.topic, TopicRequest(None, {}))
            made = await self._storage.write(_create, name, topic, dead_letters, config)
            if made is not None:
                self._cache[name] = made
                return made, True
        raise ServiceUnavailable("the queue or its topics change too often; try again")

    async def change(self, name: str, request: QueueRequest) -> QueueInfo:
        """Change a queue's configuration, pause or resume it.

        Raises:
            UnknownQueue, InvalidQueueConfig
        """
        check_config(request.given)
        before = await self.get(name)
        dead_letters = await self._dead_letters(request.dead_letter_topic, before.topic)
        info = await self._storage.write(_change, name, request, dead_letters)
        if info is None:
            raise UnknownQueue(_UNKNOWN)
        self._cache[name] = info
        self._signals.announce([scope_id(info.queue_id)])
        return info

    async def delete(self, name: str) -> None:
        """Delete a queue and what it knows; the topic stays.

        Raises:
            UnknownQueue: There is none of this name.
        """
        check_name(name, "queue")
        queue_id = await self._storage.write(_delete, name)
        self._cache.pop(name, None)
        if queue_id is None:
            raise UnknownQueue(_UNKNOWN)
        self._signals.announce([scope_id(queue_id)])

    async def describe(self, name: str) -> tuple[QueueInfo, QueueState]:
        """Return a queue and the state of its records.

        Raises:
            UnknownQueue: There is none of this name.
        """
        info = await self.get(name)
        return info, await self._storage.read(describe, info)

    async def purge(self, name: str) -> int:
        """Archive all records that wait, delayed ones included, and return how many; those acquired go on.

        Raises:
            UnknownQueue: There is none of this name.
        """
        info = await self.get(name)
        purged = await self._storage.write(_purge, info)
        if purged is None:
            raise UnknownQueue(_UNKNOWN)
        return purged

    def _keep(self, found: QueueInfo) -> QueueInfo:
        """Return what this node knows of a queue: the same object as before unless something has changed.

        Requests share a transaction if they know a queue by the same object.
        """
        if self._cache.get(found.name) != found:
            self._cache[found.name] = found
        return self._cache[found.name]

    async def _dead_letters(self, name: str | UnsetType | None, topic: str) -> TopicInfo | None:
        """Return the dead-letter topic, created if it is missing.

        Raises:
            InvalidTopicName: It can be no topic's name.
            InvalidQueueConfig: It is the queue's own topic, or compacted.
        """
        if name is None or name is UNSET:
            return None
        if name == topic:
            raise _refused("must not be the queue's own topic")
        found = await self._topics.find(name)
        if found is None:
            found, _ = await self._topics.create(name, TopicRequest(None, {}))
        found = await self._topics.refresh(name)
        if found.config.compacted:
            raise _refused("must have the cleanup_policy delete")
        return found


def _refused(detail: str) -> InvalidQueueConfig:
    return InvalidQueueConfig.at(None, "dead_letter_topic", detail)


def _confirm(info: QueueInfo, request: QueueRequest) -> None:
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


def _create(
    tx: Tx, name: str, topic: TopicInfo, dead_letters: TopicInfo | None, config: QueueConfig
) -> QueueInfo | None:
    """Create a queue, or return None if somebody else just did, or one of its topics is not as it was."""
    wanted = {topic.topic_id} | ({dead_letters.topic_id} if dead_letters is not None else set())
    if queues.lock_topics(tx, sorted(wanted)) != wanted:
        return None
    found = pages.bounds(tx, topic.partition_ids)
    if any(bounds.version != topic.version for bounds in found.values()) or len(found) < topic.partitions:
        return None
    starts = {each: _start_offset(tx, bounds, start_of(config)) for each, bounds in found.items()}
    dead_letter_topic_id = None if dead_letters is None else dead_letters.topic_id
    made = queues.create(tx, name, topic.topic_id, dead_letter_topic_id, config, starts, clock.read(tx))
    return queues.find(tx, name) if made else None


def _start_offset(tx: Tx, bounds: Bounds, spec: OffsetSpec) -> int:
    """Return the offset at which a queue starts; an offset out of bounds is clamped."""
    offset = offset_lookup.resolve(tx, bounds, spec)
    return min(max(bounds.log_start_offset, offset), bounds.log_end_offset)


def _change(tx: Tx, name: str, request: QueueRequest, dead_letters: TopicInfo | None) -> QueueInfo | None:
    if dead_letters is not None and not queues.lock_topics(tx, [dead_letters.topic_id]):
        raise _refused("was deleted meanwhile; try again")
    info = queues.find_locked(tx, name)
    if info is None:
        return None
    defaults = msgspec.structs.asdict(QueueConfig())
    restored = {field: defaults[field] for field in request.restored}
    config = msgspec.structs.replace(info.config, **(restored | request.given))
    if dead_letters is None and request.dead_letter_topic is UNSET:
        queues.change_config(tx, info.queue_id, config)
    else:
        queues.change(tx, info.queue_id, None if dead_letters is None else dead_letters.topic_id, config)
    if config.max_delivery_count != info.config.max_delivery_count:
        share_partitions.look_again(tx, info.queue_id)
    return queues.find(tx, name)


def _delete(tx: Tx, name: str) -> int | None:
    info = queues.find_locked(tx, name)
    if info is None:
        return None
    queues.delete_(tx, info.queue_id)
    return info.queue_id


def _purge(tx: Tx, info: QueueInfo) -> int | None:
    ids = [window.partition_id for window in share_partitions.all_(tx, info.queue_id)]
    locked = share_partitions.lock(tx, info.queue_id, ids, wait=True) if ids else None
    if locked is None:
        return None
    rules = queues.decode_config(locked.config).rules
    scene = share_partitions.log_snapshot(tx, ids)
    purged = 0
    for window in locked.windows:
        bounds = scene.bounds.get(window.partition_id)
        if bounds is not None:
            purged += _purge_window(
                tx, SharePartitionKey(info.queue_id, window.partition_id), window, bounds, rules, scene.now_ms
            )
    return purged


def _purge_window(
    tx: Tx, place: SharePartitionKey, window: SharePartitionState, bounds: Bounds, rules: DeliveryRules, now_ms: int
) -> int:
    """End all records of a window that nobody holds and that are not to be archived anyway."""
    start = max(window.end_offset, bounds.log_start_offset)
    window.expired += start - window.end_offset
    purged = max(0, bounds.log_end_offset - start)
    kept = {
        offset: entry
        for offset, entry in window.entries.items()
        if rules_of.is_held(entry, now_ms) or rules_of.is_last(entry, rules)
    }
    purged += len(window.entries) - len(kept)
    window.entries, window.end_offset = kept, max(start, bounds.log_end_offset)
    if window.delayed:
        removed = delayed_records.remove_waiting(tx, place, rules, now_ms)
        window.delayed -= removed
        purged += removed
    window.archived += purged
    share_partitions.save(tx, place.queue_id, window)
    return purged
