"""Tokens with which a browser opens one stream: it cannot send a key with `EventSource`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from app.domain.access.principal import Principal
from app.storage.access.tables import stream_tokens
from app.storage.db.transaction import Tx

_COLUMNS = (
    stream_tokens.c.principal,
    stream_tokens.c.is_admin,
    stream_tokens.c.key_id,
    stream_tokens.c.principal_until_ms,
)
_VALID = (
    stream_tokens.c.token_hash == bindparam("hash"),
    stream_tokens.c.target == bindparam("path_and_query"),
    stream_tokens.c.expires_at_ms > bindparam("now"),
)
_FIND = select(*_COLUMNS).where(*_VALID)
_TAKE = delete(stream_tokens).where(*_VALID).returning(*_COLUMNS)
_EXPIRE = delete(stream_tokens).where(stream_tokens.c.expires_at_ms <= bindparam("now"))


Owned = tuple[Principal, int | None]
"""The principal of a token, and when what proved it expires; None for never."""


def insert_token(tx: Tx, token_hash: bytes, target: str, owned: Owned, expires_at_ms: int, now_ms: int) -> None:
    """Store a token, and delete those that have expired."""
    principal, principal_until_ms = owned
    tx.connection.execute(_EXPIRE, {"now": now_ms})
    tx.connection.execute(
        insert(stream_tokens),
        {
            "token_hash": token_hash,
            "target": target,
            "principal": principal.name,
            "is_admin": principal.is_admin,
            "key_id": principal.key_id,
            "principal_until_ms": principal_until_ms,
            "expires_at_ms": expires_at_ms,
        },
    )


def find(tx: Tx, token_hash: bytes, target: str, now_ms: int) -> Owned | None:
    """Return whom a token for a path and query belongs to, or None if it is not valid for them."""
    return _owned(tx.connection.execute(_FIND, _parameters(token_hash, target, now_ms)).one_or_none())


def take(tx: Tx, token_hash: bytes, target: str, now_ms: int) -> Owned | None:
    """Use up a token for a path and query. Return whom it belongs to, or None if it is not valid for them."""
    return _owned(tx.connection.execute(_TAKE, _parameters(token_hash, target, now_ms)).one_or_none())


def _parameters(token_hash: bytes, target: str, now_ms: int) -> dict[str, object]:
    return {"hash": token_hash, "path_and_query": target, "now": now_ms}


def _owned(row: Any) -> Owned | None:  # noqa: ANN401 - a row of `_COLUMNS`, or None
    if row is None:
        return None
    name, is_admin, key_id, until_ms = row
    return Principal(name, is_admin, key_id), until_ms
