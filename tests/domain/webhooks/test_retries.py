"""When a record is attempted again, and what Retry-After asks for."""

from __future__ import annotations

import pytest

from app.domain.webhooks.retries import DEFAULT_DELAYS_MS, hold_ms, retry_after_ms, retry_delay_ms

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000


def test_ten_attempts_are_made_by_default() -> None:
    delays = [retry_delay_ms(number, DEFAULT_DELAYS_MS, 500, 0, 0.0) for number in range(1, 11)]

    assert delays == [*DEFAULT_DELAYS_MS, None]
    assert retry_delay_ms(1, (), 500, 0, 0.0) is None


def test_jitter_adds_up_to_a_fifth() -> None:
    assert retry_delay_ms(1, (1_000,), None, 0, 0.5) == 1_100
    assert retry_delay_ms(1, (1_000,), None, 0, 1.0) == 1_200


@pytest.mark.parametrize(
    ("status", "delay_ms", "held_ms"),
    [(503, 60_000, 60_000), (429, 60_000, 60_000), (500, 5, 0), (200, 5, 0), (None, 5, 0)],
)
def test_retry_after_of_503_and_429_moves_the_attempt_later_and_holds_the_webhook(
    status: int | None, delay_ms: int, held_ms: int
) -> None:
    assert retry_delay_ms(1, (5,), status, 60_000, 0.0) == delay_ms
    assert hold_ms(status, 60_000) == held_ms


def test_retry_after_moves_no_attempt_earlier_and_holds_for_an_hour_at_most() -> None:
    assert retry_delay_ms(1, (90_000,), 503, 1_000, 0.0) == 90_000
    assert hold_ms(503, 1_000) == 1_000
    assert retry_delay_ms(1, (5,), 503, DAY_MS, 0.0) == DAY_MS
    assert hold_ms(503, DAY_MS) == 3_600_000


@pytest.mark.parametrize(
    ("value", "date_ms", "expected"),
    [
        (None, None, 0),
        (b"120", None, 120_000),
        (b" 120 ", None, 120_000),
        (b"-5", None, 0),
        (b"soon", None, 0),
        (b"1e3", None, 0),
        (b"86400", None, DAY_MS),
        (b"9999999999", None, DAY_MS),
        (b"9" * 5_000, None, 0),
        (b"Tue", NOW_MS + 1_000, 1_000),
        (b"Tue", NOW_MS - 1_000, 0),
        (b"Tue", NOW_MS + 10 * DAY_MS, DAY_MS),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_a_date(value: bytes | None, date_ms: int | None, expected: int) -> None:
    assert retry_after_ms(value, NOW_MS, date_ms) == expected
