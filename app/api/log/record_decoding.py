"""Decode the bodies of produce requests; values stay the bytes of the request."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from app.api.http.bodies.json_bodies import (
    check_names,
    check_records,
    decode_json,
    decode_lines,
    without_bom,
)
from app.api.http.operations import MAX_INT64
from app.domain.log.json_pointer import is_deeper
from app.domain.log.record import (
    KEY_BASE64,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_KEY_BYTES,
    MAX_VALUE_DEPTH,
    VALUE_BASE64,
    VALUE_JSON,
    VALUE_TEXT,
    Record,
)
from app.errors.http import BadRequest, InvalidRequest
from app.errors.log import InvalidRecord, InvalidTimestamp


class HeaderIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A header; names may repeat. `encoding: base64` is for a value of bytes."""

    name: str
    value: str | None
    encoding: Literal["text", "base64"] = "text"


class RecordIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A record to append. Only `value` is required; `null` is a tombstone.

    `topic` and `offset` are ignored, so that a fetched record can be sent unchanged.
    """

    value: Raw
    key: str | None = None
    headers: list[HeaderIn] | dict[str, str | None] | None = None
    partition: Annotated[int, Meta(ge=0, le=MAX_INT64)] | None = None
    timestamp_ms: int | None = None
    encoding: Literal["json", "text", "base64"] = "json"
    key_encoding: Literal["text", "base64"] = "text"
    topic: Raw | UnsetType = UNSET
    offset: Raw | UnsetType = UNSET


class ProduceBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """`{"records": […]}`, or the fields of a single record."""

    records: list[RecordIn] | UnsetType = UNSET
    value: Raw | UnsetType = UNSET
    key: str | None = None
    headers: list[HeaderIn] | dict[str, str | None] | None = None
    partition: Annotated[int, Meta(ge=0, le=MAX_INT64)] | None = None
    timestamp_ms: int | None = None
    encoding: Literal["json", "text", "base64"] = "json"
    key_encoding: Literal["text", "base64"] = "text"
    topic: Raw | UnsetType = UNSET
    offset: Raw | UnsetType = UNSET


class _PlainRecord(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    value: Raw
    key: str | None = None


class _PlainRecords(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    records: list[_PlainRecord]


class _RecordCount(msgspec.Struct, gc=False):
    records: Sequence[Raw] = ()


_plain_record = msgspec.json.Decoder(_PlainRecord)
_plain_records = msgspec.json.Decoder(_PlainRecords)
_record_count = msgspec.json.Decoder(_RecordCount)
_body = msgspec.json.Decoder(ProduceBody)
_record = msgspec.json.Decoder(RecordIn)
_raw = msgspec.json.Decoder(Raw)
_string = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


def decode_json_body(body: bytes, max_records: int) -> list[Record]:
    """Decode `{"records": […]}` or a single record.

    The number of records is checked before the records are built.

    Raises:
        BadRequest: The body is not JSON.
        InvalidRequest, InvalidRecord, InvalidTimestamp: With the index of the record.
    """
    body = without_bom(body)
    if body.lstrip()[:1] == b"[":
        raise InvalidRequest('send {"records": […]} instead of a list, or one value per line with ?lines=values')
    if body.count(b"{") > max_records + 1:
        count = len(decode_json(_record_count, body).records)
        if count > max_records:
            check_records(count, max_records)
    if (records := _decode_plain(body)) is not None:
        check_names(body)
        check_records(len(records), max_records)
        return records
    request: ProduceBody = decode_json(_body, body, several="send one record per line with ?lines=records")
    check_names(body)
    if request.records is UNSET:
        if request.value is UNSET:
            message = 'send {"records": […]} or one record with a value, such as {"value": "hi"}'
            raise InvalidRequest.at(None, "records", "is required", message=message)
        return records_of([request])
    if request != ProduceBody(records=request.records):
        raise InvalidRequest("send either records or the fields of a single record, not both")
    check_records(len(request.records), max_records)
    return records_of(request.records)


def decode_record_lines(body: bytes, max_records: int) -> list[Record]:
    """Decode one record object per line; blank lines are skipped.

    Raises:
        BadRequest: A line is not JSON.
        InvalidRequest, InvalidRecord, InvalidTimestamp: With the index of the record.
    """
    try:
        return _plain_records_of(decode_lines(_plain_record, body, max_records))
    except (BadRequest, InvalidRequest):
        return records_of(decode_lines(_record, body, max_records))


def records_of(records: Sequence[RecordIn | ProduceBody]) -> list[Record]:
    """Return the records of decoded request structs; `value` must be set.

    Raises:
        BadRequest, InvalidRequest, InvalidRecord, InvalidTimestamp: With the index of the record.
    """
    return [_record_of(index, record) for index, record in enumerate(records)]


def decode_raw(
    body: bytes, media_type: bytes, charset: str, *, key: str | None, partition: int | None, timestamp_ms: int | None
) -> Record:
    """Return one record whose value is the whole body.

    Args:
        body: The value. Stored as JSON, text or bytes, depending on the media type.
        media_type: Without parameters, in lower case; empty without a Content-Type.
        charset: In lower case; empty without one.
        key: The record's key.
        partition: The record's partition.
        timestamp_ms: The record's timestamp.

    Raises:
        BadRequest: The media type is JSON, and the body is not.
        InvalidRecord, InvalidTimestamp: The key or the timestamp is out of bounds.
    """
    value: bytes | None = body
    encoding = VALUE_BASE64
    if media_type.endswith(b"+json"):
        value = bytes(decode_json(_raw, body))
        check_depth(0, value)
        encoding = VALUE_JSON
        value = None if value == b"null" else value
    elif media_type.startswith(b"text/") and charset in {"", "utf-8", "utf8"} and _is_utf8(body):
        encoding = VALUE_TEXT
    key_bytes = None if key is None else key.encode()
    check_key(0, key_bytes)
    return Record(-1 if partition is None else partition, _timestamp(0, timestamp_ms), key_bytes, value, None, encoding)


def _decode_plain(body: bytes) -> list[Record] | None:
    """Return the records of a body that has only keys and JSON values, or None for all other bodies.

    Most bodies have only keys and JSON values, and this decoder needs half the time. The full decoder reports the
    errors.
    """
    try:
        if not body.isascii():
            body.decode()
        if not body.startswith(b'{"records"'):
            return _plain_records_of([_plain_record.decode(body)])
        return _plain_records_of(_plain_records.decode(body).records)
    except (UnicodeDecodeError, RecursionError, msgspec.DecodeError):
        return None


def _plain_records_of(plain_records: list[_PlainRecord]) -> list[Record]:
    records = []
    for index, plain in enumerate(plain_records):
        value = bytes(plain.value)
        if len(value) > MAX_VALUE_DEPTH:
            check_depth(index, value)
        key = None
        if plain.key is not None:
            key = plain.key.encode()
            if len(key) > MAX_KEY_BYTES:
                check_key(index, key)
        records.append(Record(-1, -1, key, None if value == b"null" else value, None, VALUE_JSON))
    return records


def _record_of(index: int, record: RecordIn | ProduceBody) -> Record:
    encoding, value = _value(index, bytes(record.value), record.encoding)  # type: ignore[arg-type] # the callers refuse UNSET
    if value is not None and encoding == VALUE_JSON:
        check_depth(index, value)
    key = None
    if record.key is not None:
        key = record.key.encode()
        if record.key_encoding == "base64":
            key = _base64(index, "key", key)
            encoding |= KEY_BASE64
        if len(key) > MAX_KEY_BYTES:
            check_key(index, key)
    headers, header_bytes = _headers(index, record.headers) if record.headers else (None, 0)
    return Record(
        -1 if record.partition is None else record.partition,
        -1 if record.timestamp_ms is None else _timestamp(index, record.timestamp_ms),
        key,
        value,
        headers,
        encoding,
        header_bytes,
    )


def _value(index: int, raw: bytes, encoding: str) -> tuple[int, bytes | None]:
    if raw == b"null":
        return VALUE_JSON, None
    if encoding == "json":
        return VALUE_JSON, raw
    if not raw.startswith(b'"'):
        raise InvalidRequest.at(index, "value", "must be a JSON string with this encoding")
    text = _string.decode(raw).encode()
    return (VALUE_TEXT, text) if encoding == "text" else (VALUE_BASE64, _base64(index, "value", text))


def _headers(index: int, headers: list[HeaderIn] | dict[str, str | None]) -> tuple[bytes, int]:
    """Return the headers as stored, and the bytes of their names and values.

    They are stored as the JSON list that a fetch returns.
    """
    if len(headers) > MAX_HEADERS:
        raise InvalidRecord.at(index, "headers", f"must be at most {MAX_HEADERS} headers")
    if isinstance(headers, dict):
        headers = [HeaderIn(name, value) for name, value in headers.items()]
    size = 0
    stored: list[dict[str, str | None]] = []
    for header in headers:
        entry: dict[str, str | None] = {"name": header.name, "value": header.value}
        size += len(header.name.encode())
        if header.value is not None:
            value = header.value.encode()
            if header.encoding == "base64":
                value = _base64(index, "headers", value)
                entry["encoding"] = "base64"
            size += len(value)
        stored.append(entry)
    if size > MAX_HEADER_BYTES:
        raise InvalidRecord.at(index, "headers", f"must have at most {MAX_HEADER_BYTES} bytes together")
    return _encode(stored), size


def _base64(index: int, field: str, value: bytes) -> bytes:
    try:
        return b64decode(value, validate=True)
    except binascii.Error:
        raise InvalidRequest.at(index, field, "must be base64") from None


def _timestamp(index: int, timestamp_ms: int | None) -> int:
    if timestamp_ms is None:
        return -1
    if not 0 <= timestamp_ms <= MAX_INT64:
        raise InvalidTimestamp.at(index, "timestamp_ms", "must be milliseconds since 1970, from 0")
    return timestamp_ms


def check_key(index: int, key: bytes | None) -> None:
    """Refuse a key that is too long.

    Raises:
        InvalidRecord: With the index of the record.
    """
    if key is not None and len(key) > MAX_KEY_BYTES:
        raise InvalidRecord.at(index, "key", f"must be at most {MAX_KEY_BYTES} bytes")


def check_depth(index: int, value: bytes) -> None:
    """Refuse a JSON value that is nested too deeply.

    Raises:
        BadRequest: With the index of the record.
    """
    if is_deeper(value, MAX_VALUE_DEPTH):
        message = f"record {index}: the value is nested more than {MAX_VALUE_DEPTH} levels deep"
        raise BadRequest.at(index, "value", "is nested too deeply", message=message)


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
