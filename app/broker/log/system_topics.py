"""Records that the server itself appends, to topics whose names begin with `__`."""

from __future__ import annotations

from app.domain.log.append import Append
from app.domain.log.record import Record
from app.domain.log.topic import TopicConfig
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import topics
from app.storage.log.appends import append_all
from app.storage.log.topics import Overrides


def append_to_system_topic(
    tx: Tx, name: str, records: list[Record], overrides: Overrides | None = None
) -> tuple[int, ...]:
    """Append records to a topic of one partition, and create it if it is missing. Return the ids of its partitions.

    By the lock order, call it last in a transaction.

    Args:
        tx: A write transaction.
        name: The topic.
        records: The records.
        overrides: The configuration of the topic if it is created.
    """
    now_ms = clock.read(tx)
    topics.create(tx, name, 1, overrides or {}, now_ms)
    found = topics.find(tx, name, TopicConfig())
    if found is None:
        return ()
    info = found.info
    append_all(
        tx, [Append(info.topic_id, info.name, info.version, info.partition_ids, records, [0] * len(records))], now_ms
    )
    return info.partition_ids
