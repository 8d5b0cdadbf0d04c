"""A delivery to a source, and what the checks of all schemes share. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

TOLERANCE_S = 300
MAX_SIGNATURES = 10


class Unverified(Exception):
    """A delivery is refused. The message is for the source's list of refusals, not for the sender."""


class Delivery(NamedTuple):
    """A request to the delivery path of a source.

    Attributes:
        headers: By name in lower case; the values of a repeated header are joined by commas.
        url: The public URL with its query.
        media_type: Without parameters, in lower case.
    """

    body: bytes
    headers: Mapping[bytes, bytes]
    url: str = ""
    media_type: bytes = b""


def required(delivery: Delivery, header: bytes) -> bytes:
    """Return the value of a header.

    Raises:
        Unverified: It is missing or empty.
    """
    if not (value := delivery.headers.get(header)):
        raise Unverified(f"the header {header.decode()} is missing")
    return value


def check_signatures(given: Sequence[bytes], expected: Sequence[bytes]) -> None:
    """Check that one of the signatures of a delivery is one of those expected.

    Raises:
        Unverified: None is, or there are too many.
    """
    if len(given) > MAX_SIGNATURES:
        raise Unverified(f"there are more than {MAX_SIGNATURES} signatures")
    if not equal_any(given, expected):
        raise Unverified("no signature fits")


def equal_any(given: Sequence[bytes], expected: Sequence[bytes]) -> bool:
    """Compare all with all, in a time that does not depend on which are equal."""
    found = False
    for each in given:
        for other in expected:
            found |= hmac.compare_digest(each, other)
    return found


def check_time(text: bytes, now_s: int, tolerance_s: int) -> None:
    """Check that a time in seconds since 1970 is near the server's.

    Raises:
        Unverified: It is not, or is not a number.
    """
    if not text.isdigit() or len(text) > 12:
        raise Unverified("the time is not a number of seconds")
    if abs(int(text) - now_s) > tolerance_s:
        raise Unverified(f"the time differs from the server's clock by more than {tolerance_s} s")


def string_member(body: bytes, name: str) -> str | None:
    """Return a string member of a JSON object, or None."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) and value else None


def text_of(value: bytes | None) -> str | None:
    """Return the text of a header's value; None for a missing or empty one."""
    return value.decode("latin-1") if value else None
