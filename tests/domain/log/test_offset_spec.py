"""Parsing of offset specs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.log.offset_spec import At, Earliest, Last, Latest, OffsetSpec, Since, parse_offset_spec
from app.errors.http import InvalidRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", At(0)),
        ("17", At(17)),
        ("9223372036854775807", At(9223372036854775807)),
        ("earliest", Earliest()),
        ("latest", Latest()),
        ("-1", Last(1)),
        ("-500", Last(500)),
        ("@0", Since(0)),
        ("@1517363399650", Since(1517363399650)),
        ("@2018-01-31T01:49:59.650Z", Since(1517363399650)),
        ("@2018-01-31T02:49:59.650+01:00", Since(1517363399650)),
        ("@2018-01-31T02:49:59.650 01:00", Since(1517363399650)),
        ("@2018-01-30T20:49:59.650-05:00", Since(1517363399650)),
        ("@2018-01-31T01:49:59Z", Since(1517363399000)),
        ("@2018-01-31t01:49:59.650z", Since(1517363399650)),
        ("@2018-01-31t02:49:59.65+01:00", Since(1517363399650)),
        ("@2018-01-31 01:49:59.650000000z", Since(1517363399650)),
        ("@2018-01-31T01:49:59.650-00:00", Since(1517363399650)),
        ("@2018-01-31T02:49:59.650+0100", Since(1517363399650)),
        ("@2016-12-31T23:59:60Z", Since(1483228800000)),
        ("@2016-12-31T23:59:60.25z", Since(1483228800250)),
        ("@2017-01-01t05:29:60+05:30", Since(1483228800000)),
        ("@1973-03-03T09:46:39Z", Since(99999999000)),
        ("@99999999", Since(99999999)),
        ("@100000000000", Since(100000000000)),
    ],
)
def test_an_offset_spec_is_parsed(text: str, expected: OffsetSpec) -> None:
    assert parse_offset_spec(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "first",
        "EARLIEST",
        "+1",
        "1.0",
        "1e3",
        "1_000",
        "0x1",
        "٣",
        "9223372036854775808",
        "1" * 60,
        "@",
        "@-1",
        "@yesterday",
        "@1969-12-31T23:59:59Z",
        "@99999999999999999999",
        "@2018-13-01T00:00:00Z",
        "@2016-12-31T22:59:60Z",
        "@2016-12-31T23:59:61Z",
        "@9999-12-31T23:59:60Z",
        "@2018-02-30t00:00:00z",
        "--1",
        "-",
        "@@1",
    ],
)
def test_any_other_text_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_offset_spec(text)

    assert error.value.detail == (
        "offset must be a number from 0, earliest, latest, -N for the last N records, or @ with epoch milliseconds or "
        "RFC 3339, such as @2018-02-01T00:00:00Z"
    )


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        ("1517363399", "@1517363399000 or @2018-01-31T01:49:59Z"),
        ("100000000", "@100000000000 or @1973-03-03T09:46:40Z"),
        ("99999999999", "@99999999999000 or @5138-11-16T09:46:39Z"),
    ],
)
def test_a_time_in_seconds_is_refused_with_the_time_in_milliseconds(seconds: str, written: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_offset_spec(f"@{seconds}", "start")

    assert error.value.detail == (
        f"start takes milliseconds after @, and {seconds} looks like seconds; write {written}"
    )


@given(st.datetimes(min_value=datetime(1973, 1, 1), max_value=datetime(9000, 1, 1)), st.booleans())  # noqa: DTZ001 - UTC
def test_times_are_read_in_either_case(moment: datetime, lower: bool) -> None:
    text = f"{moment.isoformat()}Z"

    spec = parse_offset_spec("@" + (text.lower() if lower else text))

    assert spec == Since(round(moment.replace(tzinfo=UTC).timestamp() * 1000))


@given(st.text(max_size=30))
def test_every_text_is_parsed_or_refused(text: str) -> None:
    for candidate in (text, "@" + text, "-" + text):
        try:
            position = parse_offset_spec(candidate)
        except InvalidRequest:
            continue
        assert isinstance(position, OffsetSpec)
