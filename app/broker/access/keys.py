"""API keys: create, list and revoke them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from app.domain.access.api_key import ALPHABET, ID_CHARACTERS, SECRET_CHARACTERS, format_key, hash_secret, is_key_id
from app.domain.access.principal import error_of
from app.errors.access import AccessLimit, InvalidKeyRequest, UnknownKey
from app.storage.access import keys
from app.storage.access.keys import StoredKey
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx

MAX_NAME_CHARACTERS = 100
_FIRST_KEY = (
    "the first key must be an admin's, because from then on each request needs a key: send admin: true (millrace keys "
    "create --admin --url …), and create the other keys with it"
)


class NewKey(NamedTuple):
    """A key that was created.

    Attributes:
        text: The key itself, which is not stored.
    """

    stored: StoredKey
    text: str


class KeyRequest(NamedTuple):
    """The fields of a new key.

    Attributes:
        name: What people call it.
        principal: The principal for which it speaks.
        expires_at_ms: When it expires; None for never.
        key_id: An id that was never used; None for one that the server makes.
    """

    name: str
    principal: str
    is_admin: bool = False
    expires_at_ms: int | None = None
    key_id: str | None = None


class Keys:
    """The API keys of an installation.

    Args:
        clock: Wall clock in milliseconds.
        max_keys: The maximum number of keys that were not revoked.
        on_change: Applies a change at this node at once.
        first_is_admin: Whether the first key must be an admin's: there is no other admin.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Callable[[], int],
        max_keys: int,
        on_change: Callable[[], Awaitable[None]],
        *,
        first_is_admin: bool,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._max_keys = max_keys
        self._on_change = on_change
        self._first_is_admin = first_is_admin

    async def create(self, request: KeyRequest) -> NewKey:
        """Create a key. Its text is in the answer, and nowhere else.

        Raises:
            InvalidKeyRequest: A field is not valid, or the first key is not an admin's.
            AccessLimit: There are too many keys.
        """
        created = await self._storage.write(
            create_key, request, self._clock(), self._max_keys, first_is_admin=self._first_is_admin
        )
        await self._on_change()
        return created

    async def list_(self, after: str, limit: int) -> list[StoredKey]:
        """Return up to `limit` keys in order of their ids, from the first above `after`."""
        return await self._storage.read(keys.list_, after, limit)

    async def revoke(self, key_id: str) -> None:
        """Revoke a key, on this node at once, and on the others within five seconds.

        Raises:
            UnknownKey: There is no key of this id.
        """
        await self._storage.write(_revoke, key_id, self._clock())
        await self._on_change()


def create_key(tx: Tx, request: KeyRequest, now_ms: int, max_keys: int, *, first_is_admin: bool) -> NewKey:
    """Check the fields of a new key, and store it.

    Raises:
        InvalidKeyRequest: A field is not valid, or the first key is not an admin's.
        AccessLimit: There are too many keys.
    """
    _check(request, now_ms)
    keys.raise_version(tx)
    if first_is_admin and not request.is_admin and not keys.any_exists(tx):
        raise InvalidKeyRequest.at(None, "admin", "must be true for the first key", message=_FIRST_KEY)
    if keys.count(tx) >= max_keys:
        raise AccessLimit(f"there are {max_keys} keys, the maximum (MILLRACE_MAX_KEYS); revoke some")
    key_id, secret = request.key_id or _random(ID_CHARACTERS), _random(SECRET_CHARACTERS)
    if keys.is_used(tx, key_id):
        raise InvalidKeyRequest.at(None, "key_id", "was used by another key, maybe a revoked one; choose another")
    stored = StoredKey(
        key_id,
        request.name,
        request.principal,
        request.is_admin,
        hash_secret(secret),
        now_ms,
        request.expires_at_ms,
    )
    keys.insert_key(tx, stored)
    return NewKey(stored, format_key(key_id, secret))


def _revoke(tx: Tx, key_id: str, now_ms: int) -> None:
    keys.raise_version(tx)
    if not keys.revoke(tx, key_id, now_ms):
        raise UnknownKey("there is no key of this id; GET /v1/keys lists the keys")


def _check(request: KeyRequest, now_ms: int) -> None:
    if not 1 <= len(request.name) <= MAX_NAME_CHARACTERS or not request.name.isprintable():
        raise InvalidKeyRequest.at(None, "name", f"must be 1 to {MAX_NAME_CHARACTERS} printable characters")
    if (wrong := error_of(request.principal)) is not None:
        raise InvalidKeyRequest.at(None, "principal", wrong)
    if request.key_id is not None and not is_key_id(request.key_id):
        raise InvalidKeyRequest.at(None, "key_id", f"must be {ID_CHARACTERS} letters and digits")
    if request.expires_at_ms is not None and request.expires_at_ms <= now_ms:
        raise InvalidKeyRequest.at(None, "expires_at_ms", f"must be in the future, above {now_ms} (epoch milliseconds)")


def _random(characters: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(characters))
