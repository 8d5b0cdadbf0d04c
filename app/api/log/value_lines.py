"""Decode produce bodies with one value per line; key and timestamp may come from inside each value."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from app.api.http.bodies.json_bodies import decode_lines
from app.api.log.record_decoding import check_depth, check_key
from app.domain.log import json_pointer
from app.domain.log.json_pointer import MAX_LIST_BYTES, ListTooLong
from app.domain.log.offset_spec import parse_time
from app.domain.log.record import VALUE_JSON, Record
from app.errors.http import InvalidRequest
from app.errors.log import InvalidTimestamp

_raw = msgspec.json.Decoder(Raw)
_string = msgspec.json.Decoder(str)


def decode_value_lines(body: bytes, key_from: str | None, timestamp_from: str | None, max_records: int) -> list[Record]:
    """Decode one value per line into one record each.

    Args:
        body: JSON values, one per line; blank lines are skipped.
        key_from: JSON pointer to the key. A string is the key itself, a number its JSON text, null means no key.
        timestamp_from: JSON pointer to the timestamp: epoch milliseconds or RFC 3339.
        max_records: The most records that a request may have.

    Raises:
        BadRequest: A line is not JSON.
        InvalidRequest, InvalidRecord, InvalidTimestamp: With the index of the record.
    """
    values: list[Raw] = decode_lines(_raw, body, max_records)
    records = []
    for index, raw in enumerate(values):
        value = bytes(raw)
        check_depth(index, value)
        key = None if key_from is None else _key_from(index, value, key_from)
        timestamp_ms = -1 if timestamp_from is None else _timestamp_from(index, value, timestamp_from)
        records.append(Record(-1, timestamp_ms, key, None if value == b"null" else value, None, VALUE_JSON))
    return records


def _key_from(index: int, value: bytes, pointer: str) -> bytes | None:
    found = _resolve(index, "key_from", value, pointer)
    if found == b"null":
        return None
    if found[:1] in b"{[":
        raise InvalidRequest.at(index, "key_from", "points at an object or a list; point at a string or a number")
    key = _string.decode(found).encode() if found.startswith(b'"') else found
    check_key(index, key)
    return key


def _timestamp_from(index: int, value: bytes, pointer: str) -> int:
    found = _resolve(index, "timestamp_from", value, pointer)
    text = _string.decode(found) if found.startswith(b'"') else found.decode()
    try:
        return parse_time(text, "timestamp_from")
    except InvalidRequest:
        detail = "must point at epoch milliseconds (from 0) or RFC 3339"
        raise InvalidTimestamp.at(index, "timestamp_from", detail) from None


def _resolve(index: int, field: str, value: bytes, pointer: str) -> bytes:
    """Return the JSON at a JSON pointer (RFC 6901).

    Raises:
        InvalidRequest: The value has nothing at the pointer; with the index of the record and `field`.
    """
    try:
        found = json_pointer.find(value, pointer)
    except ListTooLong:
        raise InvalidRequest.at(index, field, f"points into a list of more than {MAX_LIST_BYTES} bytes") from None
    if found is None:
        raise InvalidRequest.at(index, field, "points at nothing in this value")
    return found
