"""Streams: server-sent events, or one record a line for as long as the client stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from app.api.http import problems
from app.api.http.call import Call, Reply, Write
from app.api.log import record_encoding
from app.api.log.fetch_query import FetchQuery
from app.broker.log.stream_reader import SharedPage, StreamOffset
from app.broker.log.streams import Follower
from app.domain.log.cursor import Cursor, PartitionCursor, decode_cursor, encode_cursor, encode_partition_cursor
from app.domain.log.offset_spec import Latest, OffsetSpec, parse_offset_spec
from app.domain.log.record import StoredRecord
from app.errors.broker_error import BrokerError
from app.errors.http import InvalidRequest

EVENTS = b"text/event-stream"
LINES = b"application/x-ndjson"

_RETRY_MS = 1_000
"""How long a browser waits before it connects again: long enough for a restart, short enough not to be noticed."""
_SMALL_BYTES = 16_384
"""What may be written without a look at whether the client has taken it; the server's bound is four times as much."""

_Records = Sequence[tuple[int, StoredRecord]]


class Form(Protocol):
    """How a stream looks on the wire.

    Attributes:
        name: Of its bytes among the forms of a page; `chunk` that of their chunk.
        content_type: Of the answer.
        comment: What says that the stream lives; empty where the form has no such thing.
    """

    name: str
    chunk: str
    content_type: bytes
    comment: bytes

    def opening(self, spot: StreamOffset) -> bytes:
        """Say where the stream starts."""

    def records(self, spot: StreamOffset, records: _Records) -> bytes:
        """Write records that follow on a spot."""

    def last_words(self, problem: bytes) -> bytes:
        """Write a problem that ends the stream."""


class ServerSentEvents:
    """`text/event-stream`, as browsers read it: each event has the record, and the id that goes on after it."""

    name = "events"
    chunk = "chunk of events"
    content_type = EVENTS
    comment = b":\n\n"

    def opening(self, spot: StreamOffset) -> bytes:
        """Give the id of the start: a browser that loses the stream before its first record goes on from here."""
        return b"id: %b\nretry: %d\n\n" % (_word(spot), _RETRY_MS)

    def records(self, spot: StreamOffset, records: _Records) -> bytes:
        """Write one event a record."""
        parts: list[bytes] = []
        offsets = list(spot.offsets)
        for (partition, record), line in zip(records, record_encoding.lines(records), strict=True):
            if spot.partition is None:
                offsets[partition] = record.offset + 1
                word = encode_cursor(Cursor(spot.topic_id, offsets))
            else:
                word = encode_partition_cursor(spot.topic_id, partition, record.offset + 1)
            parts += (b"id: ", word.encode(), b"\ndata: ", line, b"\n\n")
        return b"".join(parts)

    def last_words(self, problem: bytes) -> bytes:
        """Write an event of the type that `EventSource.onerror` hears."""
        return b"event: error\ndata: %b\n\n" % problem


class Lines:
    """One record a line, as `Accept: application/x-ndjson` has it, and nothing else."""

    name = "lines"
    chunk = "chunk of lines"
    content_type = LINES
    comment = b""

    def opening(self, spot: StreamOffset) -> bytes:
        """Say nothing."""
        _ = spot
        return b""

    def records(self, spot: StreamOffset, records: _Records) -> bytes:
        """Write one line a record."""
        _ = spot
        return record_encoding.ndjson(records)

    def last_words(self, problem: bytes) -> bytes:
        """Write the problem as the last line."""
        return problem + b"\n"


_EVENTS, _LINES = ServerSentEvents(), Lines()


def form_of(call: Call, query: FetchQuery) -> Form | None:
    """Return how the caller wants its stream, or None if it wants a page."""
    form = _EVENTS if EVENTS in (call.header(b"accept") or b"") else _LINES if query.follow else None
    if form is not None and query.max_records is not None:
        detail = "belongs to a page; a stream has max_events"
        raise InvalidRequest.at(None, "max_records", detail)
    if form is None and query.max_events is not None:
        detail = "belongs to a stream: send Accept: text/event-stream or follow=true; a page has max_records"
        raise InvalidRequest.at(None, "max_events", detail)
    return form


