"""API keys, and the version of everything that decides about access."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import bindparam, exists, func, insert, select, update

from app.storage.access.tables import access_versions, api_keys
from app.storage.db.transaction import Tx

_SELECT = select(
    api_keys.c.key_id,
    api_keys.c.name,
    api_keys.c.principal,
    api_keys.c.is_admin,
    api_keys.c.secret_hash,
    api_keys.c.created_at_ms,
    api_keys.c.expires_at_ms,
    api_keys.c.last_used_at_ms,
)
_VALID = api_keys.c.revoked_at_ms.is_(None)
_FIND = _SELECT.where(api_keys.c.key_id == bindparam("id"), _VALID)
_LIST = _SELECT.where(api_keys.c.key_id > bindparam("after"), _VALID).order_by(api_keys.c.key_id).limit(bindparam("n"))
_COUNT = select(func.count()).select_from(api_keys).where(_VALID)
_EXISTS = select(exists().select_from(api_keys))
_ADMIN_EXISTS = select(
    exists()
    .select_from(api_keys)
    .where(
        api_keys.c.principal == bindparam("name"),
        api_keys.c.is_admin,
        _VALID,
        func.coalesce(api_keys.c.expires_at_ms, bindparam("now") + 1) > bindparam("now"),
    )
)
_REVOKE = update(api_keys).where(api_keys.c.key_id == bindparam("id"), _VALID).values(revoked_at_ms=bindparam("at_ms"))
_USED = (
    update(api_keys)
    .where(api_keys.c.key_id == bindparam("id"), func.coalesce(api_keys.c.last_used_at_ms, 0) < bindparam("at_ms"))
    .values(last_used_at_ms=bindparam("at_ms"))
)
_USED_ID = select(api_keys.c.key_id).where(api_keys.c.key_id == bindparam("id"))
_VERSION = select(access_versions.c.version)
_RAISE_VERSION = update(access_versions).values(version=access_versions.c.version + 1)


class StoredKey(NamedTuple):
    """A key that was not revoked.

    Attributes:
        secret_hash: SHA-256 of the secret.
        expires_at_ms: When it expires; None for never.
        last_used_at_ms: When it was last used, to the minute; None for never.
    """

    key_id: str
    name: str
    principal: str
    is_admin: bool
    secret_hash: bytes
    created_at_ms: int
    expires_at_ms: int | None = None
    last_used_at_ms: int | None = None


def version(tx: Tx) -> int:
    """Return the version of keys and access control lists."""
    found: int = tx.connection.execute(_VERSION).scalar_one()
    return found


def raise_version(tx: Tx) -> None:
    """Raise the version, and lock it: changes of access run one after the other."""
    tx.connection.execute(_RAISE_VERSION)


def any_exists(tx: Tx) -> bool:
    """Return whether a key was ever made, also if it was revoked."""
    return bool(tx.connection.execute(_EXISTS).scalar_one())


def is_used(tx: Tx, key_id: str) -> bool:
    """Return whether a key has or had this id."""
    return tx.connection.execute(_USED_ID, {"id": key_id}).first() is not None


def has_admin(tx: Tx, principal: str, now_ms: int) -> bool:
    """Return whether a principal has a valid key of an admin."""
    return bool(tx.connection.execute(_ADMIN_EXISTS, {"name": principal, "now": now_ms}).scalar_one())


def count(tx: Tx) -> int:
    """Return the number of keys that were not revoked."""
    found: int = tx.connection.execute(_COUNT).scalar_one()
    return found


def find(tx: Tx, key_id: str) -> StoredKey | None:
    """Return a key, or None if it does not exist or was revoked."""
    row = tx.connection.execute(_FIND, {"id": key_id}).one_or_none()
    return None if row is None else StoredKey._make(row)


def list_(tx: Tx, after: str, limit: int) -> list[StoredKey]:
    """Return up to `limit` keys in order of their ids, from the first above `after`."""
    return [StoredKey._make(row) for row in tx.connection.execute(_LIST, {"after": after, "n": limit})]


def insert_key(tx: Tx, key: StoredKey) -> None:
    """Store a new key."""
    tx.connection.execute(insert(api_keys), key._asdict())


def revoke(tx: Tx, key_id: str, now_ms: int) -> bool:
    """Revoke a key, and return whether there was one."""
    return tx.connection.execute(_REVOKE, {"id": key_id, "at_ms": now_ms}).rowcount > 0


def record_uses(tx: Tx, used_at_ms: Mapping[str, int]) -> None:
    """Store when keys were last used."""
    for key_id in sorted(used_at_ms):
        tx.connection.execute(_USED, {"id": key_id, "at_ms": used_at_ms[key_id]})
