"""From the body of a produce request to records. Values stay the bytes that were sent."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from app.api.http.json_bodies import check_records, decode_json, decode_lines, is_deeper
from app.api.http.wire import MAX_INT64
from app.domain.log.offset_spec import parse_time
from app.domain.log.record import (
    KEY_BASE64,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_KEY_BYTES,
    VALUE_BASE64,
    VALUE_JSON,
    VALUE_TEXT,
    Record,
)
from app.errors.http import BadRequest, InvalidRequest
from app.errors.log import InvalidRecord, InvalidTimestamp

MAX_VALUE_DEPTH = 500
_LONGEST_LIST = 1_048_576


class HeaderIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A header; names may repeat. `encoding: base64` for a value of bytes."""

    name: str
    value: str | None
    encoding: Literal["text", "base64"] = "text"


class RecordIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A record to append; only `value` is required, and `null` is a tombstone.

    `topic` and `offset` of a fetched record are ignored, so that it can be sent as it is.
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
    """`{"records": […]}`, or one record alone."""

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


class _Counted(msgspec.Struct, gc=False):
    records: Sequence[Raw] = ()


_plain_record = msgspec.json.Decoder(_PlainRecord)
_plain_records = msgspec.json.Decoder(_PlainRecords)
_counted = msgspec.json.Decoder(_Counted)
_body = msgspec.json.Decoder(ProduceBody)
_record = msgspec.json.Decoder(RecordIn)
_raw = msgspec.json.Decoder(Raw)
_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_string = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


def decode_json_body(body: bytes, most: int) -> list[Record]:
    """Decode `{"records": […]}` or a single record; more than `most` are refused before they are built.

    Raises:
        BadRequest: It is not JSON.
        InvalidRequest, InvalidRecord, InvalidTimestamp: With the record's index.
    """
    if body.lstrip()[:1] == b"[":
        raise InvalidRequest('send {"records": […]} instead of a list, or one value a line with ?lines=values')
    if body.count(b"{") > most + 1 and (found := len(decode_json(_counted, body).records)) > most:
        check_records(found, most)
    if (plain := _plain(body)) is not None:
        check_records(len(plain), most)
        return plain
    request: ProduceBody = decode_json(_body, body)
    if request.records is UNSET:
        if request.value is UNSET:
            message = 'send {"records": […]} or one record with a value, such as {"value": "hi"}'
            raise InvalidRequest.at(None, "records", "is required", message=message)
        return _records([request])
    if request != ProduceBody(records=request.records):
        raise InvalidRequest("send either records or the fields of a single record, not both")
    check_records(len(request.records), most)
    return _records(request.records)


def decode_record_lines(body: bytes, most: int) -> list[Record]:
    """Decode one record object a line; blank lines are skipped.

    Raises:
        BadRequest: It is not JSON.
        InvalidRequest, InvalidRecord, InvalidTimestamp: With the record's index.
    """
    try:
        return _of_plain(decode_lines(_plain_record, body, most))
    except (BadRequest, InvalidRequest):
        return _records(decode_lines(_record, body, most))


def decode_value_lines(body: bytes, key_from: str | None, timestamp_from: str | None, most: int) -> list[Record]:
    """Decode one value a line, taking key and time out of it where told.

    Args:
        body: JSON values, one a line; blank lines are skipped.
        key_from: JSON pointer to the key: a string gives its characters, a number its spelling, null no key.
        timestamp_from: JSON pointer to the time: epoch milliseconds or RFC 3339.
        most: Records that a request may have.

    Raises:
        BadRequest: It is not JSON.
        InvalidRequest, InvalidRecord, InvalidTimestamp: With the record's index.
    """
    values: list[Raw] = decode_lines(_raw, body, most)
    records = []
    for index, raw in enumerate(values):
        value = bytes(raw)
        _check_depth(index, value)
        key = None if key_from is None else _key_at(index, value, key_from)
        timestamp_ms = -1 if timestamp_from is None else _time_at(index, value, timestamp_from)
        records.append(Record(-1, timestamp_ms, key, None if value == b"null" else value, None, VALUE_JSON))
    return records


def records_of(given: Sequence[RecordIn]) -> list[Record]:
    """Return records that were decoded as part of another body.

    Raises:
        BadRequest, InvalidRequest, InvalidRecord, InvalidTimestamp: With the record's index.
    """
    return _records(given)


def decode_raw(
    body: bytes, media_type: bytes, charset: str, *, key: str | None, partition: int | None, timestamp_ms: int | None
) -> Record:
    """Return the one record whose value is the body, byte for byte.

    Raises:
        BadRequest: The type says JSON, and it is not.
        InvalidRecord, InvalidTimestamp: Key or time break a bound.
    """
    value: bytes | None = body
    encoding = VALUE_BASE64
    if media_type.endswith(b"+json"):
        value = bytes(decode_json(_raw, body))
        _check_depth(0, value)
        encoding = VALUE_JSON
        value = None if value == b"null" else value
    elif media_type.startswith(b"text/") and charset in {"", "utf-8", "utf8"} and _is_utf8(body):
        encoding = VALUE_TEXT
    key_bytes = None if key is None else key.encode()
    _check_key(0, key_bytes)
    return Record(-1 if partition is None else partition, _time(0, timestamp_ms), key_bytes, value, None, encoding)


