"""Warnings in answers: the request was carried out, and something in it is very likely a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from app.domain.log.durations import looks_like_seconds
from app.domain.log.headers import values_of
from app.domain.log.offset_spec import SECONDS_BEFORE
from app.domain.log.record import Record
from app.domain.queues.record_summary import DELIVER_AT

MOST_WARNINGS = 10
_DELIVER_AT_BYTES = DELIVER_AT.encode()
_DIGITS = re.compile(r"[0-9]{1,15}")


class ProduceWarning(msgspec.Struct):
    """A record of the request that is appended, but is very likely a mistake."""

    code: str
    detail: str
    index: int


def timestamp_warnings(timestamps_ms: Sequence[int]) -> list[ProduceWarning]:
    """Return warnings of the first records whose timestamp is probably in seconds.

    Args:
        timestamps_ms: Timestamps of the appended records, in request order.
    """
    if timestamps_ms and min(timestamps_ms) >= SECONDS_BEFORE:
        return []
    early = [index for index, time_ms in enumerate(timestamps_ms) if time_ms < SECONDS_BEFORE]
    return [
        ProduceWarning("TIMESTAMP_IN_SECONDS", _detail(timestamps_ms[each]), each) for each in early[:MOST_WARNINGS]
    ]


def delivery_time_warnings(records: Sequence[Record]) -> list[ProduceWarning]:
    """Return warnings of the first records with a header `deliver_at_ms` that delays no delivery.

    Args:
        records: In request order.
    """
    if not [record for record in records if record.headers is not None]:
        return []
    return [
        ProduceWarning(*warning, index)
        for index, record in enumerate(records)
        if record.headers is not None and _DELIVER_AT_BYTES in record.headers
        for warning in _delivery_time_warnings(record.headers)
    ][:MOST_WARNINGS]


def _delivery_time_warnings(headers: bytes) -> Iterator[tuple[str, str]]:
    """Yield code and detail of the warnings of one record's headers."""
    for value in values_of(headers, DELIVER_AT):
        if not _DIGITS.fullmatch(value):
            detail = (
                f"the header {DELIVER_AT} is not a number of milliseconds since 1970, such as 1798761600000; "
                "queues deliver the record at once"
            )
            yield "DELIVERY_TIME_INVALID", detail
        elif 0 < int(value) < SECONDS_BEFORE:
            detail = (
                f"the header {DELIVER_AT} {value} is a time on {_date(int(value))}, because it is in milliseconds, and "
                "queues deliver the record at once; if it is in seconds, multiply it by 1000"
            )
            yield "DELIVERY_TIME_IN_SECONDS", detail


def _detail(timestamp_ms: int) -> str:
    return (
        f"the timestamp {timestamp_ms} is a time on {_date(timestamp_ms)}, because it is in milliseconds; "
        "if it is in seconds, multiply it by 1000"
    )


def _date(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")


class FieldWarning(msgspec.Struct):
    """A field of the request that is in force, but is very likely a mistake."""

    code: str
    detail: str
    field: str


def duration_warning(field: str, duration: object, longest_ms: int | None = None) -> list[FieldWarning]:
    """Return a warning if a field in milliseconds was probably given in seconds.

    Args:
        field: Its name in the request, such as `config.retention_ms`.
        duration: Its value; None and UNSET are no durations.
        longest_ms: The greatest value that the field takes.
    """
    if not isinstance(duration, int) or not looks_like_seconds(duration, longest_ms):
        return []
    detail = (
        f"{field} is {duration / 1000:g} seconds, because it is in milliseconds; "
        f"if {duration} is in seconds, send {duration * 1000}"
    )
    return [FieldWarning("DURATION_IN_SECONDS", detail, field)]
