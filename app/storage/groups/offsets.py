"""Committed offsets of consumer groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import and_, bindparam, delete, func, or_, select, tuple_

from app.domain.groups.assignor import Partition
from app.domain.groups.group import Group
from app.storage.db import clock
from app.storage.db.clock import now_ms
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import OFFSET_MASK, consumer_groups, group_offsets, log_end_of, partitions, records, topics
from app.storage.db.transaction import Tx
from app.storage.log import clock_ticks
from app.storage.log.appends import base_record_id, last_record_id
from app.storage.log.pages import Bounds, bounds_columns, bounds_of

T = TypeVar("T")

RETENTION_MS = 7 * 86_400_000
"""Kafka's offsets.retention.minutes."""

_PROGRESS_CHUNK = 8_192
_OFFSETS_CHUNK = 500

_offsets = group_offsets.c
_of_partition = and_(_offsets.topic_id == partitions.c.topic_id, _offsets.partition == partitions.c.partition)

_PROGRESS = CompiledStatement(
    select(
        *bounds_columns,
        _offsets.committed_offset,
        _offsets.committed_at_ms,
    )
    .join(topics, topics.c.topic_id == partitions.c.topic_id)
    .outerjoin(group_offsets, and_(_of_partition, _offsets.group_id == bindparam("group_id")))
    .where(partitions.c.partition_id.in_(bindparam("ids", expanding=True))),
    expanding="ids",
)
oldest_unread = (
    select(records.c.timestamp_ms)
    .where(
        records.c.record_id >= base_record_id + func.coalesce(_offsets.committed_offset, partitions.c.log_start_offset),
        records.c.record_id >= base_record_id + partitions.c.log_start_offset,
        records.c.record_id <= base_record_id + OFFSET_MASK,
    )
    .order_by(records.c.record_id)
    .limit(1)
    .correlate(partitions, group_offsets)
    .scalar_subquery()
)
_committed_topics = select(_offsets.topic_id).where(_offsets.group_id == bindparam("group_id")).correlate(None)
_LAGS = (
    select(
        topics.c.name,
        partitions.c.partition,
        _offsets.committed_offset,
        partitions.c.log_start_offset,
        last_record_id.label("last_id"),
        oldest_unread.label("oldest_ms"),
        _offsets.metadata,
        now_ms(),
    )
    .join(topics, topics.c.topic_id == partitions.c.topic_id)
    .outerjoin(group_offsets, and_(_of_partition, _offsets.group_id == bindparam("group_id")))
    .where(
        or_(
            partitions.c.topic_id.in_(bindparam("subscribed", expanding=True)),
            partitions.c.topic_id.in_(_committed_topics),
        )
    )
    .order_by(topics.c.name, partitions.c.partition)
)
_COMMITTED = select(_offsets.topic_id, _offsets.partition, _offsets.committed_offset).where(
    _offsets.group_id == bindparam("group_id"),
    tuple_(_offsets.topic_id, _offsets.partition).in_(bindparam("ids", expanding=True)),
)
_IDS = select(partitions.c.topic_id, partitions.c.partition, partitions.c.partition_id).where(
    partitions.c.topic_id.in_(bindparam("ids", expanding=True))
)
_DELETE_OF_DELETED_TOPICS = delete(group_offsets).where(
    tuple_(_offsets.group_id, _offsets.topic_id, _offsets.partition).in_(
        select(_offsets.group_id, _offsets.topic_id, _offsets.partition)
        .where(_offsets.topic_id.not_in(select(topics.c.topic_id)))
        .limit(bindparam("at_most"))
        .with_for_update(of=group_offsets, skip_locked=True)
    )
)
_EXPIRED = (
    select(consumer_groups.c.name)
    .where(consumer_groups.c.empty_since_ms < bindparam("before_ms"))
    .limit(bindparam("at_most"))
)


class PartitionProgress(NamedTuple):
    """A partition's bounds, the group's committed offset in it, and the time of that commit."""

    bounds: Bounds
    committed_offset: int | None
    committed_at_ms: int | None

    @property
    def partition(self) -> Partition:
        """The partition."""
        return self.bounds.topic_id, self.bounds.partition


class Lag(NamedTuple):
    """The lag of a group in a partition.

    Attributes:
        lag: Number of records that are not committed; without a committed offset, all records.
        lag_ms: Age of the oldest of them, 0 without such records.
    """

    topic: str
    partition: int
    committed_offset: int | None
    log_end_offset: int
    lag: int
    lag_ms: int
    metadata: str


