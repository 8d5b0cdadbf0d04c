"""Queues: create, find, list, change, delete. `share_partitions` reads and writes their states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update

from app.domain.queues.queue import QueueConfig, QueueInfo
from app.storage.db.row_limits import check_rows
from app.storage.db.tables import (
    delayed_records,
    partitions,
    queue_archives,
    queue_partitions,
    queues,
    topics,
    webhook_retries,
)
from app.storage.db.transaction import Tx

EMPTY_ENTRIES = b"\x90"
"""`entries` of a share partition with nothing in flight: an empty msgpack list."""

_ID_BASE = 1 << 40

_dead_letters = topics.alias("dead_letters")
_SELECT = (
    select(
        queues.c.queue_id,
        queues.c.name,
        queues.c.topic_id,
        topics.c.name.label("topic"),
        _dead_letters.c.name.label("dead_letter_topic"),
        queues.c.config,
        queues.c.created_at_ms,
    )
    .join(topics, topics.c.topic_id == queues.c.topic_id)
    .outerjoin(_dead_letters, _dead_letters.c.topic_id == queues.c.dead_letter_topic_id)
)
_FIND = _SELECT.where(queues.c.name == bindparam("name"))
_FIND_LOCKED = _FIND.with_for_update(of=queues)
_FIND_BY_ID = _SELECT.where(queues.c.queue_id == bindparam("id"))
_LIST = (
    _SELECT.where(queues.c.name > bindparam("after"), queues.c.name.not_like("%:%"))
    .order_by(queues.c.name)
    .limit(bindparam("at_most"))
)
"""Queues of webhooks, whose names have a colon, are not listed."""
_NAMES_BY_DEAD_LETTER_TOPIC = (
    select(queues.c.name)
    .where(queues.c.dead_letter_topic_id == bindparam("id"))
    .order_by(queues.c.name)
    .limit(bindparam("at_most"))
)
_LOCK_TOPICS = (
    select(topics.c.topic_id)
    .where(topics.c.topic_id.in_(bindparam("ids", expanding=True)))
    .order_by(topics.c.topic_id)
    .with_for_update()
)
_LOCK_SHARE_PARTITIONS = (
    select(queue_partitions.c.partition_id)
    .where(queue_partitions.c.queue_id == bindparam("id"))
    .order_by(queue_partitions.c.partition_id)
    .with_for_update()
)
_ADD_SHARE_PARTITION = insert(queue_partitions).values(
    entries=EMPTY_ENTRIES, delayed=0, accepted=0, archived=0, expired=0, dead_letter_error=None
)
_ADD_PARTITIONS = insert(queue_partitions).from_select(
    ["queue_id", "partition_id", "end_offset", "entries", "delayed", "accepted", "archived", "expired"],
    select(
        queues.c.queue_id,
        partitions.c.partition_id,
        bindparam("zero", 0),
        bindparam("entries", EMPTY_ENTRIES),
        bindparam("delayed", 0),
        bindparam("accepted", 0),
        bindparam("archived", 0),
        bindparam("expired", 0),
    )
    .join(partitions, partitions.c.topic_id == queues.c.topic_id)
    .where(queues.c.topic_id == bindparam("id"), partitions.c.partition >= bindparam("first_new_partition")),
)
_CHANGE = (
    update(queues)
    .where(queues.c.queue_id == bindparam("id"))
    .values(config=bindparam("new_config"), dead_letter_topic_id=bindparam("new_dead_letter_topic_id"))
)
_CHANGE_CONFIG = update(queues).where(queues.c.queue_id == bindparam("id")).values(config=bindparam("new_config"))
_LOCK_BY_TOPIC = (
    select(queues.c.queue_id)
    .join(topics, topics.c.topic_id == queues.c.topic_id)
    .where(topics.c.name == bindparam("name"))
    .order_by(queues.c.queue_id)
    .with_for_update(of=queues)
)
_IDS_BY_PARTITION = (
    select(queues.c.queue_id)
    .join(partitions, partitions.c.topic_id == queues.c.topic_id)
    .where(partitions.c.partition_id == bindparam("id"))
    .order_by(queues.c.queue_id)
)
_FIND_REDRIVEN = select(queues.c.redriven).where(queues.c.queue_id == bindparam("id"))
_LOCK_REDRIVEN = _FIND_REDRIVEN.with_for_update()
_SAVE_REDRIVEN = update(queues).where(queues.c.queue_id == bindparam("id")).values(redriven=bindparam("new_redriven"))
_STATE = (queue_partitions, delayed_records, queue_archives, webhook_retries)
_DELETES = [delete(table).where(table.c.queue_id == bindparam("id")) for table in (*_STATE, queues)]
_IDS_BY_TOPIC = select(queues.c.queue_id).where(queues.c.topic_id == bindparam("id"))
_DELETES_BY_TOPIC = [
    *(delete(table).where(table.c.queue_id.in_(_IDS_BY_TOPIC)) for table in _STATE),
    delete(queues).where(queues.c.topic_id == bindparam("id")),
]

_redriven = msgspec.msgpack.Decoder(dict[int, int])


def negative_queue_id(queue_id: int) -> int:
    """Return the id of a queue in signals, among ids of partitions, and in Idempotency-Keys, among ids of topics."""
    return -_ID_BASE - queue_id


def find(tx: Tx, name: str) -> QueueInfo | None:
    """Return the queue of a name, or None."""
    row = tx.connection.execute(_FIND, {"name": name}).one_or_none()
    return None if row is None else _info(*row)


def find_locked(tx: Tx, name: str) -> QueueInfo | None:
    """Lock the row of a queue until the transaction ends, and return the queue, or None."""
    row = tx.connection.execute(_FIND_LOCKED, {"name": name}).one_or_none()
    return None if row is None else _info(*row)


def find_by_id(tx: Tx, queue_id: int) -> QueueInfo | None:
    """Return a queue by its id, or None."""
    row = tx.connection.execute(_FIND_BY_ID, {"id": queue_id}).one_or_none()
    return None if row is None else _info(*row)


def list_(tx: Tx, after: str, limit: int) -> list[QueueInfo]:
    """Return up to `limit` queues in order of their names, starting after the name `after`."""
    return [_info(*row) for row in tx.connection.execute(_LIST, {"after": after, "at_most": limit})]


def ids_by_partition(tx: Tx, partition_id: int) -> list[int]:
    """Return the ids of the queues over the topic of a partition, in the order of locks."""
    return list(tx.connection.scalars(_IDS_BY_PARTITION, {"id": partition_id}))


def names_by_dead_letter_topic(tx: Tx, topic_id: int, limit: int) -> list[str]:
    """Return the names of up to `limit` queues that have a topic as their dead-letter topic."""
    return list(tx.connection.scalars(_NAMES_BY_DEAD_LETTER_TOPIC, {"id": topic_id, "at_most": limit}))


def lock_topics(tx: Tx, topic_ids: Sequence[int]) -> set[int]:
    """Lock topics against deletion and new partitions until the transaction ends. Return the ids that exist."""
    return set(tx.connection.scalars(_LOCK_TOPICS, {"ids": sorted(topic_ids)}))


def create(
    tx: Tx,
    name: str,
    topic_id: int,
    dead_letter_topic_id: int | None,
    config: QueueConfig,
    start_offsets: Mapping[int, int],
    now_ms: int,
) -> bool:
    """Create a queue with its share partitions. Return False if a queue of this name exists.

    Args:
        tx: A transaction that has locked the topics.
        name: Name of the queue.
        topic_id: Id of the topic whose records it delivers.
        dead_letter_topic_id: Id of its dead-letter topic, or None.
        config: Its configuration.
        start_offsets: Offset at which it starts, by partition id.
        now_ms: Time of creation.
    """
    queue_id = tx.connection.execute(
        tx.dialect.insert(queues)
        .values(
            name=name,
            topic_id=topic_id,
            dead_letter_topic_id=dead_letter_topic_id,
            config=_encode(config),
            created_at_ms=now_ms,
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(queues.c.queue_id)
    ).scalar_one_or_none()
    if queue_id is None:
        return False
    tx.connection.execute(
        _ADD_SHARE_PARTITION,
        [
            {"queue_id": queue_id, "partition_id": partition_id, "end_offset": offset}
            for partition_id, offset in start_offsets.items()
        ],
    )
    return True


def check_limit(tx: Tx, most: int) -> None:
    """Refuse the queue that this transaction has created, if there are too many now, those of webhooks included.

    Raises:
        PolicyViolation
    """
    check_rows(tx, queues, most)


def add_partitions(tx: Tx, topic_id: int, first_new_partition: int) -> None:
    """Create share partitions in all queues over a topic, for its partitions from `first_new_partition`."""
    tx.connection.execute(_ADD_PARTITIONS, {"id": topic_id, "first_new_partition": first_new_partition})


def change(tx: Tx, queue_id: int, dead_letter_topic_id: int | None, config: QueueConfig) -> None:
    """Store a new configuration and dead-letter topic of a locked queue."""
    tx.connection.execute(
        _CHANGE,
        {"id": queue_id, "new_config": _encode(config), "new_dead_letter_topic_id": dead_letter_topic_id},
    )


def change_config(tx: Tx, queue_id: int, config: QueueConfig) -> None:
    """Store a new configuration of a locked queue, and keep its dead-letter topic."""
    tx.connection.execute(_CHANGE_CONFIG, {"id": queue_id, "new_config": _encode(config)})


def lock_by_topic(tx: Tx, topic: str) -> None:
    """Lock the queues over a topic and their share partitions; by the lock order this precedes partition locks."""
    for queue_id in tx.connection.scalars(_LOCK_BY_TOPIC, {"name": topic}).all():
        tx.connection.execute(_LOCK_SHARE_PARTITIONS, {"id": queue_id}).all()


def delete_(tx: Tx, queue_id: int) -> None:
    """Lock all share partitions of a queue, and delete it with its state."""
    tx.connection.execute(_LOCK_SHARE_PARTITIONS, {"id": queue_id}).all()
    for statement in _DELETES:
        tx.connection.execute(statement, {"id": queue_id})


def delete_by_topic(tx: Tx, topic_id: int) -> None:
    """Delete all queues over a topic with their state."""
    for statement in _DELETES_BY_TOPIC:
        tx.connection.execute(statement, {"id": topic_id})


def lock_redriven(tx: Tx, queue_id: int) -> dict[int, int] | None:
    """Lock a queue, and return the offset of the next dead letter to redrive by partition id; None if it is deleted."""
    row = tx.connection.execute(_LOCK_REDRIVEN, {"id": queue_id}).one_or_none()
    if row is None:
        return None
    (stored,) = row
    return {} if stored is None else _redriven.decode(stored)


def find_redriven(tx: Tx, queue_id: int) -> dict[int, int]:
    """Return the offset of the next dead letter to redrive by partition id, without a lock."""
    stored = tx.connection.execute(_FIND_REDRIVEN, {"id": queue_id}).scalar_one_or_none()
    return {} if stored is None else _redriven.decode(stored)


def save_redriven(tx: Tx, queue_id: int, offsets: Mapping[int, int]) -> None:
    """Store the offset of the next dead letter to redrive by partition id."""
    tx.connection.execute(_SAVE_REDRIVEN, {"id": queue_id, "new_redriven": msgspec.msgpack.encode(offsets)})


def _info(
    queue_id: int,
    name: str,
    topic_id: int,
    topic: str,
    dead_letter_topic: str | None,
    config: str,
    created_at_ms: int,
) -> QueueInfo:
    return QueueInfo(queue_id, name, topic_id, topic, dead_letter_topic, decode_config(config), created_at_ms)


def decode_config(text: str) -> QueueConfig:
    """Decode a stored configuration."""
    return _config.decode(text)


_config = msgspec.json.Decoder(QueueConfig)


def _encode(config: QueueConfig) -> str:
    return msgspec.json.encode(config).decode()
