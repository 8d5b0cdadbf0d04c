"""Warnings in the answer of a produce: the records are appended, and something is very likely a mistake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from app.domain.log.offset_spec import SECONDS_BEFORE

MOST_WARNINGS = 10


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


def _detail(timestamp_ms: int) -> str:
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d")
    return (
        f"the timestamp {timestamp_ms} is a time on {moment}, because it is in milliseconds; if it is in seconds, "
        "multiply it by 1000"
    )
