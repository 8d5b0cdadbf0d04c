"""auto_offset_reset: where a group starts without a committed offset."""

from __future__ import annotations

import pytest

from app.domain.groups.offset_reset import check_offset_reset, duration_ms
from app.errors.http import InvalidRequest


@pytest.mark.parametrize("text", ["earliest", "latest", "none", "by_duration:PT1H"])
def test_each_kind_of_reset_is_accepted(text: str) -> None:
    check_offset_reset(text)


@pytest.mark.parametrize(
    "text",
    [
        *["", "EARLIEST", " latest", "PT1H", "by_duration", "by_duration:", "by_duration:1h", "by_duration:P"],
        *["by_duration:PT", "by_duration:P1DT", "by_duration:-PT1H", "by_duration:PT-1H", "by_duration:PT1H "],
        *["by_duration:P1M", "by_duration:PT1.5H", "by_duration:PT1.S", "by_duration:PT٣H"],
    ],
)
def test_any_other_value_is_refused_with_the_valid_values(text: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        check_offset_reset(text)

    detail = "must be earliest, latest, none or by_duration:P…, such as by_duration:PT1H"
    assert error.value.facts == {"errors": [{"field": "auto_offset_reset", "detail": detail}]}


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("by_duration:PT1H", 3_600_000),
        ("by_duration:P7D", 604_800_000),
        ("by_duration:P1DT2H3M4.5S", 93_784_500),
        ("by_duration:PT0.001S", 1),
        ("by_duration:PT90M", 5_400_000),
        ("by_duration:PT0S", 0),
        ("earliest", None),
        ("latest", None),
    ],
)
def test_a_duration_is_iso_8601_in_days_hours_minutes_and_seconds(text: str, expected_ms: int | None) -> None:
    assert duration_ms(text) == expected_ms
