"""The last time known to be right, and the grace after a jump of the clock: nothing is deleted by age in it. Pure."""

from __future__ import annotations

from typing import NamedTuple

MAX_JUMP_MS = 3_600_000
"""A clock that jumps further ahead may be wrong."""


class ClockTick(NamedTuple):
    """The clock as last checked.

    Attributes:
        ticked_at_ms: The last time known to be right, or 0 if the clock was never checked. It stops during a grace.
        grace_began_at_ms: Time at which the grace began, by the clock after its jump, or None.
    """

    ticked_at_ms: int = 0
    grace_began_at_ms: int | None = None


def next_tick(tick: ClockTick, now_ms: int, expected_ms: int | None, grace_ms: int) -> ClockTick:
    """Check the clock.

    Args:
        tick: The last tick of any process.
        now_ms: Time of the clock.
        expected_ms: Time of the last check by this process plus the monotonic time since; None at its start.
        grace_ms: Length of a grace.
    """
    began_at_ms, expected_ms = tick.grace_began_at_ms, expected_ms or 0
    if began_at_ms is None:
        expected_ms = max(expected_ms, tick.ticked_at_ms)
    elif now_ms < began_at_ms:  # the clock was set back
        expected_ms = tick.ticked_at_ms
    elif expected_ms and now_ms - max(expected_ms, began_at_ms) > MAX_JUMP_MS:  # it has jumped again
        return ClockTick(tick.ticked_at_ms, now_ms)
    else:
        return tick if now_ms - began_at_ms < grace_ms else ClockTick(now_ms)
    if tick.ticked_at_ms and now_ms - expected_ms > MAX_JUMP_MS:
        return ClockTick(tick.ticked_at_ms, now_ms)
    return ClockTick(now_ms)


def expiry_time_ms(tick: ClockTick, now_ms: int) -> int:
    """Return the time by which records, keys and offsets expire: during a grace, the last tick.

    A jump that no process has noticed yet counts as a grace.
    """
    ahead_ms = now_ms - tick.ticked_at_ms
    if tick.ticked_at_ms and ahead_ms > 0 and (tick.grace_began_at_ms is not None or ahead_ms > MAX_JUMP_MS):
        return tick.ticked_at_ms
    return now_ms
