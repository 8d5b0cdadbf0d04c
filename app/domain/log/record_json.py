"""Stored records as JSON, as answers have them. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw

from app.domain.log.record import KEY_BASE64, VALUE_BASE64, VALUE_JSON, VALUE_MASK, StoredRecord

_NULL = Raw(b"null")


class FetchedHeader(msgspec.Struct, omit_defaults=True):
    """A header; `encoding` is `base64` if the value is bytes."""

    name: str
    value: str | None
    encoding: Literal["text", "base64"] = "text"


class FetchedRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """A record; `encoding`, `key_encoding` and `headers` are omitted if they have their defaults."""

    # The encoder writes `value` and `headers` as they are stored: as Raw, and as UNSET without headers.
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: Any
    headers: list[FetchedHeader] = []
    encoding: Literal["json", "text", "base64"] = "json"
    key_encoding: Literal["text", "base64"] = "text"


class PolledRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """A record and its topic; fields with their defaults are omitted."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: Any
    headers: list[FetchedHeader] = []
    encoding: Literal["json", "text", "base64"] = "json"
    key_encoding: Literal["text", "base64"] = "text"


_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def records_out(partition: int, records: Sequence[StoredRecord]) -> list[FetchedRecord]:
    """Return the records of a partition for an answer."""
    return [
        FetchedRecord(partition, offset, timestamp_ms, None if key is None else key.decode(), Raw(value), UNSET)  # type: ignore[arg-type] # encoded as no headers
        if not encoding and headers is None and value is not None
        else _record_out(partition, offset, timestamp_ms, encoding, key, value, headers)
        for offset, timestamp_ms, encoding, key, value, headers, _ in records
    ]


def record_out(partition: int, record: StoredRecord) -> FetchedRecord:
    """Return a stored record for an answer; bytes, text and JSON are exactly those of the producer."""
    return _record_out(partition, *record[:6])


def topic_record_out(topic: str, partition: int, record: StoredRecord) -> PolledRecord:
    """Return a stored record and its topic for an answer of a poll."""
    out = _record_out(partition, *record[:6])
    return PolledRecord(
        topic, partition, out.offset, out.timestamp_ms, out.key, out.value, out.headers, out.encoding, out.key_encoding
    )


def _record_out(
    partition: int,
    offset: int,
    timestamp_ms: int,
    encoding: int,
    key: bytes | None,
    value: bytes | None,
    headers: bytes | None,
) -> FetchedRecord:
    value_encoding: Literal["json", "text", "base64"] = "json"
    if value is None:
        raw = _NULL
    elif not encoding & VALUE_MASK:
        raw = Raw(value)
    elif encoding & VALUE_MASK == VALUE_BASE64:
        value_encoding, raw = "base64", Raw(b'"' + b64encode(value) + b'"')
    else:
        value_encoding, raw = "text", Raw(encode(value.decode()))
    text = None if key is None else key.decode() if not encoding & KEY_BASE64 else b64encode(key).decode()
    raw_headers: Any = UNSET if headers is None else Raw(headers)
    return FetchedRecord(
        partition,
        offset,
        timestamp_ms,
        text,
        raw,
        raw_headers,
        value_encoding,
        "base64" if encoding & KEY_BASE64 else "text",
    )


def ndjson(records: Iterable[tuple[int, StoredRecord]]) -> bytes:
    """Return one record per line; line breaks between the tokens of a JSON value become spaces.

    Args:
        records: Each with the number of its partition.
    """
    return _encoder.encode_lines([record_out(partition, _in_one_line(record)) for partition, record in records])


def lines(records: Iterable[tuple[int, StoredRecord]]) -> list[bytes]:
    """Return each record as one line without a line end; the arguments are those of `ndjson`."""
    return [encode(record_out(partition, _in_one_line(record))) for partition, record in records]


def _in_one_line(record: StoredRecord) -> StoredRecord:
    value = record.value
    if value is None or record.encoding & VALUE_MASK != VALUE_JSON or (b"\n" not in value and b"\r" not in value):
        return record
    return record._replace(value=value.replace(b"\n", b" ").replace(b"\r", b" "))
