"""Accept and Accept-Encoding by RFC 9110: case, weights, order, several lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.api.http.media import content_coding

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

URL = "/v1/topics/orders/records"
ENDED = "offset=earliest&max_wait_ms=0"
JSON, LINES, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
ACCEPT = [
    (None, JSON),
    ("*/*", JSON),
    ("", JSON),
    ("text/turtle", JSON),
    ("TEXT/Event-Stream", EVENTS),
    ("Application/X-NDJSON", LINES),
    ("application/jsonl", LINES),
    ("application/ndjson; charset=utf-8", LINES),
    ("text/event-stream;q=0", JSON),
    ("text/event-stream; Q=0.000", JSON),
    ("text/event-stream;q=0, application/x-ndjson;q=0", JSON),
    ("application/json, text/event-stream", JSON),
    ("text/event-stream, application/json", EVENTS),
    ("application/json;q=0.5, text/event-stream", EVENTS),
    ("application/json, text/event-stream;q=0.9", JSON),
    ("application/x-ndjson;q=0.2 , application/json;q=0.1", LINES),
    ("text/event-stream, */*", EVENTS),
    ("*/*, text/event-stream", EVENTS),
    ("application/*", JSON),
    ("application/*;q=0.5, application/x-ndjson", LINES),
    ("application/*, application/json;q=0", LINES),
    ("text/*", EVENTS),
    ("*/*;q=0.1, text/event-stream;q=0", JSON),
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
    ("text/event-stream;q=2", JSON),
    ("text/event-stream;q=x, application/json;q=0.1", JSON),
    ('text/x;title="a, text/event-stream", application/json', JSON),
    ("xtext/event-stream", JSON),
    ("text/event-stream2", JSON),
    (", ,text/event-stream,,", EVENTS),
]


async def answer(client: httpx2.AsyncClient, url: str, *accept: str) -> str:
    request = client.build_request("GET", url, headers=[("Accept", value) for value in accept])
    if not accept:
        del request.headers["accept"]
    response = await client.send(request)
    assert response.status_code == 200
    return response.headers["content-type"]


async def test_the_preferred_media_type_is_sent(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(URL, json={"value": 1})
    for accept, expected in ACCEPT:
        for url in (f"{URL}?{ENDED}", f"/v1/topics/orders/partitions/0/records?{ENDED}"):
            assert await answer(sqlite_client, url, *([] if accept is None else [accept])) == expected, accept


async def test_several_lines_of_a_header_count_as_one(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(URL, json={"value": 1})
    for accept, expected in (
        (["application/json;q=0.1", "text/event-stream"], EVENTS),
        (["application/json", "text/event-stream"], JSON),
        (["text/event-stream;q=0", "*/*"], JSON),
        (["text/turtle", "application/x-ndjson"], LINES),
    ):
        assert await answer(sqlite_client, f"{URL}?{ENDED}", *accept) == expected, accept


async def test_follow_is_a_stream_of_lines_unless_events_are_preferred(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(URL, json={"value": 1})
    for accept, expected in (
        ("*/*", LINES), ("application/json", LINES), ("text/event-stream", EVENTS), ("text/event-stream;q=0", LINES),
        ("application/x-ndjson, text/event-stream;q=0.5", LINES), ("Text/Event-Stream, */*;q=0.1", EVENTS),
    ):  # fmt: skip
        assert await answer(sqlite_client, f"{URL}?follow=true&{ENDED}", accept) == expected, accept


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (None, None), (b"", None), (b"gzip", b"gzip"), (b"GZIP", b"gzip"), (b"x-gzip", b"gzip"), (b"*", b"zstd"),
        (b"gzip, zstd", b"zstd"), (b"gzip;q=1, zstd;q=0.5", b"gzip"), (b"zstd;q=0, *", b"gzip"), (b"br", None),
        (b"gzip;q=0", None), (b"gzip; Q=0.000", None), (b"identity, gzip;q=0.5", None), (b"gzip;q=0, *;q=0.3", b"zstd"),
        (b"identity;q=0.5, gzip", b"gzip"), (b"identity;q=0", None), (b"*;q=0", None), (b"gzipped", None),
    ],
)  # fmt: skip
def test_the_preferred_content_coding_is_used(accepted: bytes | None, expected: bytes | None) -> None:
    assert content_coding(accepted, (b"zstd", b"gzip")) == expected


async def test_a_short_answer_is_sent_if_preferred(sqlite_client: httpx2.AsyncClient) -> None:
    for prefer, minimal in (
        (["return=minimal"], True), (["Return = Minimal"], True), (['return="minimal"'], True),
        (["respond-async, return=minimal; x=y"], True), (["wait=1", "return=minimal"], True),
        (["return=representation"], False), (["return=minimality"], False), (["x-return=minimal"], False),
    ):  # fmt: skip
        produced = await sqlite_client.post(URL, json={"value": 1}, headers=[("Prefer", value) for value in prefer])

        assert ("partitions" in produced.json()) == minimal, prefer
        assert produced.headers.get("preference-applied") == ("return=minimal" if minimal else None)
