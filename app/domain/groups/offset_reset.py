"""auto_offset_reset: where a group starts in a partition without a committed offset."""

from __future__ import annotations

import re

from app.errors.http import InvalidRequest

_BY_DURATION = "by_duration:"
_DURATION = re.compile(
    r"P(?=.)(?:(?P<days>\d{1,6})D)?(?:T(?=.)(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?"
    r"(?:(?P<seconds>\d{1,10}(?:\.\d{1,3})?)S)?)?",
    re.ASCII,
)


def check_offset_reset(text: str) -> None:
    """Refuse an invalid auto_offset_reset.

    Raises:
        InvalidRequest: With the valid values.
    """
    if text not in {"earliest", "latest", "none"} and duration_ms(text) is None:
        detail = "must be earliest, latest, none or by_duration:P…, such as by_duration:PT1H"
        raise InvalidRequest.at(None, "auto_offset_reset", detail)


def duration_ms(text: str) -> int | None:
    """Return the duration of `by_duration:` with an ISO 8601 duration, or None for any other value.

    Source: KIP-1106.
    """
    if not text.startswith(_BY_DURATION) or not (found := _DURATION.fullmatch(text, len(_BY_DURATION))):
        return None
    days, hours, minutes, seconds = (found[name] or "0" for name in ("days", "hours", "minutes", "seconds"))
    whole = ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60_000
    return whole + round(float(seconds) * 1000)
