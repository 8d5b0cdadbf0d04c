"""The circuit breaker of a webhook: it opens when most attempts fail, and one probe closes it. Pure.

Source: the pattern of Nygard, "Release It!", with the thresholds of Convoy.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

WINDOW_MS = 300_000
_MIN_ATTEMPTS = 10
_FAILURE_PERCENT = 70
_FIRST_OPEN_MS = 30_000
LONGEST_OPEN_MS = 900_000
_BUCKETS = 10
_BUCKET_MS = WINDOW_MS // _BUCKETS
DISABLE_AFTER_MS = 5 * 86_400_000
"""A webhook with nothing but failures for so long is disabled."""


class BreakerState(enum.StrEnum):
    """State of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """Attempts that ended in a part of the window."""

    began_at_ms: int
    delivered: int = 0
    failed: int = 0


class Breaker(msgspec.Struct, frozen=True, array_like=True):
    """The breaker of a webhook.

    Attributes:
        buckets: Attempts of the last five minutes, oldest first.
        opened: How often it opened since it was closed; 0 if it is closed.
        probe_at_ms: If it is open, the time from which a probe is allowed.
        failing_since_ms: Time of the first failure since the last success; None after a success.
    """

    buckets: tuple[Bucket, ...] = ()
    opened: int = 0
    probe_at_ms: int = 0
    failing_since_ms: int | None = None

    def state(self, now_ms: int) -> BreakerState:
        """Return the state at a time."""
        if not self.opened:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_ms < self.probe_at_ms else BreakerState.HALF_OPEN


def record(breaker: Breaker, now_ms: int, *, delivered: bool) -> Breaker:
    """Return the breaker after an attempt or a probe that the receiver answered or failed."""
    failing_since_ms = None if delivered else _first(breaker.failing_since_ms, now_ms)
    if breaker.opened:
        if delivered:
            return Breaker()
        if now_ms < breaker.probe_at_ms:
            return msgspec.structs.replace(breaker, failing_since_ms=failing_since_ms)
        return _open(breaker.opened + 1, now_ms, failing_since_ms)
    buckets = _counted(breaker.buckets, now_ms, delivered=delivered)
    failed = sum(bucket.failed for bucket in buckets)
    total = failed + sum(bucket.delivered for bucket in buckets)
    if not delivered and total >= _MIN_ATTEMPTS and failed * 100 >= total * _FAILURE_PERCENT:
        return _open(1, now_ms, failing_since_ms)
    return Breaker(buckets, failing_since_ms=failing_since_ms)


def is_to_disable(breaker: Breaker, now_ms: int) -> bool:
    """Return whether the webhook has had nothing but failures for five days."""
    return breaker.failing_since_ms is not None and now_ms - breaker.failing_since_ms >= DISABLE_AFTER_MS


def step_back(breaker: Breaker, step_ms: int, now_ms: int) -> Breaker:
    """Return the breaker after the clock has stepped back: nothing waits longer for it."""
    latest_ms = now_ms + LONGEST_OPEN_MS
    failing = breaker.failing_since_ms
    return Breaker(
        (),
        breaker.opened,
        min(breaker.probe_at_ms - step_ms, latest_ms),
        None if failing is None else min(failing - step_ms, now_ms),
    )


def _first(since_ms: int | None, now_ms: int) -> int:
    return now_ms if since_ms is None else min(since_ms, now_ms)


def _open(opened: int, now_ms: int, failing_since_ms: int | None) -> Breaker:
    open_ms = min(_FIRST_OPEN_MS << min(opened - 1, 10), LONGEST_OPEN_MS)
    return Breaker((), opened, now_ms + open_ms, failing_since_ms)


def _counted(buckets: Sequence[Bucket], now_ms: int, *, delivered: bool) -> tuple[Bucket, ...]:
    """Return the buckets of the window with one more attempt."""
    began_at_ms = now_ms - now_ms % _BUCKET_MS
    kept = [bucket for bucket in buckets if now_ms - WINDOW_MS < bucket.began_at_ms <= began_at_ms]
    last = kept.pop() if kept and kept[-1].began_at_ms == began_at_ms else Bucket(began_at_ms)
    added = Bucket(began_at_ms, last.delivered + delivered, last.failed + (not delivered))
    return (*kept, added)
