"""How many attempts a webhook may begin now: its limits, its breaker, and what its receiver asked for. Pure."""

from __future__ import annotations

from typing import NamedTuple

from app.domain.webhooks.breaker import Breaker, BreakerState


class Pace(NamedTuple):
    """What limits a webhook at a time.

    Attributes:
        max_in_flight: Attempts at once.
        rate_per_s: Attempts per second, or None.
        held_until_ms: Nothing begins before this time.
        breaker: The breaker.
    """

    max_in_flight: int
    rate_per_s: int | None
    held_until_ms: int
    breaker: Breaker


class Bucket(NamedTuple):
    """The tokens of a rate limit.

    Attributes:
        filled_at_ms: When `tokens` was computed.
    """

    tokens: float
    filled_at_ms: int


def refill(bucket: Bucket, rate_per_s: int, now_ms: int) -> Bucket:
    """Return the bucket at a time; it has at most the tokens of one second, and at least room for one."""
    added = max(0, now_ms - bucket.filled_at_ms) * rate_per_s / 1_000
    return Bucket(min(max(1.0, float(rate_per_s)), bucket.tokens + added), now_ms)


def room(pace: Pace, bucket: Bucket, in_flight: int, now_ms: int, *, is_cut_off: bool = False) -> int:
    """Return how many attempts may begin now.

    Args:
        pace: What limits the webhook.
        bucket: The refilled tokens of its rate limit.
        in_flight: Attempts that have begun and not ended.
        now_ms: The time.
        is_cut_off: Whether no other server answers: then one attempt at a time tries.
    """
    state = pace.breaker.state(now_ms)
    if now_ms < pace.held_until_ms or state is BreakerState.OPEN:
        return 0
    if state is BreakerState.HALF_OPEN or is_cut_off:
        return 0 if in_flight else 1
    free = max(0, pace.max_in_flight - in_flight)
    return free if pace.rate_per_s is None else min(free, int(bucket.tokens))


def ready_at_ms(pace: Pace, bucket: Bucket, now_ms: int) -> int | None:
    """Return when an attempt may begin that the time alone prevents now; None if the time does not."""
    waits = [pace.held_until_ms] if now_ms < pace.held_until_ms else []
    if pace.breaker.state(now_ms) is BreakerState.OPEN:
        waits.append(pace.breaker.probe_at_ms)
    if pace.rate_per_s is not None and bucket.tokens < 1:
        waits.append(now_ms + int((1 - bucket.tokens) * 1_000 / pace.rate_per_s) + 1)
    return max(waits, default=None)
