"""Queues: create, find, list, change, delete. Their state per partition is in `windows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update

from app.domain.queues.queue import QueueConfig, QueueInfo
from app.storage.db.engine import Tx
from app.storage.db.tables import delayed_records, partitions, queue_archives, queue_partitions, queues, topics

EMPTY_ENTRIES = b"\x90"
"""The entries of a window with nothing in flight: an empty list of msgpack."""

_ID_BASE = 1 << 40

_dead_letters = topics.alias("dead_letters")
_STORED = (
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
_FIND = _STORED.where(queues.c.name == bindparam("name"))
_FIND_LOCKED = _FIND.with_for_update(of=queues)
_OF_ID = _STORED.where(queues.c.queue_id == bindparam("id"))
_LIST = _STORED.where(queues.c.name > bindparam("after")).order_by(queues.c.name).limit(bindparam("at_most"))
_NAMING = (
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
_LOCK_WINDOWS = (
    select(queue_partitions.c.partition_id)
    .where(queue_partitions.c.queue_id == bindparam("id"))
    .order_by(queue_partitions.c.partition_id)
    .with_for_update()
)
_ADD_WINDOW = insert(queue_partitions).values(
    entries=EMPTY_ENTRIES, delayed=0, accepted=0, archived=0, expired=0, dead_letter_error=None
)
_FOLLOW = insert(queue_partitions).from_select(
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
    .where(queues.c.topic_id == bindparam("id"), partitions.c.partition >= bindparam("present")),
)
_CHANGE = (
    update(queues)
    .where(queues.c.queue_id == bindparam("id"))
    .values(config=bindparam("new_config"), dead_letter_topic_id=bindparam("new_dead_letter_topic_id"))
)
_CHANGE_CONFIG = update(queues).where(queues.c.queue_id == bindparam("id")).values(config=bindparam("new_config"))
_LOCK_OVER = (
    select(queues.c.queue_id)
    .join(topics, topics.c.topic_id == queues.c.topic_id)
    .where(topics.c.name == bindparam("name"))
    .order_by(queues.c.queue_id)
    .with_for_update(of=queues)
)
_REDRIVEN_OF = select(queues.c.redriven).where(queues.c.queue_id == bindparam("id"))
_REDRIVEN = _REDRIVEN_OF.with_for_update()
_SET_REDRIVEN = update(queues).where(queues.c.queue_id == bindparam("id")).values(redriven=bindparam("new_redriven"))
_STATE = (queue_partitions, delayed_records, queue_archives)
_DELETES = [delete(table).where(table.c.queue_id == bindparam("id")) for table in (*_STATE, queues)]
_OF_TOPIC = select(queues.c.queue_id).where(queues.c.topic_id == bindparam("id"))
_DELETES_OF_TOPIC = [
    *(delete(table).where(table.c.queue_id.in_(_OF_TOPIC)) for table in _STATE),
    delete(queues).where(queues.c.topic_id == bindparam("id")),
]

_redriven = msgspec.msgpack.Decoder(dict[int, int])


def scope_id(queue_id: int) -> int:
    """Return what stands for a queue where other ids are partitions or topics: signals and Idempotency-Keys."""
    return -_ID_BASE - queue_id


def find(tx: Tx, name: str) -> QueueInfo | None:
    """Return a queue by its name, or None."""
    row = tx.connection.execute(_FIND, {"name": name}).one_or_none()
    return None if row is None else _info(*row)


def find_locked(tx: Tx, name: str) -> QueueInfo | None:
    """Lock a queue's definition until the transaction ends, and return it, or None."""
    row = tx.connection.execute(_FIND_LOCKED, {"name": name}).one_or_none()
    return None if row is None else _info(*row)


def of_id(tx: Tx, queue_id: int) -> QueueInfo | None:
    """Return a queue by its id, or None."""
    row = tx.connection.execute(_OF_ID, {"id": queue_id}).one_or_none()
    return None if row is None else _info(*row)


def list_(tx: Tx, after: str, limit: int) -> list[QueueInfo]:
    """Return up to `limit` queues in order of their names, from the first name above `after`."""
    return [_info(*row) for row in tx.connection.execute(_LIST, {"after": after, "at_most": limit})]


