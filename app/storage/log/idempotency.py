"""Idempotency-Keys: locked before offsets are assigned, and stored with the result for their lifetime.

The lifetime is 24 hours. `created_at_ms` of a key with another lifetime is shifted, so that it expires with those that
were stored at that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import bindparam, delete, select, tuple_, update

from app.domain.log.append import KEY_LIFETIME_MS, KeyId, StoredKey
from app.storage.db.tables import idempotency_keys as keys
from app.storage.db.transaction import Tx
from app.storage.log import clock_ticks

_FIND = select(keys.c.topic_id, keys.c.key_hash, keys.c.fingerprint, keys.c.result, keys.c.created_at_ms).where(
    tuple_(keys.c.topic_id, keys.c.key_hash).in_(bindparam("ids", expanding=True))
)
_COMPLETE = (
    update(keys)
    .where(keys.c.topic_id == bindparam("topic"), keys.c.key_hash == bindparam("hash"))
    .values(
        fingerprint=bindparam("new_fingerprint"),
        result=bindparam("new_result"),
        created_at_ms=bindparam("new_created_at_ms"),
    )
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

    An existing row is updated without a change: this locks it, so that it cannot expire before it is read.

    Args:
        tx: The append's transaction.
        ids: In ascending order.
        now_ms: Time of the append.
    """
    insert = tx.dialect.insert(keys)
    tx.connection.execute(
        insert.on_conflict_do_update(
            index_elements=["topic_id", "key_hash"], set_={"key_hash": insert.excluded.key_hash}
        ),
        [
            {"topic_id": topic_id, "key_hash": key_hash, "fingerprint": b"", "created_at_ms": now_ms}
            for topic_id, key_hash in ids
        ],
    )
    return find(tx, ids, now_ms)


def find(tx: Tx, ids: Sequence[KeyId], now_ms: int) -> dict[KeyId, StoredKey]:
    """Return the stored results of those keys that are used and not expired.

    The last tick is read only for a key that is expired by `now_ms`.
    """
    used, oldest_ms = _used(tx, ids), now_ms - KEY_LIFETIME_MS
    if any(created_at_ms < oldest_ms for _, created_at_ms in used.values()):
        oldest_ms = clock_ticks.expiry_ms(tx, now_ms) - KEY_LIFETIME_MS
    return {key_id: stored for key_id, (stored, created_at_ms) in used.items() if created_at_ms >= oldest_ms}


def peek(tx: Tx, ids: Sequence[KeyId]) -> dict[KeyId, StoredKey]:
    """Return the stored results of keys, expired or not, without a lock."""
    return {key_id: stored for key_id, (stored, _) in _used(tx, ids).items()}


def save_results(tx: Tx, claimed: Iterable[KeyId], written: Mapping[KeyId, StoredKey], now_ms: int) -> None:
    """Store the results, and delete the claimed keys whose requests were refused."""
    if written:
        tx.connection.execute(
            _COMPLETE,
            [
                {
                    "topic": topic_id,
                    "hash": key_hash,
                    "new_fingerprint": entry.fingerprint,
                    "new_result": entry.result,
                    "new_created_at_ms": now_ms + entry.lifetime_ms - KEY_LIFETIME_MS,
                }
                for (topic_id, key_hash), entry in written.items()
            ],
        )
    if refused := [key_id for key_id in claimed if key_id not in written]:
        tx.connection.execute(_RELEASE, [{"topic": topic_id, "hash": hash_} for topic_id, hash_ in refused])


def expire(tx: Tx, now_ms: int, limit: int) -> int:
    """Delete up to `limit` keys older than 24 hours. Return how many."""
    before_ms = clock_ticks.expiry_ms(tx, now_ms) - KEY_LIFETIME_MS
    result = tx.connection.execute(_EXPIRE, {"before_ms": before_ms, "at_most": limit})
    return result.rowcount


def _used(tx: Tx, ids: Sequence[KeyId]) -> dict[KeyId, tuple[StoredKey, int]]:
    """Return the stored results of keys, and the times at which they were stored."""
    return {
        (topic_id, key_hash): (StoredKey(fingerprint, result), created_at_ms)
        for topic_id, key_hash, fingerprint, result, created_at_ms in tx.connection.execute(_FIND, {"ids": list(ids)})
        if result is not None
    }