def _plain(body: bytes) -> list[Record] | None:
    """Return the records of a body that has just keys and JSON values, or None for any other and a faulty one.

    Most bodies are such, and decode in half the time. What is wrong with another, the full decoder says.
    """
    try:
        if not body.isascii():
            body.decode()
        if not body.startswith(b'{"records"'):
            return _of_plain([_plain_record.decode(body)])
        return _of_plain(_plain_records.decode(body).records)
    except (UnicodeDecodeError, RecursionError, msgspec.DecodeError):
        return None


def _of_plain(given: list[_PlainRecord]) -> list[Record]:
    records = []
    for index, one in enumerate(given):
        value = bytes(one.value)
        if len(value) > MAX_VALUE_DEPTH:
            _check_depth(index, value)
        key = None
        if one.key is not None:
            key = one.key.encode()
            if len(key) > MAX_KEY_BYTES:
                _check_key(index, key)
        records.append(Record(-1, -1, key, None if value == b"null" else value, None, VALUE_JSON))
    return records


def _records(given: Sequence[RecordIn | ProduceBody]) -> list[Record]:
    return [_record_of(index, one) for index, one in enumerate(given)]


def _record_of(index: int, given: RecordIn | ProduceBody) -> Record:
    encoding, value = _value(index, bytes(given.value), given.encoding)  # type: ignore[arg-type] # the callers refuse UNSET
    if value is not None and encoding == VALUE_JSON:
        _check_depth(index, value)
    key = None
    if given.key is not None:
        key = given.key.encode()
        if given.key_encoding == "base64":
            key = _base64(index, "key", key)
            encoding |= KEY_BASE64
        if len(key) > MAX_KEY_BYTES:
            _check_key(index, key)
    headers, header_bytes = _headers(index, given.headers) if given.headers else (None, 0)
    return Record(
        -1 if given.partition is None else given.partition,
        -1 if given.timestamp_ms is None else _time(index, given.timestamp_ms),
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


def _headers(index: int, given: list[HeaderIn] | dict[str, str | None]) -> tuple[bytes, int]:
    """Return headers as they are stored, which is the JSON list of them as it is fetched, and their bytes."""
    if len(given) > MAX_HEADERS:
        raise InvalidRecord.at(index, "headers", f"must be at most {MAX_HEADERS} headers")
    if isinstance(given, dict):
        given = [HeaderIn(name, value) for name, value in given.items()]
    size = 0
    stored: list[dict[str, str | None]] = []
    for header in given:
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


def _time(index: int, timestamp_ms: int | None) -> int:
    if timestamp_ms is None:
        return -1
    if not 0 <= timestamp_ms <= MAX_INT64:
        raise InvalidTimestamp.at(index, "timestamp_ms", "must be milliseconds since 1970, from 0")
    return timestamp_ms


def _check_key(index: int, key: bytes | None) -> None:
    if key is not None and len(key) > MAX_KEY_BYTES:
        raise InvalidRecord.at(index, "key", f"must be at most {MAX_KEY_BYTES} bytes")


def _check_depth(index: int, value: bytes) -> None:
    if is_deeper(value, MAX_VALUE_DEPTH):
        message = f"record {index}: the value is nested more than {MAX_VALUE_DEPTH} levels deep"
        raise BadRequest.at(index, "value", "is nested too deeply", message=message)


def _key_at(index: int, value: bytes, pointer: str) -> bytes | None:
    found = _find(index, "key_from", value, pointer)
    if found == b"null":
        return None
    if found[:1] in b"{[":
        raise InvalidRequest.at(index, "key_from", "points at an object or a list; point at a string or a number")
    key = _string.decode(found).encode() if found.startswith(b'"') else found
    _check_key(index, key)
    return key


def _time_at(index: int, value: bytes, pointer: str) -> int:
    found = _find(index, "timestamp_from", value, pointer)
    text = _string.decode(found) if found.startswith(b'"') else found.decode()
    try:
        return parse_time(text, "timestamp_from")
    except InvalidRequest:
        detail = "must point at epoch milliseconds (from 0) or RFC 3339"
        raise InvalidTimestamp.at(index, "timestamp_from", detail) from None


def _find(index: int, field: str, value: bytes, pointer: str) -> bytes:
    """Return the JSON at a pointer (RFC 6901)."""
    found = value
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            if found.startswith(b"[") and len(found) > _LONGEST_LIST:
                raise InvalidRequest.at(index, field, f"points into a list of more than {_LONGEST_LIST} bytes")
            if found.startswith(b"["):
                found = bytes(_list.decode(found)[int(name)]) if name.isdecimal() else b""
            else:
                found = bytes(_object.decode(found)[name])
        except (msgspec.ValidationError, KeyError, IndexError, ValueError):
            found = b""
        if not found:
            raise InvalidRequest.at(index, field, "points at nothing in this value")
    return found


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
