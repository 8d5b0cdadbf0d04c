"""Topics: create, change and delete them, with a cache of this node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from app.broker.waiting.signals import Signals
from app.domain.limits.installation import InstallationLimits
from app.domain.log.topic import (
    TopicConfig,
    TopicInfo,
    check_name,
    check_not_reserved,
    check_overrides,
    check_partitions,
    check_topic_name,
)
from app.errors.database import ServiceUnavailable
from app.errors.log import OffsetAboveLogEnd, TopicAlreadyExists, UnknownTopicOrPartition
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.log import pages, retention, topics
from app.storage.log.topics import Overrides, StoredTopic

UNKNOWN_TOPIC = "there is no topic of this name; GET /v1/topics lists the topics, PUT /v1/topics/{topic} creates one"

_ATTEMPTS = 5
DRAFT = 0
"""The id of a topic that does not exist yet."""


class StaleTopic(Exception):
    """The topic in the cache is stale: load it from the database, and repeat the request."""


class TopicRequest(NamedTuple):
    """The requested partitions and configuration of a topic.

    Attributes:
        partitions: Their number, or None for the present number or the server's default.
        given: Configuration values to set.
        restored: Configuration fields to reset to their defaults.
    """

    partitions: int | None
    given: Overrides
    restored: frozenset[str] = frozenset()


class TopicDependent(Protocol):
    """A part of the service that changes in the transaction that changes or deletes a topic."""

    def lock(self, tx: Tx, topic: str) -> None:
        """Lock what depends on a topic, before the topic and its partitions are locked."""

    def check_delete(self, tx: Tx, topic_id: int) -> None:
        """Refuse to delete a locked topic that is in use.

        Raises:
            TopicInUse
        """

    def check_compact(self, tx: Tx, topic_id: int) -> None:
        """Refuse the compaction of a locked topic that needs all its records.

        Raises:
            TopicInUse
        """

    def grow(self, tx: Tx, topic_id: int, first_new_partition: int) -> None:
        """Add the new partitions of a locked topic, from `first_new_partition`."""

    def delete(self, tx: Tx, topic_id: int) -> None:
        """Delete what depends on a locked topic."""


class Topics:
    """The topics of the log.

    The cache may be stale: each append and read compares the topic's version in its own transaction.

    Args:
        defaults: The configuration of a topic that sets none.
        default_partitions: The number of partitions of a topic that is created without one.
        clock: Wall clock in milliseconds.
        dependents: What depends on topics, in the order of locks.
        limits: How many topics and other things there may be. Also an attribute.
    """

    def __init__(
        self,
        storage: Storage,
        signals: Signals,
        *,
        defaults: TopicConfig,
        default_partitions: int,
        clock: Callable[[], int],
        dependents: Sequence[TopicDependent] = (),
        limits: InstallationLimits | None = None,
    ) -> None:
        self.limits = limits or InstallationLimits()
        self._storage = storage
        self._dependents = dependents
        self._signals = signals
        self._defaults = defaults
        self._default_partitions = default_partitions
        self._clock = clock
        self._cache: dict[str, TopicInfo] = {}
        self._by_id: dict[int, TopicInfo] = {}

    def cached(self, name: str) -> TopicInfo | None:
        """Return a topic from the cache, or None."""
        return self._cache.get(name)

    async def get(self, name: str) -> TopicInfo:
        """Return a topic from the cache or the database.

        Raises:
            UnknownTopicOrPartition: No topic has this name.
        """
        return self._cache.get(name) or await self.refresh(name)

    async def find(self, name: str) -> TopicInfo | None:
        """Return a topic from the cache or the database, or None."""
        return self._cache.get(name) or await self._refresh_or_none(name)

    async def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of some names that have no topic in the database."""
        if not names:
            return []
        existing = await self._storage.read(topics.names, names)
        return [name for name in names if name not in existing]

    async def names(self) -> list[str]:
        """Return the names of all topics."""
        return await self._storage.read(topics.all_names)

    async def _refresh_or_none(self, name: str) -> TopicInfo | None:
        try:
            return await self.refresh(name)
        except UnknownTopicOrPartition:
            return None

    async def refresh(self, name: str) -> TopicInfo:
        """Load a topic from the database into the cache.

        Raises:
            InvalidTopicName: No topic can have this name.
            UnknownTopicOrPartition: No topic has this name.
        """
        check_name(name, "topic")
        found = await self._storage.read(topics.find, name, self._defaults)
        if found is None:
            self.drop([name])
            raise UnknownTopicOrPartition(UNKNOWN_TOPIC)
        return self._keep(found.info)

    def find_partition(self, topic_id: int, partition: int) -> tuple[str, int] | None:
        """Return the topic's name and the id of a partition from the cache, or None. Any thread may call this."""
        info = self._by_id.get(topic_id)
        return None if info is None or partition >= info.partitions else (info.name, info.partition_ids[partition])

    async def load_topics_of(self, partitions: Iterable[tuple[int, int]]) -> None:
        """Load the topics of partitions, given by topic id and number, that are not in the cache."""
        for topic_id in sorted(
            {topic_id for topic_id, number in partitions if self.find_partition(topic_id, number) is None}
        ):
            name = await self._storage.read(topics.find_name, topic_id)
            if name is not None:
                await self._refresh_or_none(name)

    def drop(self, names: Iterable[str]) -> None:
        """Drop topics from the cache by name."""
        for name in names:
            if (info := self._cache.pop(name, None)) is not None:
                self._by_id.pop(info.topic_id, None)

    def _keep(self, info: TopicInfo) -> TopicInfo:
        before = self._cache.get(info.name)
        if before is not None and before.topic_id != info.topic_id:
            self._by_id.pop(before.topic_id, None)
        self._cache[info.name] = self._by_id[info.topic_id] = info
        return info

    def evict(self, info: TopicInfo) -> None:
        """Drop a topic from the cache unless it was replaced there."""
        if self._cache.get(info.name) is info:
            self.drop([info.name])

    def draft(self, name: str) -> TopicInfo:
        """Return the topic that would be created with the server's defaults, to check a request before that."""
        return TopicInfo(DRAFT, name, 0, 0, self._defaults, tuple(range(self._default_partitions)))

    async def list_(self, after: str, limit: int) -> list[TopicInfo]:
        """Return up to `limit` topics by name, from the first above `after`."""
        return [found.info for found in await self._storage.read(topics.list_, after, limit, self._defaults)]

    async def create(self, name: str, request: TopicRequest) -> tuple[TopicInfo, bool]:
        """Create a topic, or confirm that the existing one is as requested. Return it and whether it is new.

        Raises:
            InvalidTopicName, InvalidPartitions, InvalidConfig: A value is out of bounds.
            TopicAlreadyExists: The topic exists and a given field differs.
            PolicyViolation: There are too many topics or partitions.
        """
        check_topic_name(name)
        check_overrides(request.given)
        count = self._default_partitions if request.partitions is None else request.partitions
        check_partitions(count)
        found, created = await self._storage.write(
            _create, name, count, request.given, self._clock(), self._defaults, self.limits
        )
        info = self._keep(found.info)
        if not created:
            _confirm(info, request)
        return info, created

    async def change(self, name: str, request: TopicRequest) -> TopicInfo:
        """Change a topic's configuration and add partitions.

        Raises:
            UnknownTopicOrPartition, InvalidPartitions, InvalidConfig
            TopicInUse: It would be compacted, and is the dead-letter topic of a queue.
            PolicyViolation: There would be too many partitions.
        """
        check_not_reserved(name)
        check_overrides(request.given)
        before = await self._storage.write(_change, name, request, self._defaults, self._dependents, self.limits)
        info = await self.refresh(name)
        self._signals.announce(before.partition_ids)
        return info

    async def delete(self, name: str) -> None:
        """Delete a topic and its queues at once; its records are deleted in the background.

        Raises:
            UnknownTopicOrPartition: No topic has this name.
            TopicInUse: It is the dead-letter topic of a queue.
        """
        check_not_reserved(name)
        info = await self._storage.write_freeing(_delete, name, self._defaults, self._dependents)
        self.drop([name])
        self._signals.announce(info.partition_ids)

    async def delete_before(self, name: str, partition: int, offset: int) -> int:
        """Delete the records of a partition before an offset, and return its `log_start_offset`.

        Raises:
            UnknownTopicOrPartition: The topic or the partition does not exist.
            OffsetAboveLogEnd: The offset is above `log_end_offset`.
        """
        check_not_reserved(name)
        info = await self.refresh(name)
        partition_id = partition_id_of(info, partition)
        return await self._storage.write_freeing(_delete_before, partition_id, offset)