class Commit(NamedTuple):
    """An offset to commit: that of the next record to read.

    Attributes:
        from_offset: The committed offset before the commit, or None for any.
    """

    topic: str
    topic_id: int
    partition: int
    partition_id: int
    offset: int
    from_offset: int | None = None
    metadata: str = ""


def progress(tx: Tx, group_id: int, partition_ids: Sequence[int]) -> list[PartitionProgress]:
    """Return the bounds and committed offsets of partitions, in the order given; deleted partitions are left out."""
    found = {
        partition_id: PartitionProgress(bounds_of(partition_id, *bounds), committed_offset, committed_at_ms)
        for some in chunks(partition_ids, _PROGRESS_CHUNK)
        for partition_id, *bounds, committed_offset, committed_at_ms in _PROGRESS.rows(
            tx, {"ids": some, "group_id": group_id}
        )
    }
    return [found[partition_id] for partition_id in partition_ids if partition_id in found]


def committed(tx: Tx, group_id: int, ids: Iterable[Partition]) -> dict[Partition, int]:
    """Return the committed offsets of partitions; those without one are left out."""
    return {
        (topic_id, partition): offset
        for some in chunks(list(ids), _OFFSETS_CHUNK)
        for topic_id, partition, offset in tx.connection.execute(_COMMITTED, {"group_id": group_id, "ids": some})
    }


def partition_ids(tx: Tx, ids: Collection[Partition]) -> dict[Partition, int]:
    """Return the storage's ids of partitions; deleted partitions are left out."""
    topic_ids = sorted({topic_id for topic_id, _ in ids})
    return {
        (topic_id, partition): partition_id
        for some in chunks(topic_ids, _OFFSETS_CHUNK)
        for topic_id, partition, partition_id in tx.connection.execute(_IDS, {"ids": some})
        if (topic_id, partition) in ids
    }


def commit(tx: Tx, group_id: int, commits: Sequence[Commit], at_ms: int) -> None:
    """Store committed offsets."""
    keys, columns = ("group_id", "topic_id", "partition"), ("committed_offset", "metadata", "committed_at_ms")
    tx.connection.execute(
        tx.dialect.upsert(group_offsets, keys, columns),
        [
            {
                "group_id": group_id,
                "topic_id": one.topic_id,
                "partition": one.partition,
                "committed_offset": one.offset,
                "metadata": one.metadata,
                "committed_at_ms": at_ms,
            }
            for one in sorted(commits, key=lambda one: (one.topic_id, one.partition))
        ],
    )


def begin(tx: Tx, group_id: int, starts: Mapping[Partition, int], at_ms: int) -> None:
    """Store initial offsets of partitions in which a group has no committed offset yet."""
    rows = [
        {
            "group_id": group_id,
            "topic_id": topic_id,
            "partition": partition,
            "committed_offset": offset,
            "metadata": "",
            "committed_at_ms": at_ms,
        }
        for (topic_id, partition), offset in sorted(starts.items())
    ]
    tx.connection.execute(tx.dialect.insert(group_offsets).on_conflict_do_nothing(), rows)


def lags(tx: Tx, group_id: int, subscribed: Iterable[int]) -> list[Lag]:
    """Return the lag in all partitions of the topics that a group subscribes to or has committed, in their order."""
    found = []
    rows = tx.connection.execute(_LAGS, {"group_id": group_id, "subscribed": sorted(subscribed)})
    for topic, partition, at, start, last_id, oldest_ms, metadata, read_at_ms in rows:
        end = log_end_of(start, last_id)
        lag = max(0, end - (start if at is None else max(at, start)))
        lag_ms = max(0, read_at_ms - oldest_ms) if lag and oldest_ms is not None else 0
        found.append(Lag(topic, partition, at, end, lag, lag_ms, metadata or ""))
    return found


def delete_of_deleted_topics(tx: Tx, limit: int) -> int:
    """Delete up to `limit` offsets of deleted topics. Return how many were deleted."""
    return tx.connection.execute(_DELETE_OF_DELETED_TOPICS, {"at_most": limit}).rowcount


def expired_groups(tx: Tx, limit: int) -> list[str]:
    """Return names of groups that have been empty for longer than offsets are retained."""
    before_ms = clock_ticks.expiry_ms(tx, clock.read(tx)) - RETENTION_MS
    return list(tx.connection.execute(_EXPIRED, {"before_ms": before_ms, "at_most": limit}).scalars())


def chunks(ids: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ids in chunks: databases bound the number of parameters of a statement."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def is_expired(group: Group, at_ms: int) -> bool:
    """Return whether a group has been empty for longer than offsets are retained."""
    return group.empty_since_ms is not None and group.empty_since_ms < at_ms - RETENTION_MS
