"""Parsing of offset specs."""

from __future__ import annotations

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
        "--1",
        "-",
        "@@1",
    ],
)
def test_any_other_text_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_offset_spec(text)

    assert error.value.detail == (
        "offset must be an offset, earliest, latest, -N for the last N records, or @ with epoch milliseconds or "
        "RFC 3339, such as @2018-02-01T00:00:00Z"
    )


@given(st.text(max_size=30))
def test_every_text_is_parsed_or_refused(text: str) -> None:
    for candidate in (text, "@" + text, "-" + text):
        try:
            position = parse_offset_spec(candidate)
        except InvalidRequest:
            continue
        assert isinstance(position, OffsetSpec)
