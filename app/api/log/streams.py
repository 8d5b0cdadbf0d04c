"""Streams: server-sent events, or one record a line."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from app.api.http import problems
from app.api.http.call import JSON, Call, Reply, Write
from app.api.http.media import LINE_TYPES, preferred
from app.api.log.fetch_query import FetchQuery
from app.broker.log.stream_reader import SharedPage, StreamOffset
from app.broker.log.streams import OpenStream
from app.broker.waiting.work_gate import WorkGate
from app.domain.log import cloud_events, record_json
from app.domain.log.cursor import Cursor, PartitionCursor, decode_cursor, encode_cursor, encode_partition_cursor
from app.domain.log.offset_spec import Latest, OffsetSpec, parse_offset_spec
from app.domain.log.record import StoredRecord
from app.errors.broker_error import BrokerError
from app.errors.database import ServiceUnavailable
from app.errors.http import InvalidRequest

EVENTS = b"text/event-stream"
LINES = b"application/x-ndjson"

_STREAM_TYPES = (LINES, *sorted(LINE_TYPES - {LINES}), EVENTS)
ANSWER_TYPES = (JSON, *_STREAM_TYPES, cloud_events.BATCH.encode())
"""The media types of a page and a stream, the default first."""

_RETRY_MS = 1_000
"""Pause of a browser before it connects again: about as long as a restart takes."""
_SMALL_BYTES = 16_384
"""A page up to this size is written without waiting for the client; the buffer of the server holds four times this."""

_BEHIND_S = 1.0
"""A client that takes longer to read a page, of 64 KiB or one record, is behind."""
_BEHIND = "the client reads too slowly; continue after the last record that it has, with Last-Event-ID or a cursor"

_Records = Sequence[tuple[int, StoredRecord]]


class StreamFormat(Protocol):
    """Encodes a stream for its media type.

    Attributes:
        name: Key of the encoded records in `SharedPage.encoded`.
        chunk: Key of the encoded records as a chunk of the chunked transfer coding.
        content_type: Media type of the answer.
        comment: What keeps an idle connection open; readers skip it.
    """

    name: str
    chunk: str
    content_type: bytes
    comment: bytes

    def first_bytes(self, start: StreamOffset) -> bytes:
        """Encode the start of the stream."""

    def records(self, start: StreamOffset, records: _Records) -> bytes:
        """Encode the records that begin at an offset."""

    def problem(self, document: bytes) -> bytes:
        """Encode a problem document that ends the stream."""


class ServerSentEvents:
    """`text/event-stream`: each event has a record, and the id to continue after it."""

    name = "events"
    chunk = "chunk of events"
    content_type = EVENTS
    comment = b":\n\n"

    def first_bytes(self, start: StreamOffset) -> bytes:
        """Encode the id of the start, which a browser sends if the stream ends before its first record."""
        return b"id: %b\nretry: %d\n\n" % (_event_id(start), _RETRY_MS)

    def records(self, start: StreamOffset, records: _Records) -> bytes:
        """Encode one event for each record."""
        parts: list[bytes] = []
        offsets = list(start.offsets)
        for (partition, record), line in zip(records, record_json.lines(records), strict=True):
            if start.partition is None:
                offsets[partition] = record.offset + 1
                event_id = encode_cursor(Cursor(start.topic_id, offsets))
            else:
                event_id = encode_partition_cursor(start.topic_id, partition, record.offset + 1)
            parts += (b"id: ", event_id.encode(), b"\ndata: ", line, b"\n\n")
        return b"".join(parts)

    def problem(self, document: bytes) -> bytes:
        """Encode an event of the type `error`, for which browsers call `EventSource.onerror`."""
        return b"event: error\ndata: %b\n\n" % document


class Lines:
    """`application/x-ndjson`: one record a line; an idle stream sends blank lines, so that no proxy ends it."""

    name = "lines"
    chunk = "chunk of lines"
    content_type = LINES
    comment = b"\n"

    def first_bytes(self, start: StreamOffset) -> bytes:
        """Return no bytes."""
        _ = start
        return b""

    def records(self, start: StreamOffset, records: _Records) -> bytes:
        """Encode one line for each record."""
        _ = start
        return record_json.ndjson(records)

    def problem(self, document: bytes) -> bytes:
        """Encode the problem as the last line."""
        return document + b"\n"


_EVENTS, _LINES = ServerSentEvents(), Lines()


def format_of(call: Call, query: FetchQuery) -> StreamFormat | None:
    """Return the format of the stream that the request accepts, or None for a page.

    Raises:
        InvalidRequest: A parameter of a page is given for a stream, or one of a stream for a page.
    """
    media_type = preferred(call.header(b"accept"), _STREAM_TYPES if query.follow else ANSWER_TYPES)
    stream_format = _EVENTS if media_type == EVENTS else _LINES if query.follow else None
    if stream_format is not None and query.max_records is not None:
        detail = "belongs to a page; a stream has max_events"
        raise InvalidRequest(f"max_records {detail}", errors=[{"field": "max_records", "detail": detail}])
    if stream_format is None and query.max_events is not None:
        detail = "belongs to a stream: send Accept: text/event-stream or follow=true; a page has max_records"
        raise InvalidRequest(f"max_events {detail}", errors=[{"field": "max_events", "detail": detail}])
    return stream_format


async def open_stream(
    call: Call,
    topic: str,
    partition: int | None,
    query: FetchQuery,
    stream_format: StreamFormat,
    cursor: str | None = None,
) -> Reply:
    """Return the answer that streams a partition, or the whole topic.

    The first page is read before the answer starts, so that an invalid start is answered by a problem.
    """
    call.services.limits.check_wait(call.limited_as)
    start, rest = _start(call, query, cursor)
    page = await call.services.streams.start(topic, partition, start, rest, query.offset_reset)
    stream = Stream(call, stream_format, page, max_events=query.max_events, max_wait_ms=query.max_wait_ms)
    headers = [(b"vary", b"accept"), (b"x-accel-buffering", b"no")]
    return Reply(b"", 200, stream_format.content_type, headers, stream)


class Stream:
    """The body of a stream. Without bounds it ends when the client disconnects.

    Args:
        call: The request.
        stream_format: Encodes the records.
        page: The first page.
        max_events: End after this number of records.
        max_wait_ms: End this long after the start.
    """

    __slots__ = ("_call", "_format", "_left", "_max_wait_ms", "_next_offset", "_page", "_start_offset")

    def __init__(
        self,
        call: Call,
        stream_format: StreamFormat,
        page: SharedPage,
        *,
        max_events: int | None,
        max_wait_ms: int | None,
    ) -> None:
        self._call = call
        self._format = stream_format
        self._page: SharedPage | None = page  # a stream that waits keeps no page
        self._start_offset = page.start_offset
        self._next_offset = page.next_offset
        self._left = max_events
        self._max_wait_ms = max_wait_ms

    async def write_to(self, write: Write) -> None:
        """Write until a bound is reached, the client disconnects or the server stops.

        Raises:
            UnknownTopicOrPartition: The topic was deleted.
            OffsetBelowLogStart: Retention deleted the next record.
        """
        await write(self._format.first_bytes(self._start_offset))
        streams, offset = self._call.services.streams, self._next_offset
        with (
            self._call.waiting(self._max_wait_ms) as deadline,
            OpenStream(streams, offset, deadline, self._send, comments=True) as stream,
        ):
            while True:
                if self._page is not None:
                    await self._write(write, stream)
                elif stream.expired:
                    return
                else:
                    await write(self._format.comment)
                if self._left == 0:
                    return
                self._page = await stream.next()

    def final_part(self, error: BrokerError) -> bytes:
        """Return the problem that ends the stream."""
        return self._format.problem(msgspec.json.encode(problems.document(error, self._call.request_id)))

    async def _write(self, write: Write, stream: OpenStream) -> None:
        """Write the page, or its records up to `max_events`. After a large page, wait until the client has caught up.

        The large pages that clients have not read have a limit together, and few of them are written at once. A page
        beyond the limit is dropped and read again when it has room; a client that is behind makes room, because its
        stream ends.

        Raises:
            ServiceUnavailable: The client is behind, and others wait for room.
            UnknownTopicOrPartition: The topic was deleted.
            OffsetBelowLogStart: Retention deleted the records meanwhile.
        """
        page, self._page = self._page, None
        if page is None:
            return
        size = page.size_bytes
        if size <= _SMALL_BYTES:
            await write(self._encode(page))
            return
        streams, offset = self._call.services.streams, page.start_offset
        if not streams.unread.has_room(size):
            page = None
        await streams.unread.enter(size)
        try:
            if page is None:
                page = await streams.read(offset)
                stream.move(page.next_offset)
            async with streams.write_turns:
                await write(self._encode(page))
            page = None
            if self._left != 0:
                await self._catch_up(write, streams.unread)
        finally:
            streams.unread.leave(size)

    async def _catch_up(self, write: Write, unread: WorkGate) -> None:
        """Wait until the client has read what was written."""
        while True:
            try:
                async with asyncio.timeout(_BEHIND_S):
                    await write(b"")
            except TimeoutError:
                if unread.waiting:
                    raise ServiceUnavailable(_BEHIND) from None
            else:
                return

    def _send(self, page: SharedPage) -> bool:
        """Send a small page at once, if the server supports it and the client keeps up."""
        send_chunk = self._call.scope.get("millrace.chunk")
        if send_chunk is None or self._left is not None:
            return False
        name = self._format.chunk
        if (chunk := page.encoded.get(name)) is None:
            data = self._encode(page)
            chunk = page.encoded[name] = b"%x\r\n%b\r\n" % (len(data), data)
        if len(chunk) > _SMALL_BYTES or not send_chunk(chunk):
            return False
        self._call.count_sent(len(chunk))
        return True

    def _encode(self, page: SharedPage) -> bytes:
        """Return the bytes of a page, shared by all streams of this format, or its records up to `max_events`."""
        if self._left is not None:
            if self._left < len(page.records):
                records, self._left = page.records[: self._left], 0
                return self._format.records(page.start_offset, records)
            self._left -= len(page.records)
        name = self._format.name
        if (data := page.encoded.get(name)) is None:
            data = page.encoded[name] = self._format.records(page.start_offset, page.records)
        return data


def _start(
    call: Call, query: FetchQuery, cursor: str | None
) -> tuple[OffsetSpec | Cursor | PartitionCursor, OffsetSpec]:
    """Return where a stream starts, and where the partitions start that its cursor does not contain."""
    rest = Latest() if query.offset is None else parse_offset_spec(query.offset)
    if last := call.header(b"last-event-id"):
        return decode_cursor(last.decode("latin-1")), rest
    if cursor is None:
        return rest, rest
    if query.offset is not None:
        raise InvalidRequest("send either cursor or offset, not both")
    return decode_cursor(cursor), rest


def _event_id(offset: StreamOffset) -> bytes:
    if offset.partition is None:
        return encode_cursor(Cursor(offset.topic_id, list(offset.offsets))).encode()
    return encode_partition_cursor(offset.topic_id, offset.partition, offset.offsets[0]).encode()