def partition_id_of(info: TopicInfo, partition: int) -> int:
    """Return the id of a partition in the database.

    Raises:
        UnknownTopicOrPartition: The topic has no such partition.
    """
    if not 0 <= partition < info.partitions:
        raise UnknownTopicOrPartition(f"the topic has the partitions 0 to {info.partitions - 1}")
    return info.partition_ids[partition]


def _confirm(info: TopicInfo, request: TopicRequest) -> None:
    differing = [field for field, value in request.given.items() if getattr(info.config, field) != value]
    if request.partitions not in {None, info.partitions}:
        differing.insert(0, "partitions")
    if differing:
        remedy = "PATCH /v1/topics/{topic} changes that"
        if request.partitions is not None and request.partitions < info.partitions:
            remedy = (
                f"it has {info.partitions} partitions, and their number can only rise: leave partitions out, "
                "or take another name"
            )
        raise TopicAlreadyExists(
            f"the topic exists and differs in {', '.join(differing)}; {remedy}",
            differing=differing,
        )


def _create(
    tx: Tx,
    name: str,
    count: int,
    given: Overrides,
    now_ms: int,
    defaults: TopicConfig,
    limits: InstallationLimits,
) -> tuple[StoredTopic, bool]:
    """Create a topic or find the existing one, and return it and whether it is new.

    Raises:
        ServiceUnavailable: Other transactions delete the topic between the two statements each time.
    """
    for _ in range(_ATTEMPTS):
        if created := topics.create(tx, name, count, given, now_ms):
            topics.check_limits(tx, limits)
        if (found := topics.find(tx, name, defaults)) is not None:
            return found, created
    raise ServiceUnavailable("the topic changes too often; try again")


