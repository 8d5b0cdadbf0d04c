"""From stored records to the bytes of an answer, each page encoded once."""

from __future__ import annotations

import asyncio
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence

import msgspec
import zstandard
from msgspec import UNSET, Raw, UnsetType

from app.domain.log.record import KEY_BASE64, VALUE_BASE64, VALUE_JSON, VALUE_MASK, StoredRecord

_MIN_COMPRESSED_BYTES = 512
_COMPRESSED_AT_ONCE = 256 * 1024
_NULL = Raw(b"null")


class RecordOut(msgspec.Struct, omit_defaults=True, gc=False):
    """A record as it is fetched; `encoding` and `key_encoding` stand there where they are not the default."""

    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: Raw
    encoding: str = "json"
    key_encoding: str = "text"


class RecordWithHeadersOut(msgspec.Struct, omit_defaults=True, gc=False):
    """A record with headers as it is fetched."""

    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: Raw
    headers: Raw
    encoding: str = "json"
    key_encoding: str = "text"


class TopicRecordOut(msgspec.Struct, omit_defaults=True, gc=False):
    """A record as a poll returns it, with its topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: Raw
    headers: Raw | UnsetType = UNSET
    encoding: str = "json"
    key_encoding: str = "text"


class PartitionPageOut(msgspec.Struct):
    """A page of a partition; the document knows it as FetchAnswer."""

    records: list[RecordOut | RecordWithHeadersOut]
    next_offset: int
    log_start_offset: int
    log_end_offset: int


class TopicPageOut(msgspec.Struct):
    """A page of a topic; the document knows it as FetchTopicAnswer."""

    records: list[RecordOut | RecordWithHeadersOut]
    next_cursor: str


_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def records_out(partition: int, records: Sequence[StoredRecord]) -> list[RecordOut | RecordWithHeadersOut]:
    """Return the records of a partition in the shape of the answer."""
    return [
        RecordOut(partition, offset, timestamp_ms, None if key is None else key.decode(), Raw(value))
        if not encoding and headers is None and value is not None
        else _record_out(partition, offset, timestamp_ms, encoding, key, value, headers)
        for offset, timestamp_ms, encoding, key, value, headers, _ in records
    ]


def record_out(partition: int, record: StoredRecord) -> RecordOut | RecordWithHeadersOut:
    """Return a stored record in the shape of the answer: bytes, text and JSON exactly as they were sent."""
    return _record_out(partition, *record[:6])


def topic_record_out(topic: str, partition: int, record: StoredRecord) -> TopicRecordOut:
    """Return a stored record in the shape of a poll's answer."""
    out = _record_out(partition, *record[:6])
    headers = out.headers if isinstance(out, RecordWithHeadersOut) else UNSET
    return TopicRecordOut(
        topic, partition, out.offset, out.timestamp_ms, out.key, out.value, headers, out.encoding, out.key_encoding
    )


def _record_out(
    partition: int,
    offset: int,
    timestamp_ms: int,
    encoding: int,
    key: bytes | None,
    value: bytes | None,
    headers: bytes | None,
) -> RecordOut | RecordWithHeadersOut:
    name = "json"
    if value is None:
        raw = _NULL
    elif not encoding & VALUE_MASK:
        raw = Raw(value)
    elif encoding & VALUE_MASK == VALUE_BASE64:
        name, raw = "base64", Raw(b'"' + b64encode(value) + b'"')
    else:
        name, raw = "text", Raw(encode(value.decode()))
    text = None if key is None else key.decode() if not encoding & KEY_BASE64 else b64encode(key).decode()
    key_name = "base64" if encoding & KEY_BASE64 else "text"
    if headers is None:
        return RecordOut(partition, offset, timestamp_ms, text, raw, name, key_name)
    return RecordWithHeadersOut(partition, offset, timestamp_ms, text, raw, Raw(headers), name, key_name)


def ndjson(records: Iterable[tuple[int, StoredRecord]]) -> bytes:
    """Return one record a line; line breaks between the tokens of a value become spaces."""
    return _encoder.encode_lines([record_out(partition, _in_one_line(record)) for partition, record in records])


def lines(records: Iterable[tuple[int, StoredRecord]]) -> list[bytes]:
    """Return each record as one line without its end."""
    return [encode(record_out(partition, _in_one_line(record))) for partition, record in records]


def _in_one_line(record: StoredRecord) -> StoredRecord:
    value = record.value
    if value is None or record.encoding & VALUE_MASK != VALUE_JSON or (b"\n" not in value and b"\r" not in value):
        return record
    return record._replace(value=value.replace(b"\n", b" ").replace(b"\r", b" "))


async def compressed(body: bytes, accepted: bytes | None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the body as the client accepts it, and the header that says so; a long one keeps nobody waiting."""
    if len(body) < _COMPRESSED_AT_ONCE:
        body, coding = compress(body, accepted)
    else:
        body, coding = await asyncio.to_thread(compress, body, accepted)
    return body, [] if coding is None else [(b"content-encoding", coding)]


def compress(body: bytes, accepted: bytes | None) -> tuple[bytes, bytes | None]:
    """Return the body and its Content-Encoding: zstd or gzip if the client accepts it and it is worth it."""
    if accepted is None or len(body) < _MIN_COMPRESSED_BYTES:
        return body, None
    names = {
        name.strip().lower()
        for name, _, quality in (part.partition(b";") for part in accepted.split(b","))
        if quality.replace(b" ", b"") not in {b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"}
    }
    if b"zstd" in names:
        return zstandard.ZstdCompressor(level=3).compress(body), b"zstd"
    if b"gzip" in names:
        packer = zlib.compressobj(level=4, wbits=31)
        return packer.compress(body) + packer.flush(), b"gzip"
    return body, None
