"""When a record is attempted again, and when it is given up. Pure.

Source: the example schedule of Standard Webhooks, and RFC 9110 §10.2.3 for Retry-After.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SECOND_MS = 1_000
_HOUR_MS = 3_600 * _SECOND_MS
DEFAULT_DELAYS_MS: tuple[int, ...] = (
    5 * _SECOND_MS,
    300 * _SECOND_MS,
    1_800 * _SECOND_MS,
    2 * _HOUR_MS,
    5 * _HOUR_MS,
    10 * _HOUR_MS,
    14 * _HOUR_MS,
    20 * _HOUR_MS,
    24 * _HOUR_MS,
)
MAX_DELAYS = 99
MAX_DELAY_MS = 30 * 24 * _HOUR_MS
MAX_RETRY_AFTER_MS = 24 * _HOUR_MS
"""How far Retry-After moves the next attempt of a record."""
MAX_HOLD_MS = _HOUR_MS
"""How long Retry-After holds the whole webhook."""
_JITTER = 0.2
_SECONDS = re.compile(rb"[0-9]{1,10}")
_HOLDING_STATUSES = frozenset({429, 503})


def retry_after_ms(value: bytes | None, now_ms: int, parsed_date_ms: int | None) -> int:
    """Return the time that a Retry-After asks for, at most `MAX_RETRY_AFTER_MS`; 0 if it is missing or not valid.

    Args:
        value: The header.
        now_ms: The time at which the answer came.
        parsed_date_ms: The header's date, if it is one.
    """
    if value is None:
        return 0
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return min(int(value) * _SECOND_MS, MAX_RETRY_AFTER_MS)
    if parsed_date_ms is None:
        return 0
    return min(max(parsed_date_ms - now_ms, 0), MAX_RETRY_AFTER_MS)


def hold_ms(status: int | None, requested_ms: int) -> int:
    """Return for how long the whole webhook sends nothing after an answer.

    Args:
        status: The status of the answer; None without an answer.
        requested_ms: What Retry-After asked for.
    """
    return min(requested_ms, MAX_HOLD_MS) if status in _HOLDING_STATUSES else 0


def retry_delay_ms(
    attempts: int, delays_ms: Sequence[int], status: int | None, requested_ms: int, jitter: float
) -> int | None:
    """Return the time until a record's next attempt after attempt number `attempts` failed; None if it is exhausted.

    Args:
        attempts: Charged attempts so far, this one included.
        delays_ms: The delay after each attempt; the record is exhausted after one more attempt than it has entries.
        status: The status of the answer; None without an answer.
        requested_ms: What Retry-After asked for. It moves an attempt later, never earlier.
        jitter: A random number from 0 to 1, which adds up to 20 %.
    """
    if attempts > len(delays_ms):
        return None
    delay_ms = delays_ms[attempts - 1]
    delay_ms += int(delay_ms * _JITTER * jitter)
    return max(delay_ms, requested_ms) if status in _HOLDING_STATUSES else delay_ms