def _lock(tx: Tx, name: str, defaults: TopicConfig) -> StoredTopic:
    found = topics.find_locked(tx, name, defaults)
    if found is None:
        raise UnknownTopicOrPartition(UNKNOWN_TOPIC)
    return found


def _change(
    tx: Tx,
    name: str,
    request: TopicRequest,
    defaults: TopicConfig,
    dependents: Sequence[TopicDependent],
    limits: InstallationLimits,
) -> TopicInfo:
    found = _lock(tx, name, defaults)
    count = found.info.partitions if request.partitions is None else request.partitions
    check_partitions(count, found.info.partitions)
    kept = {field: value for field, value in found.overrides.items() if field not in request.restored}
    overrides = {**kept, **request.given}
    if overrides.get("cleanup_policy", defaults.cleanup_policy) != "delete" and not found.info.config.compacted:
        for dependent in dependents:
            dependent.check_compact(tx, found.info.topic_id)
    topics.change(tx, found.info, count, overrides)
    if count > found.info.partitions:
        topics.check_limits(tx, limits)
    for dependent in dependents:
        dependent.grow(tx, found.info.topic_id, found.info.partitions)
    return found.info


def _delete(tx: Tx, name: str, defaults: TopicConfig, dependents: Sequence[TopicDependent]) -> TopicInfo:
    for dependent in dependents:
        dependent.lock(tx, name)
    info = _lock(tx, name, defaults).info
    for dependent in dependents:
        dependent.check_delete(tx, info.topic_id)
    for dependent in dependents:
        dependent.delete(tx, info.topic_id)
    topics.delete_(tx, info)
    return info


def _delete_before(tx: Tx, partition_id: int, offset: int) -> int:
    bounds = pages.lock(tx, partition_id)
    if bounds is None:
        raise UnknownTopicOrPartition("the topic was deleted")
    if offset > bounds.log_end_offset:
        raise OffsetAboveLogEnd(
            f"log_end_offset is {bounds.log_end_offset}, and before_offset must not be above it",
            log_start_offset=bounds.log_start_offset,
            log_end_offset=bounds.log_end_offset,
        )
    retention.delete_before(tx, partition_id, offset)
    return max(offset, bounds.log_start_offset)
