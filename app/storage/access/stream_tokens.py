"""Tokens with which a browser opens one stream: it cannot send a key with `EventSource`."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert

from app.domain.access.principal import Principal
from app.storage.access.tables import stream_tokens
from app.storage.db.transaction import Tx

_TAKE = (
    delete(stream_tokens)
    .where(
        stream_tokens.c.token_hash == bindparam("hash"),
        stream_tokens.c.target == bindparam("path_and_query"),
        stream_tokens.c.expires_at_ms > bindparam("now"),
    )
    .returning(stream_tokens.c.principal, stream_tokens.c.is_admin, stream_tokens.c.key_id)
)
_EXPIRE = delete(stream_tokens).where(stream_tokens.c.expires_at_ms <= bindparam("now"))


def insert_token(tx: Tx, token_hash: bytes, target: str, principal: Principal, expires_at_ms: int, now_ms: int) -> None:
    """Store a token, and delete those that have expired."""
    tx.connection.execute(_EXPIRE, {"now": now_ms})
    tx.connection.execute(
        insert(stream_tokens),
        {
            "token_hash": token_hash,
            "target": target,
            "principal": principal.name,
            "is_admin": principal.is_admin,
            "key_id": principal.key_id,
            "expires_at_ms": expires_at_ms,
        },
    )


def take(tx: Tx, token_hash: bytes, target: str, now_ms: int) -> Principal | None:
    """Use up a token for a path and query. Return its principal, or None if it is not valid for them."""
    row = tx.connection.execute(_TAKE, {"hash": token_hash, "path_and_query": target, "now": now_ms}).one_or_none()
    return None if row is None else Principal(*row)
