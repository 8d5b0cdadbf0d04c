"""The trace context in headers of requests and records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.log.record import MAX_HEADERS, VALUE_JSON, Record
from app.domain.log.trace_context import TraceContext, carry, context_of, parse

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTEXT = TraceContext(PARENT, "congo=t61rcWkgMzE")
SIZE = len("traceparent") + len(PARENT) + len("tracestate") + len("congo=t61rcWkgMzE")


def record(*headers: tuple[str, str]) -> Record:
    encoded = json.dumps([{"name": name, "value": value} for name, value in headers]).encode() if headers else None
    size = sum(len(name) + len(value) for name, value in headers)
    return Record(0, 1, b"k", b"1", encoded, VALUE_JSON, size)


def headers_of(found: Record) -> list[tuple[str, str]]:
    decoded: list[dict[str, Any]] = json.loads(found.headers or b"[]")
    return [(each["name"], each["value"]) for each in decoded]


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"\xff",
    ],
)
def test_an_invalid_traceparent_is_no_context(given: bytes) -> None:
    assert parse(given, b"a=1") is None


def test_an_invalid_tracestate_is_left_out() -> None:
    assert parse(PARENT.encode(), b"a=" + b"1" * 600) == TraceContext(PARENT)
    assert parse(PARENT.encode(), b"congo=t61rcWkgMzE") == CONTEXT


def test_a_record_gets_the_context_after_its_headers_and_counts_its_bytes() -> None:
    plain, with_header = carry([record(), record(("a", "b"))], CONTEXT, 1_000)

    added = [("traceparent", PARENT), ("tracestate", "congo=t61rcWkgMzE")]
    assert headers_of(plain) == added
    assert headers_of(with_header) == [("a", "b"), *added]
    assert (plain.header_bytes, with_header.header_bytes) == (SIZE, SIZE + 2)
    assert context_of(with_header.headers) == CONTEXT


def test_a_record_keeps_a_context_of_its_own() -> None:
    own = record(("Traceparent", "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-00"))

    assert carry([own], CONTEXT, 1_000) == [own]


def test_a_record_without_room_is_left_as_it_is() -> None:
    full = record(*((str(number), "") for number in range(MAX_HEADERS - 1)))
    large = record()

    assert carry([full], CONTEXT, 1_000) == [full]
    assert carry([large], CONTEXT, large.size_bytes + SIZE - 1) == [large]
    assert carry([large], CONTEXT, large.size_bytes + SIZE) != [large]