def naming(tx: Tx, topic_id: int, limit: int) -> list[str]:
    """Return the names of up to `limit` queues whose dead-letter topic this is."""
    return list(tx.connection.scalars(_NAMING, {"id": topic_id, "at_most": limit}))


def lock_topics(tx: Tx, topic_ids: Sequence[int]) -> set[int]:
    """Lock topics against deletion and growth until the transaction ends, and return the ids of those there are."""
    return set(tx.connection.scalars(_LOCK_TOPICS, {"ids": sorted(topic_ids)}))


def create(
    tx: Tx,
    name: str,
    topic_id: int,
    dead_letter_topic_id: int | None,
    config: QueueConfig,
    starts: Mapping[int, int],
    now_ms: int,
) -> bool:
    """Create a queue that begins at an offset of each partition. Return False if somebody else just did.

    Args:
        tx: A transaction that has locked the topics.
        name: Of the queue.
        topic_id: Of the topic that it hands out.
        dead_letter_topic_id: Of another topic, or None.
        config: Its configuration.
        starts: Offset by partition id.
        now_ms: Time of creation.
    """
    row = tx.connection.execute(
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
    ).one_or_none()
    if row is None:
        return False
    tx.connection.execute(
        _ADD_WINDOW,
        [
            {"queue_id": row[0], "partition_id": partition_id, "end_offset": offset}
            for partition_id, offset in starts.items()
        ],
    )
    return True


def follow(tx: Tx, topic_id: int, present: int) -> None:
    """Let the queues over a topic take in the partitions that it has beside the first `present`."""
    tx.connection.execute(_FOLLOW, {"id": topic_id, "present": present})


def change(tx: Tx, queue_id: int, dead_letter_topic_id: int | None, config: QueueConfig) -> None:
    """Store a locked queue's new configuration."""
    tx.connection.execute(
        _CHANGE,
        {"id": queue_id, "new_config": _encode(config), "new_dead_letter_topic_id": dead_letter_topic_id},
    )


def change_config(tx: Tx, queue_id: int, config: QueueConfig) -> None:
    """Store a locked queue's new configuration; its dead-letter topic stays."""
    tx.connection.execute(_CHANGE_CONFIG, {"id": queue_id, "new_config": _encode(config)})


def lock_over(tx: Tx, topic: str) -> None:
    """Lock the queues over a topic and their windows: what comes before the locks of partitions."""
    for queue_id in tx.connection.scalars(_LOCK_OVER, {"name": topic}).all():
        tx.connection.execute(_LOCK_WINDOWS, {"id": queue_id}).all()


def delete_(tx: Tx, queue_id: int) -> None:
    """Delete a queue and its state; nobody may be in it meanwhile, so all its windows are locked first."""
    tx.connection.execute(_LOCK_WINDOWS, {"id": queue_id}).all()
    for statement in _DELETES:
        tx.connection.execute(statement, {"id": queue_id})


def delete_of_topic(tx: Tx, topic_id: int) -> None:
    """Delete the queues over a topic that is being deleted."""
    for statement in _DELETES_OF_TOPIC:
        tx.connection.execute(statement, {"id": topic_id})


def redriven(tx: Tx, queue_id: int) -> dict[int, int] | None:
    """Lock a queue and return up to where each partition of dead letters, by id, was redriven; None if it is gone."""
    row = tx.connection.execute(_REDRIVEN, {"id": queue_id}).one_or_none()
    if row is None:
        return None
    return {} if row[0] is None else _redriven.decode(row[0])


def redriven_of(tx: Tx, queue_id: int) -> dict[int, int]:
    """Return up to where each partition of dead letters was redriven, without locking the queue."""
    row = tx.connection.execute(_REDRIVEN_OF, {"id": queue_id}).one_or_none()
    return {} if row is None or row[0] is None else _redriven.decode(row[0])


def set_redriven(tx: Tx, queue_id: int, offsets: Mapping[int, int]) -> None:
    """Store up to where each partition of dead letters was redriven."""
    tx.connection.execute(_SET_REDRIVEN, {"id": queue_id, "new_redriven": msgspec.msgpack.encode(offsets)})


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
    """Read a configuration as it is stored."""
    return _config.decode(text)


_config = msgspec.json.Decoder(QueueConfig)


def _encode(config: QueueConfig) -> str:
    return msgspec.json.encode(config).decode()
