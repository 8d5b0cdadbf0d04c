"""Topics and their partitions in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.domain.limits.installation import InstallationLimits
from app.domain.log.topic import TopicConfig, TopicInfo, with_overrides
from app.errors.log import InvalidPartitions
from app.storage.db.row_limits import check_rows
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import (
    OFFSET_MASK,
    PARTITION_ID_BITS,
    compactions,
    partitions,
    producer_topics,
    purges,
    topics,
)
from app.storage.db.transaction import Tx

Overrides = dict[str, object]

_COLUMNS = (topics.c.topic_id, topics.c.name, topics.c.version, topics.c.config, topics.c.created_at_ms)
_FIND = select(*_COLUMNS).where(topics.c.name == bindparam("name"))
_FIND_NAME = select(topics.c.name).where(topics.c.topic_id == bindparam("id"))
_ALL_NAMES = select(topics.c.name).order_by(topics.c.name)
_FIND_LOCKED = _FIND.with_for_update()
_NAMES = CompiledStatement(
    select(topics.c.name).where(topics.c.name.in_(bindparam("names", expanding=True))), expanding="names"
)
_LIST = select(*_COLUMNS).where(topics.c.name > bindparam("after")).order_by(topics.c.name).limit(bindparam("at_most"))
_ALL = select(*_COLUMNS).order_by(topics.c.topic_id)
_PARTITIONS = (
    select(partitions.c.topic_id, partitions.c.partition_id)
    .where(partitions.c.topic_id.in_(bindparam("ids", expanding=True)))
    .order_by(partitions.c.topic_id, partitions.c.partition)
)
_ADD_PARTITION = insert(partitions).values(log_start_offset=0, start_bytes=0, compacted_bytes=0)
_CHANGE = (
    update(topics)
    .where(topics.c.topic_id == bindparam("id"))
    .values(config=bindparam("new_config"), version=topics.c.version + 1)
)
_PURGE_ALL = insert(purges).from_select(
    ["partition_id", "before_offset"],
    select(partitions.c.partition_id, bindparam("offset", OFFSET_MASK + 1)).where(
        partitions.c.topic_id == bindparam("id"),
        partitions.c.partition_id.not_in(select(purges.c.partition_id)),
    ),
)
_LOCK_ROWS = (
    select(partitions.c.partition_id)
    .where(partitions.c.topic_id == bindparam("id"))
    .order_by(partitions.c.partition_id)
    .with_for_update()
)
"""Locked before the rows of `purges`, in the order of retention."""

_RAISE_PURGES = (
    update(purges)
    .where(purges.c.partition_id.in_(select(partitions.c.partition_id).where(partitions.c.topic_id == bindparam("id"))))
    .values(before_offset=OFFSET_MASK + 1)
)
_OF_TOPIC = select(partitions.c.partition_id).where(partitions.c.topic_id == bindparam("id"))
_LOCK_PRODUCERS = (
    select(producer_topics.c.producer_id)
    .where(producer_topics.c.topic_id == bindparam("id"))
    .order_by(producer_topics.c.producer_id)
    .with_for_update()
)
_DELETES = (
    delete(compactions).where(compactions.c.partition_id.in_(_OF_TOPIC)),
    delete(producer_topics).where(producer_topics.c.topic_id == bindparam("id")),
    delete(partitions).where(partitions.c.topic_id == bindparam("id")),
    delete(topics).where(topics.c.topic_id == bindparam("id")),
)


class StoredTopic(NamedTuple):
    """A topic, and the configuration values that it sets itself."""

    info: TopicInfo
    overrides: Overrides


def find(tx: Tx, name: str, defaults: TopicConfig) -> StoredTopic | None:
    """Return the topic of a name, or None."""
    return next(iter(_load(tx, tx.connection.execute(_FIND, {"name": name}).all(), defaults)), None)


def find_name(tx: Tx, topic_id: int) -> str | None:
    """Return the name of a topic, or None."""
    return tx.connection.execute(_FIND_NAME, {"id": topic_id}).scalar_one_or_none()


def names(tx: Tx, wanted: Sequence[str]) -> set[str]:
    """Return those of some names that have a topic."""
    return {name for (name,) in _NAMES.rows(tx, {"names": wanted})} if wanted else set()


def all_names(tx: Tx) -> list[str]:
    """Return the names of all topics, in order."""
    return list(tx.connection.scalars(_ALL_NAMES))


def find_locked(tx: Tx, name: str, defaults: TopicConfig) -> StoredTopic | None:
    """Lock a topic and all its partitions until the transaction ends, and return it, or None."""
    found = next(iter(_load(tx, tx.connection.execute(_FIND_LOCKED, {"name": name}).all(), defaults)), None)
    if found is not None:
        tx.dialect.lock_partitions(tx, sorted(found.info.partition_ids))
        if tx.log_ends is not None:
            tx.log_ends.drop(found.info.partition_ids)
    return found


def list_(tx: Tx, after: str, limit: int, defaults: TopicConfig) -> list[StoredTopic]:
    """Return up to `limit` topics by name, from the first name above `after`."""
    return _load(tx, tx.connection.execute(_LIST, {"after": after, "at_most": limit}).all(), defaults)


def all_(tx: Tx, defaults: TopicConfig) -> list[StoredTopic]:
    """Return every topic."""
    return _load(tx, tx.connection.execute(_ALL).all(), defaults)


def create(tx: Tx, name: str, count: int, overrides: Overrides, now_ms: int) -> bool:
    """Create a topic with `count` partitions. Return False if it exists."""
    topic_id = tx.connection.execute(
        tx.dialect.insert(topics)
        .values(name=name, version=1, config=_encode(overrides), created_at_ms=now_ms)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(topics.c.topic_id)
    ).scalar_one_or_none()
    if topic_id is None:
        return False
    _add_partitions(tx, topic_id, 0, count)
    return True


def check_limits(tx: Tx, limits: InstallationLimits) -> None:
    """Refuse the topics and partitions that this transaction has added, if there are too many now.

    Raises:
        PolicyViolation
    """
    check_rows(tx, topics, limits.max_topics)
    check_rows(tx, partitions, limits.max_partitions)


def change(tx: Tx, info: TopicInfo, count: int, overrides: Overrides) -> None:
    """Store the new configuration and partitions of a locked topic; its version rises by one."""
    tx.connection.execute(_CHANGE, {"id": info.topic_id, "new_config": _encode(overrides)})
    _add_partitions(tx, info.topic_id, info.partitions, count)


def delete_(tx: Tx, info: TopicInfo) -> None:
    """Delete a locked topic and all rows of its id; its records are deleted in the background."""
    tx.connection.execute(_LOCK_ROWS, {"id": info.topic_id}).all()
    tx.connection.execute(_RAISE_PURGES, {"id": info.topic_id})
    tx.connection.execute(_PURGE_ALL, {"id": info.topic_id})
    tx.connection.execute(_LOCK_PRODUCERS, {"id": info.topic_id}).all()
    for statement in _DELETES:
        tx.connection.execute(statement, {"id": info.topic_id})


def _add_partitions(tx: Tx, topic_id: int, present: int, count: int) -> None:
    if count > present:
        try:
            tx.connection.execute(
                _ADD_PARTITION,
                [{"topic_id": topic_id, "partition": partition} for partition in range(present, count)],
            )
        except IntegrityError as error:
            most = (1 << PARTITION_ID_BITS) - 1
            raise InvalidPartitions(
                f"this database has used up its {most} partition ids; use another database"
            ) from error


def _load(tx: Tx, rows: Sequence[tuple[int, str, int, str, int]], defaults: TopicConfig) -> list[StoredTopic]:
    ids: dict[int, list[int]] = {topic_id: [] for topic_id, *_ in rows}
    if ids:
        for topic_id, partition_id in tx.connection.execute(_PARTITIONS, {"ids": list(ids)}):
            ids[topic_id].append(partition_id)
    found = []
    for topic_id, name, version, config, created_at_ms in rows:
        if not ids[topic_id]:
            continue  # the topic was deleted between the two statements
        overrides = msgspec.json.decode(config, type=Overrides)
        info = TopicInfo(
            topic_id, name, version, created_at_ms, with_overrides(defaults, overrides), tuple(ids[topic_id])
        )
        found.append(StoredTopic(info, overrides))
    return found


def _encode(overrides: Overrides) -> str:
    return msgspec.json.encode(overrides).decode()
