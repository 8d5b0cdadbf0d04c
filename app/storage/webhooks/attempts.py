"""The last attempts of webhooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select

from app.storage.db.transaction import Tx
from app.storage.webhooks.tables import webhook_attempts, webhooks

_columns = webhook_attempts.c
_SELECT = select(
    _columns.attempt_id,
    _columns.message_id,
    _columns.topic,
    _columns.partition,
    _columns.offset,
    _columns.attempt,
    _columns.at_ms,
    _columns.duration_ms,
    _columns.outcome,
    _columns.status,
    _columns.error,
    _columns.response_headers,
    _columns.response_body,
    _columns.next_attempt_at_ms,
).where(_columns.webhook_id == bindparam("id"), _columns.attempt_id < bindparam("before"))
_EXISTING = select(webhooks.c.webhook_id).where(webhooks.c.webhook_id.in_(bindparam("ids", expanding=True)))
_OLDEST_KEPT = (
    select(_columns.attempt_id)
    .where(_columns.webhook_id == bindparam("id"), _columns.delivered == bindparam("kind"))
    .order_by(_columns.attempt_id.desc())
    .offset(bindparam("kept"))
    .limit(1)
)
_TRIM = delete(webhook_attempts).where(
    _columns.webhook_id == bindparam("id"),
    _columns.delivered == bindparam("kind"),
    _columns.attempt_id <= bindparam("last"),
)
_EXPIRE = delete(webhook_attempts).where(
    _columns.attempt_id.in_(
        select(_columns.attempt_id)
        .where(_columns.at_ms < bindparam("before_ms"))
        .order_by(_columns.attempt_id)
        .limit(bindparam("at_most"))
    )
)
_DELIVERED = (
    select(_columns.attempt_id)
    .where(
        _columns.webhook_id == bindparam("id"),
        _columns.topic == bindparam("topic"),
        _columns.partition == bindparam("partition"),
        _columns.offset == bindparam("offset"),
        _columns.delivered == 1,
    )
    .limit(1)
)
_LATEST = (
    select(func.max(_columns.attempt_id))
    .where(
        _columns.webhook_id == bindparam("id"),
        _columns.topic == bindparam("topic"),
        _columns.offset.is_not(None),
    )
    .group_by(_columns.partition, _columns.offset)
)
_FAILED = (
    select(_columns.partition, _columns.offset)
    .where(_columns.attempt_id.in_(_LATEST), _columns.delivered == 0, _columns.next_attempt_at_ms.is_(None))
    .order_by(_columns.partition, _columns.offset)
)

_headers = msgspec.msgpack.Decoder(list[tuple[str, str]])
_encode = msgspec.msgpack.Encoder().encode


class Attempt(NamedTuple):
    """One attempt for one record, or a test.

    Attributes:
        attempt_id: 0 before it is stored.
        topic, partition, offset: The record; None for a test.
        attempt: Number of the attempt, from 1.
        response_body: None for a delivered record, and if there was no answer.
        next_attempt_at_ms: None if there is no further attempt.
    """

    attempt_id: int
    message_id: str
    topic: str | None
    partition: int | None
    offset: int | None
    attempt: int
    at_ms: int
    duration_ms: int
    outcome: str
    status: int | None
    error: str | None
    response_headers: Sequence[tuple[str, str]]
    response_body: bytes | None
    next_attempt_at_ms: int | None


class AttemptQuery(NamedTuple):
    """Which attempts to list; None for all."""

    outcome: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    message_id: str | None = None


def add(tx: Tx, made: Iterable[tuple[int, Attempt]]) -> None:
    """Store attempts, each with the id of its webhook; those of deleted webhooks are dropped."""
    made = list(made)
    existing = set(tx.connection.scalars(_EXISTING, {"ids": sorted({webhook_id for webhook_id, _ in made})}))
    rows = [
        {
            "webhook_id": webhook_id,
            "delivered": int(each.outcome == "delivered"),
            "message_id": each.message_id,
            "topic": each.topic,
            "partition": each.partition,
            "offset": each.offset,
            "attempt": each.attempt,
            "at_ms": each.at_ms,
            "duration_ms": each.duration_ms,
            "outcome": each.outcome,
            "status": each.status,
            "error": each.error,
            "response_headers": _encode(each.response_headers) if each.response_headers else None,
            "response_body": each.response_body,
            "next_attempt_at_ms": each.next_attempt_at_ms,
        }
        for webhook_id, each in made
        if webhook_id in existing
    ]
    if rows:
        tx.connection.execute(insert(webhook_attempts), rows)


def list_(tx: Tx, webhook_id: int, query: AttemptQuery, before: int, limit: int) -> list[Attempt]:
    """Return up to `limit` attempts with ids below `before`, the last one first."""
    statement = _SELECT.order_by(_columns.attempt_id.desc()).limit(limit)
    for name, value in query._asdict().items():
        if value is not None:
            statement = statement.where(_columns[name] == value)
    if query.outcome == "delivered":
        statement = statement.where(_columns.delivered == 1)
    elif query.outcome is not None:
        statement = statement.where(_columns.delivered == 0)
    return [_attempt(row) for row in tx.connection.execute(statement, {"id": webhook_id, "before": before})]


def is_delivered(tx: Tx, webhook_id: int, topic: str, partition: int, offset: int) -> bool:
    """Return whether one of the attempts that are kept has delivered a record."""
    record = {"id": webhook_id, "topic": topic, "partition": partition, "offset": offset}
    return tx.connection.scalar(_DELIVERED, record) is not None


def failed(tx: Tx, webhook_id: int, topic: str) -> list[tuple[int, int]]:
    """Return partition and offset, in order, of the records of a topic whose last attempt failed, without another one.

    An attempt that delivered a record is kept for a shorter time than those that failed before it; so a failed attempt
    that was to be followed by another one says nothing.
    """
    found = tx.connection.execute(_FAILED, {"id": webhook_id, "topic": topic})
    return [(partition, offset) for partition, offset in found]


def trim(tx: Tx, webhook_ids: Iterable[int], kept: int) -> None:
    """Delete the attempts of webhooks beyond the last `kept` delivered ones and the last `kept` others."""
    for webhook_id in webhook_ids:
        for kind in (0, 1):
            last = tx.connection.scalar(_OLDEST_KEPT, {"id": webhook_id, "kind": kind, "kept": kept})
            if last is not None:
                tx.connection.execute(_TRIM, {"id": webhook_id, "kind": kind, "last": last})


def expire(tx: Tx, before_ms: int, limit: int) -> int:
    """Delete up to `limit` attempts that are older than a time. Return how many."""
    return tx.connection.execute(_EXPIRE, {"before_ms": before_ms, "at_most": limit}).rowcount


def _attempt(row: Sequence[Any]) -> Attempt:
    attempt = Attempt(*row)
    headers: Any = attempt.response_headers
    return attempt._replace(response_headers=[] if headers is None else _headers.decode(headers))
