"""The checks of the clock: which jumps begin a grace, when it ends, and by which time things expire."""

from __future__ import annotations

from app.domain.log.clock_tick import ClockTick, expiry_time_ms, next_tick

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
GRACE_MS = HOUR_MS


def test_the_first_check_takes_the_clock_as_it_is() -> None:
    assert next_tick(ClockTick(), NOW_MS, None, GRACE_MS) == ClockTick(NOW_MS)


def test_the_tick_follows_a_clock_that_runs() -> None:
    assert next_tick(ClockTick(NOW_MS), NOW_MS + 1_500, NOW_MS + 1_500, GRACE_MS) == ClockTick(NOW_MS + 1_500)


def test_at_start_a_clock_more_than_an_hour_ahead_of_the_last_tick_begins_a_grace() -> None:
    tick = ClockTick(NOW_MS)

    assert next_tick(tick, NOW_MS + HOUR_MS, None, GRACE_MS) == ClockTick(NOW_MS + HOUR_MS)
    assert next_tick(tick, NOW_MS + HOUR_MS + 1, None, GRACE_MS) == ClockTick(NOW_MS, NOW_MS + HOUR_MS + 1)


def test_time_that_passes_without_stored_ticks_is_not_a_jump_of_a_running_process() -> None:
    later_ms = NOW_MS + 3 * HOUR_MS

    assert next_tick(ClockTick(NOW_MS), later_ms, later_ms - 1_000, GRACE_MS) == ClockTick(later_ms)


def test_a_running_clock_more_than_an_hour_ahead_of_the_monotonic_clock_begins_a_grace() -> None:
    jumped_ms = NOW_MS + 8 * DAY_MS

    assert next_tick(ClockTick(NOW_MS), jumped_ms, NOW_MS + 1_500, GRACE_MS) == ClockTick(NOW_MS, jumped_ms)


def test_the_tick_stops_during_a_grace_and_goes_on_after_it_in_any_process() -> None:
    jumped_ms = NOW_MS + 8 * DAY_MS
    grace = ClockTick(NOW_MS, jumped_ms)

    for expected_ms in (None, jumped_ms + GRACE_MS - 1):
        assert next_tick(grace, jumped_ms + GRACE_MS - 1, expected_ms, GRACE_MS) == grace
        assert next_tick(grace, jumped_ms + GRACE_MS, expected_ms, GRACE_MS) == ClockTick(jumped_ms + GRACE_MS)


def test_another_jump_during_a_grace_begins_it_again() -> None:
    jumped_ms = NOW_MS + 8 * DAY_MS
    again_ms = jumped_ms + 8 * DAY_MS

    tick = next_tick(ClockTick(NOW_MS, jumped_ms), again_ms, jumped_ms + 1_500, GRACE_MS)

    assert tick == ClockTick(NOW_MS, again_ms)


def test_a_process_that_has_not_seen_the_jump_does_not_begin_the_grace_again() -> None:
    jumped_ms = NOW_MS + 8 * DAY_MS
    grace = ClockTick(NOW_MS, jumped_ms)

    assert next_tick(grace, jumped_ms + 1_000, NOW_MS + 1_500, GRACE_MS) == grace


def test_a_clock_that_is_set_right_ends_the_grace() -> None:
    grace = ClockTick(NOW_MS, NOW_MS + 8 * DAY_MS)

    assert next_tick(grace, NOW_MS + 60_000, NOW_MS + 8 * DAY_MS + 60_000, GRACE_MS) == ClockTick(NOW_MS + 60_000)


def test_a_clock_that_is_set_back_and_still_ahead_begins_a_grace_of_its_own() -> None:
    grace, now_ms = ClockTick(NOW_MS, NOW_MS + 8 * DAY_MS), NOW_MS + 4 * DAY_MS

    assert next_tick(grace, now_ms, NOW_MS + 8 * DAY_MS, GRACE_MS) == ClockTick(NOW_MS, now_ms)


def test_the_tick_follows_a_clock_that_steps_back() -> None:
    assert next_tick(ClockTick(NOW_MS), NOW_MS - DAY_MS, NOW_MS, GRACE_MS) == ClockTick(NOW_MS - DAY_MS)


def test_things_expire_by_the_clock_and_during_a_grace_by_the_last_tick() -> None:
    assert expiry_time_ms(ClockTick(), NOW_MS) == NOW_MS
    assert expiry_time_ms(ClockTick(NOW_MS), NOW_MS + HOUR_MS) == NOW_MS + HOUR_MS
    assert expiry_time_ms(ClockTick(NOW_MS, NOW_MS + 8 * DAY_MS), NOW_MS + 8 * DAY_MS) == NOW_MS
    assert expiry_time_ms(ClockTick(NOW_MS, NOW_MS + 8 * DAY_MS), NOW_MS - 1) == NOW_MS - 1


def test_a_jump_that_no_process_has_noticed_expires_nothing() -> None:
    assert expiry_time_ms(ClockTick(NOW_MS), NOW_MS + 8 * DAY_MS) == NOW_MS
