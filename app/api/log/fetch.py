"""Fetch: a page of a partition or of a whole topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from fastapi import APIRouter

from app.api.http.call import JSON, Call, Reply
from app.api.http.forwarding import root_path_of
from app.api.http.header_fields import Header
from app.api.http.media import LINE_TYPES, preferred
from app.api.http.operations import Description, OperationRoute, check_bound, describe
from app.api.log import compression, streams
from app.api.log.fetch_query import FetchQuery, FetchTopicQuery
from app.broker.log.page_reader import PageSize, PartitionPage, TopicPage
from app.broker.log.page_reads import LARGE_PAGE_BYTES
from app.broker.waiting.deadline import Deadline
from app.domain.access.permission import on
from app.domain.log import cloud_events, record_json
from app.domain.log.cursor import Cursor, PartitionCursor, decode_cursor, encode_cursor
from app.domain.log.offset_spec import Earliest, OffsetSpec, parse_offset_spec
from app.domain.log.record import StoredRecord
from app.domain.log.record_json import FetchedRecord
from app.domain.log.topic import TopicInfo
from app.domain.memory.ledger import SMALL_BYTES
from app.errors.http import InvalidRequest
from app.errors.log import CursorExpired, InvalidCursor, OffsetAboveLogEnd, OffsetBelowLogStart, UnknownTopicOrPartition

router = APIRouter(prefix="/v1/topics/{topic}", tags=["records"], route_class=OperationRoute)

_MAX_RECORDS = 500
_EVENTS = cloud_events.BATCH.encode()
_MEDIA = ("application/x-ndjson", "text/event-stream", cloud_events.BATCH)
_STREAM_HEADERS: dict[str, dict[str, Any]] = {
    "Last-Event-ID": {
        "schema": {"type": "string", "examples": ["kgGUAQAAAI17"]},
        "description": "On streams: the id of the last event, after which it continues; wins over offset and cursor.",
    }
}
_PAGE_HEADERS: dict[str, dict[str, Any]] = {
    "Link": {
        "schema": {"type": "string"},
        "description": 'On pages: the path and query of the next page, with `rel="next"`.',
    }
}
_DEFAULTS = FetchTopicQuery()
_NO_DEADLINE = nullcontext()


class FetchAnswer(msgspec.Struct):
    """A page of a partition and its bounds, on one snapshot."""

    records: list[FetchedRecord]
    next_offset: int
    log_start_offset: int
    log_end_offset: int


class FetchTopicAnswer(msgspec.Struct):
    """A page of all partitions, merged by time."""

    records: list[FetchedRecord]
    next_cursor: str


@router.get("/records")
@describe(
    Description(
        permission=on("topic", "read"),
        answers={200: FetchTopicAnswer},
        errors=(
            UnknownTopicOrPartition,
            OffsetBelowLogStart,
            InvalidCursor,
            CursorExpired,
        ),
        examples={"topic": "orders", "max_wait_ms": 1000},
        headers=_STREAM_HEADERS,
        answer_headers=_PAGE_HEADERS,
        media=_MEDIA,
        quota="fetch",
        hot=True,
    )
)
async def fetch_topic(call: Call, topic: str, query: FetchTopicQuery) -> Reply:
    """Read all partitions of a topic, merged by time.

    The order within a partition is kept, and each partition with unread records has a share of the page.
    `next_cursor` is where the next page begins. With `Accept: application/x-ndjson` the answer is one record a line,
    with `Accept: application/cloudevents-batch+json` a batch of CloudEvents.

    With `Accept: text/event-stream` the answer is a stream of server-sent events, by default of new records: first an
    event with only an `id`, then one for each record. Send the last `id` as `Last-Event-ID` to continue after it. With
    `follow=true` it is a stream of one record a line. `max_wait_ms=1000` or `max_events=10` ends a stream.
    """
    if (stream_format := streams.format_of(call, query)) is not None:
        return await streams.open_stream(call, topic, None, query, stream_format, query.cursor)
    start = _start(query)
    services = call.services
    size = _size(call, query)
    with _deadline(call, query) as deadline:
        page, cursor = await services.fetcher.fetch_topic(
            topic, start, size, query.offset_reset, deadline, call.check_page
        )
    next_cursor = encode_cursor(cursor)
    link = _link(call, query, {"cursor": next_cursor})
    content_type = _content_type(call)
    encode = partial(_TOPIC_ENCODERS[content_type], page, next_cursor)
    body = encode() if size.max_bytes <= LARGE_PAGE_BYTES else await services.memory.run(encode)
    return await _page(call, body, content_type, link)


@router.get("/partitions/{partition}/records")
@describe(
    Description(
        permission=on("topic", "read"),
        answers={200: FetchAnswer},
        errors=(
            UnknownTopicOrPartition,
            OffsetBelowLogStart,
            OffsetAboveLogEnd,
            InvalidCursor,
            CursorExpired,
        ),
        examples={"topic": "orders", "partition": 0, "max_wait_ms": 1000},
        headers=_STREAM_HEADERS,
        answer_headers=_PAGE_HEADERS,
        media=_MEDIA,
        quota="fetch",
        hot=True,
    )
)
async def fetch_partition(call: Call, topic: str, partition: int, query: FetchQuery) -> Reply:
    """Read a partition from an offset, the start, the end or a time.

    `records` is empty only at `log_end_offset` or after `max_wait_ms`. With `max_wait_ms` the server answers as soon as
    the page has `min_bytes`. With `Accept: application/x-ndjson` the answer is one record a line, with
    `Accept: application/cloudevents-batch+json` a batch of CloudEvents.

    With `Accept: text/event-stream` or `follow=true` the answer is a stream, like that of the whole topic. Event ids of
    both kinds of stream can be used for the other kind.
    """
    if (stream_format := streams.format_of(call, query)) is not None:
        return await streams.open_stream(call, topic, partition, query, stream_format)
    start = _offset_spec(query)
    size = _size(call, query)
    content_type = _content_type(call)
    with _deadline(call, query) as deadline:
        body, next_offset = await call.services.fetcher.fetch_encoded(
            _ENCODERS[content_type],
            topic,
            partition,
            start,
            size,
            query.offset_reset,
            deadline,
            check=call.check_page,
        )
    link = _link(call, query, {"offset": str(next_offset)})
    return await _page(call, body, content_type, link)


def _topic_lines(page: TopicPage, next_cursor: str) -> bytes:
    _ = next_cursor
    return record_json.ndjson(page.records)


def _topic_json(page: TopicPage, next_cursor: str) -> bytes:
    records = [record_json.record_out(partition, record) for partition, record in page.records]
    return record_json.encode(FetchTopicAnswer(records, next_cursor)) + b"\n"


def _topic_events(page: TopicPage, next_cursor: str) -> bytes:
    _ = next_cursor
    return _batch(page.info, page.records)


def _batch(info: TopicInfo, records: Iterable[tuple[int, StoredRecord]]) -> bytes:
    """Return records as a batch of CloudEvents."""
    name, topic_id = info.name, info.topic_id
    events = (
        cloud_events.to_json(record, cloud_events.place_of(name, topic_id, partition, record))
        for partition, record in records
    )
    return cloud_events.to_batch(events) + b"\n"


def _events(page: PartitionPage) -> tuple[bytes, int]:
    return _batch(page.info, ((page.partition, record) for record in page.records)), page.next_offset


def _lines(page: PartitionPage) -> tuple[bytes, int]:
    return record_json.ndjson([(page.partition, record) for record in page.records]), page.next_offset


def _json(page: PartitionPage) -> tuple[bytes, int]:
    records = record_json.records_out(page.partition, page.records)
    answer = FetchAnswer(records, page.next_offset, page.log_start_offset, page.log_end_offset)
    return record_json.encode(answer) + b"\n", page.next_offset


_ENCODERS: dict[bytes, Callable[[PartitionPage], tuple[bytes, int]]] = {
    JSON: _json,
    streams.LINES: _lines,
    _EVENTS: _events,
}
"""By the media type of the answer."""
_TOPIC_ENCODERS: dict[bytes, Callable[[TopicPage, str], bytes]] = {
    JSON: _topic_json,
    streams.LINES: _topic_lines,
    _EVENTS: _topic_events,
}


def _offset_spec(query: FetchQuery) -> OffsetSpec:
    return Earliest() if query.offset is None else parse_offset_spec(query.offset)


def _start(query: FetchTopicQuery) -> OffsetSpec | Cursor:
    if query.cursor is None:
        return _offset_spec(query)
    if query.offset is not None:
        raise InvalidRequest("send either cursor or offset, not both")
    start = decode_cursor(query.cursor)
    return start.to_cursor(Earliest()) if isinstance(start, PartitionCursor) else start


def _deadline(call: Call, query: FetchQuery) -> AbstractContextManager[Deadline | None]:
    """Return the deadline of a read that waits, else an empty context."""
    if not query.max_wait_ms:
        return _NO_DEADLINE
    check_bound("max_wait_ms", query.max_wait_ms, call.services.max_wait_ms)
    return call.waiting(query.max_wait_ms)


def _size(call: Call, query: FetchQuery) -> PageSize:
    bound = call.services.max_records
    max_records = min(_MAX_RECORDS, bound) if query.max_records is None else query.max_records
    check_bound("max_records", max_records, bound)
    if query.min_bytes > query.max_bytes:
        detail = f"must be at most max_bytes, {query.max_bytes}"
        raise InvalidRequest.at(None, "min_bytes", detail)
    client = call.scope.get("client")
    if query.max_bytes > LARGE_PAGE_BYTES or call.services.memory.ledger.has_room(client[0] if client else ""):
        return PageSize(max_records, query.max_bytes, query.min_bytes)
    return PageSize(max_records, min(query.max_bytes, SMALL_BYTES), min(query.min_bytes, SMALL_BYTES))


def _content_type(call: Call) -> bytes:
    """Return the media type of a page."""
    media_type = preferred(call.header(b"accept"), streams.ANSWER_TYPES)
    return streams.LINES if media_type in LINE_TYPES else media_type


def _link(call: Call, query: FetchQuery, next_page: dict[str, str]) -> Header:
    """Return the Link to the next page: the same request with the next offset or cursor."""
    same = {
        name: value
        for name, value in msgspec.structs.asdict(query).items()
        if value is not None and name not in {"offset", "cursor"} and value != getattr(_DEFAULTS, name)
    }
    path = quote(root_path_of(call.scope) + call.scope["path"], safe="/")
    return b"link", f'<{path}?{urlencode(next_page | same)}>; rel="next"'.encode()


async def _page(call: Call, body: bytes, content_type: bytes, link: Header) -> Reply:
    body, headers = await compression.compressed(body, call.header(b"accept-encoding"))
    return Reply(body, 200, content_type, [link, (b"vary", b"accept, accept-encoding"), *headers])
