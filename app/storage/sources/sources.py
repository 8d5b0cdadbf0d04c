"""Sources: create, find, list, change, delete, and their last refused deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, insert, or_, select, update

from app.domain.sources.source import SourceConfig, SourceInfo
from app.storage.db.row_limits import check_rows
from app.storage.db.transaction import Tx
from app.storage.sources.tables import source_refusals, sources

MAX_REFUSALS = 1_000
"""Refused deliveries that are kept for each source."""

_SELECT = select(
    sources.c.source_id,
    sources.c.name,
    sources.c.config,
    sources.c.secret,
    sources.c.previous_secret,
    sources.c.previous_until_ms,
    sources.c.verify_token,
    sources.c.created_at_ms,
)
_FIND = _SELECT.where(sources.c.name == bindparam("name"))
_FIND_LOCKED = _FIND.with_for_update()
_LIST = _SELECT.where(sources.c.name > bindparam("after")).order_by(sources.c.name).limit(bindparam("at_most"))
_SECRETS = (
    select(sources.c.source_id).where(or_(sources.c.secret.is_not(None), sources.c.verify_token.is_not(None))).limit(1)
)
_SAVE = (
    update(sources)
    .where(sources.c.source_id == bindparam("id"))
    .values(
        config=bindparam("new_config"),
        secret=bindparam("new_secret"),
        previous_secret=bindparam("new_previous_secret"),
        previous_until_ms=bindparam("new_previous_until_ms"),
        verify_token=bindparam("new_verify_token"),
    )
)
_DELETE = delete(sources).where(sources.c.source_id == bindparam("id"))
_DELETE_REFUSALS = delete(source_refusals).where(source_refusals.c.source_id == bindparam("id"))
_REFUSALS = (
    select(
        source_refusals.c.refusal_id,
        source_refusals.c.refused_at_ms,
        source_refusals.c.reason,
        source_refusals.c.address,
        source_refusals.c.size_bytes,
    )
    .where(source_refusals.c.source_id == bindparam("id"), source_refusals.c.refusal_id < bindparam("before"))
    .order_by(source_refusals.c.refusal_id.desc())
    .limit(bindparam("at_most"))
)
_OLDEST_KEPT = (
    select(source_refusals.c.refusal_id)
    .where(source_refusals.c.source_id == bindparam("id"))
    .order_by(source_refusals.c.refusal_id.desc())
    .offset(MAX_REFUSALS - 1)
    .limit(1)
)
_TRIM = delete(source_refusals).where(
    source_refusals.c.source_id == bindparam("id"), source_refusals.c.refusal_id < bindparam("oldest")
)
_EXISTING = select(sources.c.source_id).where(sources.c.source_id.in_(bindparam("ids", expanding=True)))

_decoder = msgspec.json.Decoder(SourceConfig)
_encoder = msgspec.json.Encoder()


class Refusal(NamedTuple):
    """A refused delivery.

    Attributes:
        refusal_id: 0 before it is stored.
    """

    refusal_id: int
    refused_at_ms: int
    reason: str
    address: str
    size_bytes: int


def find(tx: Tx, name: str) -> SourceInfo | None:
    """Return the source of a name, or None."""
    row = tx.connection.execute(_FIND, {"name": name}).one_or_none()
    return None if row is None else _info(*row)


def find_locked(tx: Tx, name: str) -> SourceInfo | None:
    """Lock the row of a source until the transaction ends, and return the source, or None."""
    row = tx.connection.execute(_FIND_LOCKED, {"name": name}).one_or_none()
    return None if row is None else _info(*row)


def has_source_secrets(tx: Tx) -> bool:
    """Return whether a source has an encrypted secret."""
    return tx.connection.execute(_SECRETS).first() is not None


def list_(tx: Tx, after: str, limit: int) -> list[SourceInfo]:
    """Return up to `limit` sources in order of their names, starting after the name `after`."""
    return [_info(*row) for row in tx.connection.execute(_LIST, {"after": after, "at_most": limit})]


def check_limit(tx: Tx, most: int) -> None:
    """Refuse the source that this transaction has created, if there are too many now.

    Raises:
        PolicyViolation
    """
    check_rows(tx, sources, most)


def create(tx: Tx, name: str, config: SourceConfig, now_ms: int) -> SourceInfo | None:
    """Create a source without secrets, which need its id. Return None if a source of this name exists."""
    row = {"name": name, "config": _encode(config), "previous_until_ms": 0, "created_at_ms": now_ms}
    made = tx.connection.execute(tx.dialect.insert(sources).values(row).on_conflict_do_nothing()).rowcount
    return find_locked(tx, name) if made else None


def save(tx: Tx, info: SourceInfo) -> None:
    """Store the configuration and the secrets of a source."""
    tx.connection.execute(
        _SAVE,
        {
            "id": info.source_id,
            "new_config": _encode(info.config),
            "new_secret": info.secret,
            "new_previous_secret": info.previous_secret,
            "new_previous_until_ms": info.previous_until_ms,
            "new_verify_token": info.verify_token,
        },
    )


def delete_(tx: Tx, source_id: int) -> None:
    """Delete a source and its refusals."""
    tx.connection.execute(_DELETE_REFUSALS, {"id": source_id})
    tx.connection.execute(_DELETE, {"id": source_id})


def refusals(tx: Tx, source_id: int, before: int, limit: int) -> list[Refusal]:
    """Return up to `limit` refused deliveries with ids below `before`, the last one first."""
    found = tx.connection.execute(_REFUSALS, {"id": source_id, "before": before, "at_most": limit})
    return [Refusal(*row) for row in found]


def add_refusals(tx: Tx, refused: Sequence[tuple[int, Refusal]]) -> None:
    """Store refused deliveries, each with the id of its source, and delete the oldest beyond the limit."""
    ids = sorted({source_id for source_id, _ in refused})
    existing = set(tx.connection.scalars(_EXISTING, {"ids": ids}))
    rows = [
        {
            "source_id": source_id,
            "refused_at_ms": each.refused_at_ms,
            "reason": each.reason,
            "address": each.address,
            "size_bytes": each.size_bytes,
        }
        for source_id, each in refused
        if source_id in existing
    ]
    if rows:
        tx.connection.execute(insert(source_refusals), rows)
    for source_id in sorted(existing):
        oldest = tx.connection.scalar(_OLDEST_KEPT, {"id": source_id})
        if oldest is not None:
            tx.connection.execute(_TRIM, {"id": source_id, "oldest": oldest})


def _encode(config: SourceConfig) -> str:
    return _encoder.encode(config).decode()


def _info(
    source_id: int,
    name: str,
    config: str,
    secret: bytes | None,
    previous_secret: bytes | None,
    previous_until_ms: int,
    verify_token: bytes | None,
    created_at_ms: int,
) -> SourceInfo:
    return SourceInfo(
        source_id,
        name,
        _decoder.decode(config),
        secret,
        previous_secret,
        previous_until_ms,
        verify_token,
        created_at_ms,
    )
