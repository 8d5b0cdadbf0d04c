"""Durations in milliseconds that are probably meant in seconds."""

from __future__ import annotations

import pytest

from app.domain.log.durations import looks_like_seconds

HOUR_MS = 3_600_000


@pytest.mark.parametrize("seconds", [7, 30, 90, 300, 600, 1_200, 1_800, 3_600, 7_200, 43_200, 86_400, 604_800])
def test_usual_durations_in_seconds_look_like_seconds(seconds: int) -> None:
    assert looks_like_seconds(seconds)


@pytest.mark.parametrize("days", [1, 2, 3, 7, 14, 30, 90, 365])
def test_days_in_seconds_look_like_seconds_and_days_in_milliseconds_do_not(days: int) -> None:
    assert looks_like_seconds(days * 86_400)
    assert not looks_like_seconds(days * 86_400_000)


@pytest.mark.parametrize(
    "milliseconds", [-1, 0, 100, 250, 500, 1_000, 1_500, 5_000, 30_000, 60_000, 300_000, HOUR_MS, 2**63 - 1]
)
def test_durations_that_are_round_as_milliseconds_and_special_values_do_not(milliseconds: int) -> None:
    assert not looks_like_seconds(milliseconds)


def test_a_number_that_the_field_cannot_take_in_seconds_does_not() -> None:
    assert looks_like_seconds(3_600, longest_ms=HOUR_MS)
    assert not looks_like_seconds(7_200, longest_ms=HOUR_MS)
