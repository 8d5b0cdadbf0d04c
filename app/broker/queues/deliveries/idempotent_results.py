"""The Idempotency-Keys of the requests that share a transaction of a queue, and the results stored under them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from app.domain.log.append import IdempotencyKey, KeyId, StoredKey
from app.domain.queues.delivery import Acquire, Delivery, Request, Settled
from app.errors.log import IdempotencyKeyReused
from app.storage.db.transaction import Tx
from app.storage.log import idempotency
from app.storage.queues.queues import negative_queue_id


class StoredDelivery(NamedTuple):
    """A delivery in the stored result of an acquire."""

    partition: int
    offset: int
    delivery_count: int


_deliveries = msgspec.msgpack.Decoder(list[StoredDelivery])
_settled = msgspec.msgpack.Decoder(list[Settled])
_encode = msgspec.msgpack.Encoder().encode


class IdempotentResults:
    """The results of requests with an Idempotency-Key, within one transaction."""

    def __init__(self, tx: Tx, queue_id: int) -> None:
        self._tx = tx
        self._negative_queue_id = negative_queue_id(queue_id)
        self._claimed: list[KeyId] = []
        self._stored: Mapping[KeyId, StoredKey] = {}
        self._written: dict[KeyId, StoredKey] = {}

    def partitions(self, requests: Iterable[Request]) -> set[int]:
        """Return the partitions of the deliveries that are stored for acquires; it claims no key."""
        keys = {self._id(each.key): each.key for each in requests if isinstance(each, Acquire) and each.key}
        if not keys:
            return set()
        return {
            delivery.partition
            for key_id, stored in idempotency.peek(self._tx, list(keys)).items()
            if stored.fingerprint == keys[key_id].fingerprint
            for delivery in _deliveries.decode(stored.result)
        }

    def claim(self, keys: Iterable[IdempotencyKey], now_ms: int) -> None:
        """Claim keys, by the lock order after the share partitions and before anything else."""
        self._claimed = sorted({self._id(key) for key in keys})
        self._stored = idempotency.claim(self._tx, self._claimed, now_ms)

    def settled(self, key: IdempotencyKey | None) -> list[Settled] | None:
        """Return the stored result of an acknowledge, or None.

        Raises:
            IdempotencyKeyReused: The key was used for another request.
        """
        result = self._find(key)
        return None if result is None else _settled.decode(result)

    def deliveries(self, key: IdempotencyKey | None) -> list[StoredDelivery] | None:
        """Return the stored result of an acquire, or None.

        Raises:
            IdempotencyKeyReused: The key was used for another request.
        """
        result = self._find(key)
        return None if result is None else _deliveries.decode(result)

    def store_settled(self, key: IdempotencyKey, results: list[Settled]) -> None:
        """Store the result of an acknowledge."""
        self._written[self._id(key)] = StoredKey(key.fingerprint, _encode(results))

    def store_deliveries(self, key: IdempotencyKey, deliveries: Iterable[Delivery]) -> None:
        """Store the result of an acquire."""
        stored = [StoredDelivery(*each.delivery_id[1:]) for each in deliveries]
        self._written[self._id(key)] = StoredKey(key.fingerprint, _encode(stored))

    def save(self, now_ms: int) -> None:
        """Write the results, and release the claimed keys whose requests have none."""
        if self._claimed:
            unused = [key_id for key_id in self._claimed if key_id not in self._stored]
            idempotency.save_results(self._tx, unused, self._written, now_ms)

    def _id(self, key: IdempotencyKey) -> KeyId:
        return self._negative_queue_id, key.key_hash

    def _find(self, key: IdempotencyKey | None) -> bytes | None:
        if key is None:
            return None
        key_id = self._id(key)
        entry = self._written.get(key_id) or self._stored.get(key_id)
        if entry is None:
            return None
        if entry.fingerprint != key.fingerprint:
            raise IdempotencyKeyReused("this Idempotency-Key was used on this queue for another request; use a new key")
        return entry.result
