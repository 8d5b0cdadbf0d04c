"""The partition of a key: murmur2, exactly as Kafka's default partitioner. Pure."""

from __future__ import annotations

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_CACHED_KEY_BYTES = 64


def murmur2(data: bytes) -> int:
    """Hash bytes to a signed 32-bit integer.

    Source: org.apache.kafka.common.utils.Utils.murmur2.
    """
    length = len(data)
    h = _SEED ^ length
    words = length >> 2
    for k in struct.unpack_from(f"<{words}I", data):
        k = k * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    tail = data[words << 2 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h & 0x80000000 else h


@lru_cache(maxsize=1 << 16)
def _cached_positive_hash(key: bytes) -> int:
    return murmur2(key) & 0x7FFFFFFF


def partition_for_key(key: bytes, partitions: int) -> int:
    """Return the partition of a key, from 0 to `partitions` - 1.

    The hash of short keys is cached: computing it in pure Python halves the speed of keyed batches.
    Source: org.apache.kafka.clients.producer.internals.BuiltInPartitioner.partitionForKey.
    """
    if len(key) <= _CACHED_KEY_BYTES:
        return _cached_positive_hash(key) % partitions
    return (murmur2(key) & 0x7FFFFFFF) % partitions