async def open_stream(
    call: Call, topic: str, partition: int | None, query: FetchQuery, form: Form, cursor: str | None = None
) -> Reply:
    """Return the answer that streams a partition, or the whole topic.

    Its first page is read before, so that what is wrong with the start is a problem instead of a stream.
    """
    start, rest = _start(call, query, cursor)
    page = await call.services.streams.start(topic, partition, start, rest, query.offset_reset)
    stream = Stream(call, form, page, max_events=query.max_events, max_wait_ms=query.max_wait_ms)
    headers = [(b"vary", b"accept"), (b"x-accel-buffering", b"no")]
    return Reply(b"", 200, form.content_type, headers, stream)


class Stream:
    """An answer without an end, unless it is told one.

    Args:
        call: What asked for it.
        form: How it looks.
        page: The first one.
        max_events: End after so many records.
        max_wait_ms: End so long after the start.
    """

    def __init__(
        self, call: Call, form: Form, page: SharedPage, *, max_events: int | None, max_wait_ms: int | None
    ) -> None:
        self._call = call
        self._form = form
        self._first = page
        self._left = max_events
        self._max_wait_ms = max_wait_ms

    async def write_to(self, write: Write) -> None:
        """Write until a bound is reached, the client has gone or the server stops.

        Raises:
            UnknownTopicOrPartition: The topic was deleted.
            OffsetBelowLogStart: Retention has overtaken the stream.
        """
        page: SharedPage | None = self._first
        await write(self._form.opening(self._first.spot))
        comments = bool(self._form.comment)
        streams, following = self._call.services.streams, self._first.following
        del self._first
        with (
            self._call.waiting(self._max_wait_ms) as deadline,
            Follower(streams, following, deadline, self._send, comments=comments) as follower,
        ):
            while True:
                if page is not None:
                    await self._write(write, page)
                elif follower.over:
                    return
                else:
                    await write(self._form.comment)
                if self._left == 0:
                    return
                page = None
                page = await follower.next()

    def final_part(self, error: BrokerError) -> bytes:
        """Return how a problem that ends the stream is told."""
        return self._form.last_words(msgspec.json.encode(problems.document(error, self._call.request_id)))

    async def _write(self, write: Write, page: SharedPage) -> None:
        """Write a page, or the beginning that may still be sent. A large one is waited for."""
        data = self._bytes_of(page)
        await write(data)
        if len(data) > _SMALL_BYTES and self._left != 0:
            await write(b"")

    def _send(self, page: SharedPage) -> bool:
        """Send a small page at once, where the server can and the client keeps up."""
        chunk = self._call.scope.get("millrace.chunk")
        if chunk is None or self._left is not None:
            return False
        name = self._form.chunk
        if (known := page.forms.get(name)) is None:
            data = self._bytes_of(page)
            known = page.forms[name] = b"%x\r\n%b\r\n" % (len(data), data)
        return len(known) <= _SMALL_BYTES and bool(chunk(known))

    def _bytes_of(self, page: SharedPage) -> bytes:
        """Return a page as all streams of this form send it, or the beginning that this one may still send."""
        if self._left is not None:
            if self._left < len(page.records):
                records, self._left = page.records[: self._left], 0
                return self._form.records(page.spot, records)
            self._left -= len(page.records)
        name = self._form.name
        if (known := page.forms.get(name)) is None:
            known = page.forms[name] = self._form.records(page.spot, page.records)
        return known


def _start(
    call: Call, query: FetchQuery, cursor: str | None
) -> tuple[OffsetSpec | Cursor | PartitionCursor, OffsetSpec]:
    """Return where a stream starts, and where the partitions do of which that says nothing."""
    rest = Latest() if query.offset is None else parse_offset_spec(query.offset)
    if last := call.header(b"last-event-id"):
        return decode_cursor(last.decode("latin-1")), rest
    if cursor is None:
        return rest, rest
    if query.offset is not None:
        raise InvalidRequest("send either cursor or offset, not both")
    return decode_cursor(cursor), rest


def _word(spot: StreamOffset) -> bytes:
    if spot.partition is None:
        return encode_cursor(Cursor(spot.topic_id, list(spot.offsets))).encode()
    return encode_partition_cursor(spot.topic_id, spot.partition, spot.offsets[0]).encode()
