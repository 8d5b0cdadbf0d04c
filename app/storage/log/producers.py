"""Idempotent producers: their epochs, and per topic the last requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlalchemy import bindparam, delete, select, tuple_

from app.domain.log.append import ProducerId
from app.domain.log.producer import BatchMetadata, ProducerState
from app.storage.db.tables import producer_topics, producers, topics
from app.storage.db.transaction import Tx
from app.storage.log import clock_ticks

RETENTION_MS = 7 * 86_400_000

_LOCK_EPOCHS = (
    select(producers.c.producer_id, producers.c.producer_epoch)
    .where(producers.c.producer_id.in_(bindparam("ids", expanding=True)))
    .order_by(producers.c.producer_id)
    .with_for_update()
)
_STATES = select(
    producer_topics.c.producer_id,
    producer_topics.c.topic_id,
    producer_topics.c.producer_epoch,
    producer_topics.c.next_sequence,
    producer_topics.c.window,
).where(tuple_(producer_topics.c.producer_id, producer_topics.c.topic_id).in_(bindparam("ids", expanding=True)))
_RELEASE = delete(producers).where(
    producers.c.producer_id.in_(bindparam("ids", expanding=True)), producers.c.producer_epoch < 0
)
_EPOCH = select(producers.c.producer_epoch).where(producers.c.producer_id == bindparam("id"))
_TOPICS = (
    select(topics.c.name, producer_topics.c.producer_epoch, producer_topics.c.next_sequence)
    .join(topics, topics.c.topic_id == producer_topics.c.topic_id)
    .where(producer_topics.c.producer_id == bindparam("id"))
    .order_by(topics.c.name)
)
_EXPIRED = (
    select(producers.c.producer_id)
    .where(producers.c.updated_at_ms < bindparam("before_ms"))
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)
)
_LOCK_STATES = (
    select(producer_topics.c.topic_id)
    .where(producer_topics.c.producer_id.in_(bindparam("ids", expanding=True)))
    .order_by(producer_topics.c.producer_id, producer_topics.c.topic_id)
    .with_for_update()
)
_DELETE_TOPICS = delete(producer_topics).where(producer_topics.c.producer_id.in_(bindparam("ids", expanding=True)))
_DELETE = delete(producers).where(producers.c.producer_id.in_(bindparam("ids", expanding=True)))

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[BatchMetadata, ...])


def lock(tx: Tx, ids: Sequence[ProducerId], now_ms: int) -> tuple[dict[str, int], dict[ProducerId, ProducerState]]:
    """Lock producers and return their epochs (-1 for an unknown one) and their states per topic.

    Args:
        tx: The append's transaction.
        ids: Producer and topic ids.
        now_ms: Time of the append.
    """
    names = sorted({producer_id for producer_id, _ in ids})
    tx.connection.execute(
        tx.dialect.upsert(producers, ("producer_id",), ("producer_id",)),
        [{"producer_id": name, "producer_epoch": -1, "updated_at_ms": now_ms} for name in names],
    )
    epochs = dict(tx.connection.execute(_LOCK_EPOCHS, {"ids": names}).all())
    states = {
        (name, topic_id): ProducerState(epoch, next_sequence, _decoder.decode(window))
        for name, topic_id, epoch, next_sequence, window in tx.connection.execute(_STATES, {"ids": list(ids)})
    }
    return epochs, states


def save(tx: Tx, locked: Iterable[str], states: Mapping[ProducerId, ProducerState], now_ms: int) -> None:
    """Store new states, and delete the rows of locked producers that are still unknown."""
    if states:
        epochs: dict[str, int] = {}
        for (name, _), state in states.items():
            epochs[name] = max(epochs.get(name, -1), state.epoch)
        _set_epochs(tx, epochs, now_ms)
        columns = ("producer_epoch", "next_sequence", "window", "updated_at_ms")
        tx.connection.execute(
            tx.dialect.upsert(producer_topics, ("producer_id", "topic_id"), columns),
            [
                {
                    "producer_id": name,
                    "topic_id": topic_id,
                    "producer_epoch": state.epoch,
                    "next_sequence": state.next_sequence,
                    "window": _encoder.encode(state.window),
                    "updated_at_ms": now_ms,
                }
                for (name, topic_id), state in states.items()
            ],
        )
    if unknown := [name for name in locked if not any(name == known for known, _ in states)]:
        tx.connection.execute(_RELEASE, {"ids": unknown})


def raise_epoch(tx: Tx, producer_id: str, now_ms: int) -> int:
    """Raise a producer's epoch by one, or start an unknown producer at 0, and return the epoch."""
    epochs, _ = lock(tx, [(producer_id, 0)], now_ms)
    epoch = epochs[producer_id] + 1
    _set_epochs(tx, {producer_id: epoch}, now_ms)
    return epoch


def find(tx: Tx, producer_id: str) -> tuple[int, list[tuple[str, int]]] | None:
    """Return a producer's epoch and its next sequence per topic name, or None."""
    epoch = tx.connection.execute(_EPOCH, {"id": producer_id}).scalar_one_or_none()
    if epoch is None or epoch < 0:
        return None
    rows = tx.connection.execute(_TOPICS, {"id": producer_id})
    return epoch, [(name, sequence if topic_epoch == epoch else 0) for name, topic_epoch, sequence in rows]


def expire(tx: Tx, now_ms: int, limit: int) -> int:
    """Delete up to `limit` producers without a request for seven days. Return how many."""
    before_ms = clock_ticks.expiry_ms(tx, now_ms) - RETENTION_MS
    rows = tx.connection.execute(_EXPIRED, {"before_ms": before_ms, "at_most": limit})
    if names := [name for (name,) in rows]:
        tx.connection.execute(_LOCK_STATES, {"ids": names}).all()
        tx.connection.execute(_DELETE_TOPICS, {"ids": names})
        tx.connection.execute(_DELETE, {"ids": names})
    return len(names)


def _set_epochs(tx: Tx, epochs: Mapping[str, int], now_ms: int) -> None:
    tx.connection.execute(
        tx.dialect.upsert(producers, ("producer_id",), ("producer_epoch", "updated_at_ms")),
        [
            {"producer_id": name, "producer_epoch": epoch, "updated_at_ms": now_ms}
            for name, epoch in sorted(epochs.items())
        ],
    )
