"""Durations in milliseconds that are probably meant in seconds. Pure."""

from __future__ import annotations

_SHORTEST_MS = 100
_MINUTE_S = 60
_TEN_MINUTES_S = 600
_HOUR_S = 3_600
_SECOND_MS = 1_000
_MINUTE_MS = 60_000
_LONGEST_S = 10 * 365 * 24 * _HOUR_S


def looks_like_seconds(duration: int, longest_ms: int | None = None) -> bool:
    """Return whether a duration in milliseconds was probably given in seconds.

    Such a number is round as seconds and odd as milliseconds: 3,600 and 86,400 are an hour and a day in seconds, and
    3.6 and 86.4 seconds in milliseconds. 5,000 and 300,000 are round as milliseconds. Durations below 0.1 seconds are
    hardly ever meant.

    Args:
        duration: The number; values below 1 have a meaning of their own.
        longest_ms: The longest duration that the field takes; a number that is more than that in seconds is not meant.
    """
    if not 0 < duration <= (_LONGEST_S if longest_ms is None else longest_ms // _SECOND_MS):
        return False
    return (
        duration < _SHORTEST_MS
        or (duration < _SECOND_MS and duration % _MINUTE_S == 0)
        or (duration % _TEN_MINUTES_S == 0 and duration % _SECOND_MS != 0)
        or (duration % _HOUR_S == 0 and duration % _MINUTE_MS != 0)
    )
