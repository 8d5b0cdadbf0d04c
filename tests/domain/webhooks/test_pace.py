"""How many attempts may begin: limits, the breaker, and pauses that a receiver asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.webhooks import pace
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.pace import Bucket, Pace

NOW_MS = 1_700_000_000_000
FULL = Bucket(1_000.0, NOW_MS)


def test_as_many_attempts_begin_as_max_in_flight_leaves_room_for() -> None:
    free = Pace(4, None, 0, Breaker())

    assert [pace.room(free, FULL, in_flight, NOW_MS) for in_flight in (0, 3, 4, 5)] == [4, 1, 0, 0]
    assert pace.ready_at_ms(free, FULL, NOW_MS) is None


def test_a_hold_ends_at_its_time() -> None:
    held = Pace(4, None, NOW_MS + 500, Breaker())

    assert pace.room(held, FULL, 0, NOW_MS + 499) == 0
    assert pace.room(held, FULL, 0, NOW_MS + 500) == 4
    assert pace.ready_at_ms(held, FULL, NOW_MS) == NOW_MS + 500


def test_one_probe_at_a_time_begins_once_an_open_breaker_allows_it() -> None:
    opened = Pace(4, None, 0, Breaker(opened=1, probe_at_ms=NOW_MS + 500))

    assert pace.room(opened, FULL, 0, NOW_MS) == 0
    assert [pace.room(opened, FULL, in_flight, NOW_MS + 500) for in_flight in (0, 1)] == [1, 0]
    assert pace.ready_at_ms(opened, FULL, NOW_MS) == NOW_MS + 500


def test_the_latest_of_several_reasons_to_wait_counts() -> None:
    waits = Pace(4, 1, NOW_MS + 500, Breaker(opened=1, probe_at_ms=NOW_MS + 300))

    assert pace.ready_at_ms(waits, Bucket(0.0, NOW_MS), NOW_MS) == NOW_MS + 1_001


def test_one_attempt_at_a_time_tries_while_no_server_answers() -> None:
    free = Pace(4, None, 0, Breaker())

    assert [pace.room(free, FULL, in_flight, NOW_MS, is_cut_off=True) for in_flight in (0, 1)] == [1, 0]


@given(rate=st.integers(1, 50), waits=st.lists(st.integers(0, 400), min_size=1, max_size=60))
def test_no_second_has_more_attempts_than_twice_the_rate_and_time_is_used_up(rate: int, waits: list[int]) -> None:
    limited = Pace(64, rate, 0, Breaker())
    bucket, now_ms, begun = Bucket(1.0, NOW_MS), NOW_MS, []
    for wait_ms in waits:
        now_ms += wait_ms
        bucket = pace.refill(bucket, rate, now_ms)
        for _ in range(pace.room(limited, bucket, 0, now_ms)):
            begun.append(now_ms)
            bucket = bucket._replace(tokens=bucket.tokens - 1)
        at_ms = pace.ready_at_ms(limited, bucket, now_ms)
        assert at_ms is not None
        assert pace.room(limited, pace.refill(bucket, rate, at_ms), 0, at_ms) >= 1

    burst = max(1, rate)
    assert len(begun) <= burst + rate * (now_ms - NOW_MS) / 1_000 + 1
    assert all(sum(first <= each < first + 1_000 for each in begun) <= 2 * burst + 1 for first in begun)
