"""The partition of a key is the same as with Kafka's own clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.log.partitioner import murmur2, partition_for_key

# org.apache.kafka.common.utils.UtilsTest.testMurmur2, and three more from the Java function.
VECTORS = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
    (b"", 275646681),
]


@pytest.mark.parametrize(("key", "expected"), VECTORS, ids=str)
def test_murmur2_equals_that_of_kafka(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected


@pytest.mark.parametrize(
    ("key", "partition"), [(b"21", 0), (b"foobar", 6), (b"abc", 7), (b"", 1), (b"a-little-bit-long-string", 2)]
)
def test_the_sign_is_masked_before_the_remainder(key: bytes, partition: int) -> None:
    assert partition_for_key(key, 10) == partition


@given(st.binary(max_size=200), st.integers(1, 1000))
def test_a_key_always_has_the_same_existing_partition(key: bytes, partitions: int) -> None:
    partition = partition_for_key(key, partitions)

    assert 0 <= partition < partitions
    assert partition_for_key(key, partitions) == partition


def test_a_key_too_long_for_the_cache_has_the_same_hash() -> None:
    assert partition_for_key(b"a" * 64, 1000) == (murmur2(b"a" * 64) & 0x7FFFFFFF) % 1000
    assert partition_for_key(b"a" * 65, 1000) == (murmur2(b"a" * 65) & 0x7FFFFFFF) % 1000
