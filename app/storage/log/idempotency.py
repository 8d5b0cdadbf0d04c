"""Idempotency-Keys: locked before offsets are assigned, and stored with the result for their lifetime.

The lifetime is 24 hours. `created_at_ms` of a key with another lifetime is shifted, so that it expires with those that
were stored at that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import bindparam, delete, select, tuple_

from app.domain.log.append import KEY_LIFETIME_MS, KeyId, KeyRow, StoredKey
from app.storage.db.tables import idempotency_keys as keys
from app.storage.db.transaction import Tx
from app.storage.log import clock_ticks

_FIND = select(keys.c.topic_id, keys.c.key_hash, keys.c.fingerprint, keys.c.result, keys.c.created_at_ms).where(
    tuple_(keys.c.topic_id, keys.c.key_hash).in_(bindparam("ids", expanding=True)), keys.c.result.is_not(None)
)
_RELEASE = delete(keys).where(
    keys.c.topic_id == bindparam("topic"), keys.c.key_hash == bindparam("hash"), keys.c.result.is_(None)
)
_EXPIRE = delete(keys).where(
    keys.c.created_at_ms < bindparam("before_ms"),
    tuple_(keys.c.topic_id, keys.c.key_hash).in_(
        select(keys.c.topic_id, keys.c.key_hash)
        .where(keys.c.created_at_ms < bindparam("before_ms"))
        .limit(bindparam("at_most"))
        .with_for_update(skip_locked=True)
    ),
)


def claim(tx: Tx, ids: Sequence[KeyId], now_ms: int) -> dict[KeyId, StoredKey]:
    """Lock keys, waiting for transactions that hold them, and return the stored results of those already used.

    Args:
        tx: The append's transaction.
        ids: In ascending order.
        now_ms: Time of the append.
    """
    return _unexpired(tx, tx.dialect.lock_keys(tx, ids, now_ms), now_ms)


def find(tx: Tx, ids: Sequence[KeyId], now_ms: int) -> dict[KeyId, StoredKey]:
    """Return the stored results of those keys that are used and not expired."""
    return _unexpired(tx, _used(tx, ids), now_ms)


def peek(tx: Tx, ids: Sequence[KeyId]) -> dict[KeyId, StoredKey]:
    """Return the stored results of keys, expired or not, without a lock."""
    return _by_id(_used(tx, ids))


def save_results(tx: Tx, claimed: Iterable[KeyId], written: Mapping[KeyId, StoredKey], now_ms: int) -> None:
    """Store the results, and delete the claimed keys whose requests were refused."""
    if written:
        rows = [
            (*key_id, entry.fingerprint, entry.result, now_ms + entry.lifetime_ms - KEY_LIFETIME_MS)
            for key_id, entry in written.items()
        ]
        tx.dialect.save_keys(tx, rows)
    if refused := [key_id for key_id in claimed if key_id not in written]:
        tx.connection.execute(_RELEASE, [{"topic": topic_id, "hash": hash_} for topic_id, hash_ in refused])


def expire(tx: Tx, now_ms: int, limit: int) -> int:
    """Delete up to `limit` keys older than 24 hours. Return how many."""
    before_ms = clock_ticks.expiry_ms(tx, now_ms) - KEY_LIFETIME_MS
    result = tx.connection.execute(_EXPIRE, {"before_ms": before_ms, "at_most": limit})
    return result.rowcount


def _used(tx: Tx, ids: Sequence[KeyId]) -> list[KeyRow]:
    """Return the rows of the keys that have a result."""
    return [
        (topic_id, key_hash, fingerprint, result, created_at_ms)
        for topic_id, key_hash, fingerprint, result, created_at_ms in tx.connection.execute(_FIND, {"ids": list(ids)})
    ]


def _unexpired(tx: Tx, rows: Sequence[KeyRow], now_ms: int) -> dict[KeyId, StoredKey]:
    """Return the stored results that are not expired. The last tick is read only if one is expired by `now_ms`."""
    oldest_ms = now_ms - KEY_LIFETIME_MS
    if any(_created_at_ms(row) < oldest_ms for row in rows):
        oldest_ms = clock_ticks.expiry_ms(tx, now_ms) - KEY_LIFETIME_MS
        rows = [row for row in rows if _created_at_ms(row) >= oldest_ms]
    return _by_id(rows)


def _created_at_ms(row: KeyRow) -> int:
    *_, created_at_ms = row
    return created_at_ms


def _by_id(rows: Iterable[KeyRow]) -> dict[KeyId, StoredKey]:
    return {(topic_id, hash_): StoredKey(fingerprint, result) for topic_id, hash_, fingerprint, result, _ in rows}
