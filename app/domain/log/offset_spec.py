"""Offset specs: an offset, earliest, latest, the last N records, or a time. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from app.domain.log.topic import MAX_INT64
from app.errors.http import InvalidRequest

_NUMBER = re.compile(r"-?[0-9]{1,19}")
_LEAP_SECOND = re.compile(r"(.*:[0-9]{2}:)60((?:[.,][0-9]+)?(?:Z|[+-].*)?)", re.ASCII)

SECONDS_BEFORE = 100_000_000_000
"""A time in milliseconds below this number, in 1973, is almost always a time in seconds."""

_SECONDS_FROM = 100_000_000


class At(NamedTuple):
    """An offset."""

    offset: int


class Earliest(NamedTuple):
    """The log start offset."""


class Latest(NamedTuple):
    """The log end offset: that of the next record to be written."""


class Last(NamedTuple):
    """The last `records` records."""

    records: int


class Since(NamedTuple):
    """The first record whose timestamp is at or after a time."""

    timestamp_ms: int


OffsetSpec = At | Earliest | Latest | Last | Since

_RULE = (
    "a number from 0, earliest, latest, -N for the last N records, or @ with epoch milliseconds or RFC 3339, "
    "such as @2018-02-01T00:00:00Z"
)


def parse_offset_spec(text: str, field: str = "offset") -> OffsetSpec:
    """Parse an offset spec.

    Raises:
        InvalidRequest: With the forms that are allowed.
    """
    if text == "earliest":
        return Earliest()
    if text == "latest":
        return Latest()
    if text.startswith("@"):
        return Since(_parse_since(text[1:], field))
    if _NUMBER.fullmatch(text):
        number = int(text)
        if text.startswith("-"):
            return Last(-number)
        if number <= MAX_INT64:
            return At(number)
    raise _invalid(field)


def _parse_since(text: str, field: str) -> int:
    """Parse the time of an offset spec.

    Raises:
        InvalidRequest: With the forms that are allowed, or with the time in milliseconds if it is in seconds.
    """
    time_ms = parse_time(text, field)
    if _NUMBER.fullmatch(text) and _SECONDS_FROM <= time_ms < SECONDS_BEFORE:
        moment = datetime.fromtimestamp(time_ms, UTC).isoformat().replace("+00:00", "Z")
        detail = f"takes milliseconds after @, and {time_ms} looks like seconds; write @{time_ms}000 or @{moment}"
        raise InvalidRequest.at(None, field, detail)
    return time_ms


def parse_time(text: str, field: str) -> int:
    """Parse epoch milliseconds or RFC 3339 and return epoch milliseconds. A blank counts as +, as in a decoded URL.

    A leap second is the first second of the next day. Other forms of ISO 8601 are accepted where they are unambiguous:
    a date alone, an offset without a colon, and no offset for UTC.

    Raises:
        InvalidRequest: With the forms that are allowed.
    """
    if _NUMBER.fullmatch(text):
        if 0 <= (number := int(text)) <= MAX_INT64:
            return number
        raise _invalid(field)
    try:
        moment = _moment(text.upper().replace(" ", "+"))
    except (ValueError, OverflowError):
        raise _invalid(field) from None
    milliseconds = round(moment.timestamp() * 1000)
    if milliseconds < 0:
        raise _invalid(field)
    return milliseconds


def _moment(text: str) -> datetime:
    """Return the time of RFC 3339 text in capitals.

    Raises:
        ValueError, OverflowError: There is no such time.
    """
    leap = _LEAP_SECOND.fullmatch(text)
    moment = datetime.fromisoformat(text if leap is None else f"{leap[1]}59{leap[2]}")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if leap is None:
        return moment
    moment = moment.astimezone(UTC)
    if (moment.hour, moment.minute) != (23, 59):
        raise ValueError("a leap second is the last second of a day in UTC")
    return moment + timedelta(seconds=1)


def _invalid(field: str) -> InvalidRequest:
    return InvalidRequest.at(None, field, f"must be {_RULE}")
