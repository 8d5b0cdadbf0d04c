"""A token bucket: a rate with bursts of one second, in whole numbers.

A cost that is known only afterwards, such as the bytes of an answer, is taken when it is known. The bucket may then
hold less than nothing, and further requests wait until it is repaid, as in Kafka.
"""

from __future__ import annotations

from typing import NamedTuple

WINDOW_S = 1
"""A bucket holds the tokens of this time."""
_PARTS = 1_000
"""A token is counted in so many parts: a rate per second adds whole parts in each millisecond."""


class Bucket(NamedTuple):
    """The thousandths of tokens at a time; negative for a debt."""

    parts: int
    at_ms: int

    @property
    def tokens(self) -> int:
        """The whole tokens; 0 for a debt."""
        return max(self.parts // _PARTS, 0)


def full(per_s: int, now_ms: int) -> Bucket:
    """Return a bucket that nothing was taken from."""
    return Bucket(per_s * WINDOW_S * _PARTS, now_ms)


def refill(bucket: Bucket, per_s: int, now_ms: int) -> Bucket:
    """Return the bucket at a later time. A clock that went back adds nothing."""
    parts, at_ms = bucket
    if now_ms > at_ms:
        parts = min(parts + per_s * (now_ms - at_ms), per_s * WINDOW_S * _PARTS)
    return Bucket(parts, now_ms)


def take(bucket: Bucket, tokens: int) -> Bucket:
    """Return the bucket without these tokens."""
    return Bucket(bucket.parts - tokens * _PARTS, bucket.at_ms)


def wait_ms(bucket: Bucket, per_s: int, needed: int) -> int:
    """Return how long it takes until the bucket has the tokens; 0 if it has them."""
    missing = needed * _PARTS - bucket.parts
    return 0 if missing <= 0 else -(-missing // per_s)
