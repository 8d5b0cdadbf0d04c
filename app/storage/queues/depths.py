"""How many records of queues have not ended, without their states: in one query for many queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import bindparam, func, or_, select, tuple_

from app.storage.db.clock import now_ms
from app.storage.db.tables import first_record_id, partitions, queue_partitions, queues, records, topics
from app.storage.db.transaction import Tx
from app.storage.log.pages import Bounds, bounds_columns, bounds_of

CHUNK = 500

_HEAD_BYTES = 16
"""The length of an array of MessagePack takes at most five bytes, the head of its first entry one, its offset nine."""
_LENGTH_BYTES = {0xDC: 2, 0xDD: 4}
_INTEGER_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}

_key = (queue_partitions.c.queue_id, queue_partitions.c.partition_id)
_states = (
    select(
        *_key,
        queues.c.name,
        queue_partitions.c.end_offset,
        func.substr(queue_partitions.c.entries, 1, _HEAD_BYTES),
        queue_partitions.c.delayed + queue_partitions.c.reference_count,
        now_ms().label("now_ms"),
        *bounds_columns,
    )
    .join(queues, queue_partitions.c.queue_id == queues.c.queue_id)
    .join(partitions, partitions.c.partition_id == queue_partitions.c.partition_id)
    .join(topics, topics.c.topic_id == partitions.c.topic_id)
)
_NAMED = _states.where(queues.c.name >= bindparam("first"), queues.c.name < bindparam("end"))
_CHUNK = (
    _states.where(
        or_(queues.c.name < bindparam("first"), queues.c.name >= bindparam("end")),
        tuple_(*_key) > tuple_(bindparam("queue_id"), bindparam("partition_id")),
    )
    .order_by(*_key)
    .limit(CHUNK)
)
_TIMESTAMP = (
    select(records.c.timestamp_ms)
    .where(records.c.record_id >= bindparam("low"), records.c.record_id < bindparam("high"))
    .order_by(records.c.record_id)
    .limit(1)
)


class Depth(NamedTuple):
    """The records of a share partition that have not ended.

    Attributes:
        first_offset: The lowest offset of one that has no row of its own.
    """

    queue: str
    records: int
    first_offset: int
    now_ms: int
    bounds: Bounds


class QueueDepth(NamedTuple):
    """The records of a queue that have not ended.

    Attributes:
        records: Their number; an upper bound if compaction has made gaps.
        oldest_age_ms: Age of the oldest among the first ones of each partition, delayed records excluded; 0 without
            records.
    """

    queue: str
    records: int
    oldest_age_ms: int


def named(tx: Tx, first: str, end: str) -> list[Depth]:
    """Return the depths of the share partitions of the queues with names from `first` to below `end`."""
    rows = tx.connection.execute(_NAMED, {"first": first, "end": end})
    return [_depth(*row) for _, _, *row in rows]


def read_depths(
    tx: Tx, hidden: tuple[str, str], at_most: int, in_time: Callable[[], bool]
) -> tuple[list[QueueDepth], bool]:
    """Return the depths of whole queues, and whether these are all.

    Args:
        tx: A read transaction.
        hidden: Names from the first to below the second are left out.
        at_most: Rows that are read.
        in_time: Asked after each chunk; what it ends is left out.
    """
    found: dict[str, QueueDepth] = {}
    key: tuple[int, int] | None = (0, 0)
    read, last = 0, ""
    while key is not None and read < at_most and in_time():
        parameters = {"first": hidden[0], "end": hidden[1], "queue_id": key[0], "partition_id": key[1]}
        rows = tx.connection.execute(_CHUNK, parameters).all()
        read += len(rows)
        for queue_id, partition_id, *row in rows:
            key = (queue_id, partition_id)
            depth = _depth(*row)
            last = depth.queue
            before = found.get(last, QueueDepth(last, 0, 0))
            age_ms = max(before.oldest_age_ms, _age_ms(tx, depth))
            found[last] = QueueDepth(last, before.records + depth.records, age_ms)
        if len(rows) < CHUNK:
            key = None
    if key is not None:
        found.pop(last, None)
    return list(found.values()), key is None


def _depth(queue: str, end_offset: int, head: bytes, rows: int, now_ms: int, *columns: int) -> Depth:
    bounds = bounds_of(*columns)
    new = max(0, bounds.log_end_offset - max(end_offset, bounds.log_start_offset))
    length, first = _entries(bytes(head))
    lowest = max(end_offset if first is None else first, bounds.log_start_offset)
    return Depth(queue, new + rows + length, lowest, now_ms, bounds)


def _age_ms(tx: Tx, depth: Depth) -> int:
    if depth.first_offset >= depth.bounds.log_end_offset:
        return 0
    base = first_record_id(depth.bounds.partition_id)
    span = {"low": base + depth.first_offset, "high": base + depth.bounds.log_end_offset}
    timestamp_ms = tx.connection.execute(_TIMESTAMP, span).scalar_one_or_none()
    return 0 if timestamp_ms is None else max(0, depth.now_ms - timestamp_ms)


def _entries(head: bytes) -> tuple[int, int | None]:
    """Return the length of an array of in-flight records from its first bytes, and the offset of the first one."""
    width = _LENGTH_BYTES.get(head[0], 0)
    length = int.from_bytes(head[1 : 1 + width]) if width else head[0] & 0x0F
    return length, _integer(head[2 + width :]) if length else None


def _integer(encoded: bytes) -> int:
    width = _INTEGER_BYTES.get(encoded[0], 0)
    return int.from_bytes(encoded[1 : 1 + width]) if width else encoded[0]
