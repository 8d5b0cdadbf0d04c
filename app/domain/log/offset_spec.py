"""Offset specs: an offset, earliest, latest, the last N records, or a time. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from app.domain.log.topic import MAX_INT64
from app.errors.http import InvalidRequest

_NUMBER = re.compile(r"-?[0-9]{1,19}")


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
    "an offset, earliest, latest, -N for the last N records, or @ with epoch milliseconds or RFC 3339, "
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
        return Since(parse_time(text[1:], field))
    if _NUMBER.fullmatch(text):
        number = int(text)
        if text.startswith("-"):
            return Last(-number)
        if number <= MAX_INT64:
            return At(number)
    raise _invalid(field)


def parse_time(text: str, field: str) -> int:
    """Parse epoch milliseconds or RFC 3339 and return epoch milliseconds. A blank counts as +, as in a decoded URL.

    Raises:
        InvalidRequest: With the forms that are allowed.
    """
    if _NUMBER.fullmatch(text):
        if 0 <= (number := int(text)) <= MAX_INT64:
            return number
        raise _invalid(field)
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise _invalid(field) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    milliseconds = round(moment.timestamp() * 1000)
    if milliseconds < 0:
        raise _invalid(field)
    return milliseconds


def _invalid(field: str) -> InvalidRequest:
    return InvalidRequest.at(None, field, f"must be {_RULE}")
