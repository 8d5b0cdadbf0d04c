"""The trace context of a request in the headers of its records. Pure.

Source: W3C Trace Context; OpenTelemetry's conventions for messaging: a creation context that a record has is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.domain.log.headers import Header, decode_headers, encode_headers
from app.domain.log.record import MAX_HEADER_BYTES, MAX_HEADERS, Record

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
_NAME = b"traceparent"


class TraceContext(NamedTuple):
    """The headers `traceparent` and `tracestate` of a request; the second is empty if there was none."""

    traceparent: str
    tracestate: str = ""


def parse(traceparent: bytes | None, tracestate: bytes | None) -> TraceContext | None:
    """Return the trace context of two headers, or None without a valid `traceparent`."""
    if traceparent is None or not _TRACEPARENT.fullmatch(parent := traceparent.decode("latin-1").strip()):
        return None
    state = "" if tracestate is None else tracestate.decode("latin-1").strip()
    return TraceContext(parent, state if _TRACESTATE.fullmatch(state) else "")


def context_of(headers: bytes | None) -> TraceContext | None:
    """Return the trace context in the stored headers of a record, or None."""
    if headers is None or _NAME not in headers.lower():
        return None
    found = {each.name.lower(): each.value for each in decode_headers(headers) if each.value is not None}
    parent, state = found.get("traceparent"), found.get("tracestate")
    return parse(None if parent is None else parent.encode(), None if state is None else state.encode())


def carry(records: Sequence[Record], context: TraceContext, max_bytes: int) -> list[Record]:
    """Return the records, each with the trace context in its headers unless it has one, or has no room for it.

    Args:
        records: The records of a request.
        context: The trace context of the request.
        max_bytes: The largest record.
    """
    added = [Header("traceparent", context.traceparent)]
    if context.tracestate:
        added.append(Header("tracestate", context.tracestate))
    size = sum(len(each.name) + len(each.value or "") for each in added)
    return [_carry(record, added, size, max_bytes) for record in records]


def _carry(record: Record, added: list[Header], size: int, max_bytes: int) -> Record:
    if record.header_bytes + size > MAX_HEADER_BYTES or record.size_bytes + size > max_bytes:
        return record
    if record.headers is None:
        headers = added
    else:
        present = decode_headers(record.headers)
        if len(present) + len(added) > MAX_HEADERS or any(each.name.lower() == "traceparent" for each in present):
            return record
        headers = [*present, *added]
    return msgspec.structs.replace(record, headers=encode_headers(headers), header_bytes=record.header_bytes + size)
