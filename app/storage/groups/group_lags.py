"""The lag of all consumer groups, read in chunks for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, select, tuple_

from app.storage.db.clock import now_ms
from app.storage.db.tables import consumer_groups, group_members, group_offsets, log_end_of, partitions, topics
from app.storage.db.transaction import Tx
from app.storage.groups.offsets import oldest_unread
from app.storage.log.appends import last_record_id

CHUNK_ROWS = 500

_offsets = group_offsets.c
_key = (_offsets.group_id, _offsets.topic_id, _offsets.partition)
_CHUNK = (
    select(
        *_key,
        consumer_groups.c.name.label("group_name"),
        topics.c.name.label("topic_name"),
        _offsets.committed_offset,
        partitions.c.log_start_offset,
        last_record_id.label("last_id"),
        oldest_unread.label("oldest_ms"),
        now_ms().label("now_ms"),
    )
    .join(consumer_groups, consumer_groups.c.group_id == _offsets.group_id)
    .join(topics, topics.c.topic_id == _offsets.topic_id)
    .join(partitions, and_(partitions.c.topic_id == _offsets.topic_id, partitions.c.partition == _offsets.partition))
    .where(tuple_(*_key) > tuple_(bindparam("group_id"), bindparam("topic_id"), bindparam("partition")))
    .order_by(*_key)
    .limit(bindparam("at_most"))
)
_MEMBERS = (
    select(consumer_groups.c.name, func.count(group_members.c.member_id))
    .outerjoin(group_members, group_members.c.group_id == consumer_groups.c.group_id)
    .group_by(consumer_groups.c.name)
    .order_by(consumer_groups.c.name)
    .limit(bindparam("at_most"))
)


class PartitionLag(NamedTuple):
    """The lag of a group in a partition in which it has a committed offset.

    Attributes:
        lag: Records that are not committed.
        lag_ms: Age of the oldest of them, 0 without such records.
    """

    group: str
    topic: str
    partition: int
    committed_offset: int
    lag: int
    lag_ms: int


def chunk_after(tx: Tx, key: tuple[int, int, int]) -> tuple[list[PartitionLag], tuple[int, int, int] | None]:
    """Return the next lags by id of group, topic and partition, and the key of the last one; None after all.

    Partitions in which a group has committed nothing are left out, as are those of deleted topics.
    """
    parameters = dict(zip(("group_id", "topic_id", "partition"), key, strict=True))
    rows = tx.connection.execute(_CHUNK, parameters | {"at_most": CHUNK_ROWS}).all()
    found = []
    for group_id, topic_id, partition, group, topic, committed, start, last_id, oldest_ms, at_ms in rows:
        key = (group_id, topic_id, partition)
        lag = max(0, log_end_of(start, last_id) - max(committed, start))
        lag_ms = max(0, at_ms - oldest_ms) if lag and oldest_ms is not None else 0
        found.append(PartitionLag(group, topic, partition, committed, lag, lag_ms))
    return found, key if len(rows) == CHUNK_ROWS else None


def read_lags(tx: Tx, at_most: int, in_time: Callable[[], bool]) -> tuple[list[PartitionLag], bool]:
    """Return the lags of whole groups, and whether these are all groups.

    Args:
        tx: A read transaction.
        at_most: Rows that are read.
        in_time: Asked after each chunk; what it ends is left out.
    """
    found: list[PartitionLag] = []
    key: tuple[int, int, int] | None = (0, 0, -1)
    while key is not None and len(found) < at_most and in_time():
        lags, key = chunk_after(tx, key)
        found += lags
    if key is None:
        return found, True
    partial = found[-1].group if found else ""
    return [each for each in found if each.group != partial], False


def members(tx: Tx, at_most: int) -> list[tuple[str, int]]:
    """Return the number of members of the first groups by name."""
    return [(name, number) for name, number in tx.connection.execute(_MEMBERS, {"at_most": at_most})]
