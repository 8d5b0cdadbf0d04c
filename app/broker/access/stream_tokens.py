"""Tokens with which a browser opens one stream."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha256

from app.broker.access.identities import Identity
from app.storage.access import stream_tokens
from app.storage.db.engine import Storage

LIFETIME_MS = 60_000
_TOKEN_BYTES = 24


class StreamTokens:
    """Makes the tokens; `AccessControl.take_stream_token` uses them up.

    Args:
        clock: Wall clock in milliseconds.
    """

    def __init__(self, storage: Storage, clock: Callable[[], int]) -> None:
        self._storage = storage
        self._clock = clock

    async def create(self, target: str, identity: Identity) -> tuple[str, int]:
        """Return a token for a path and query with the rights of an identity, and when it expires."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        now_ms = self._clock()
        expires_at_ms = now_ms + LIFETIME_MS
        token_hash = sha256(token.encode()).digest()
        await self._storage.write(stream_tokens.insert_token, token_hash, target, identity, expires_at_ms, now_ms)
        return token, expires_at_ms
