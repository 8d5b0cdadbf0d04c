"""Decode produce requests with CloudEvents: one in binary mode, one in the JSON format, or a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from app.api.http.bodies.json_bodies import check_names, check_records, decode_json
from app.api.log.record_decoding import check_depth, check_key, decode_raw
from app.domain.log import cloud_events
from app.domain.log.cloud_events import Event, InvalidEvent
from app.domain.log.headers import Header, encode_headers
from app.domain.log.record import MAX_HEADER_BYTES, MAX_HEADERS, VALUE_JSON, Record
from app.errors.http import BadRequest, UnsupportedMediaType
from app.errors.log import InvalidRecord

STRUCTURED = cloud_events.STRUCTURED.encode()
BATCH = cloud_events.BATCH.encode()
_FAMILY = b"application/cloudevents"
_JSON = b"application/json"

_event = msgspec.json.Decoder(dict[str, Raw])
_batch = msgspec.json.Decoder(list[Raw])


class Target(NamedTuple):
    """What the query says about the records: partition and timestamp, each -1 if it says nothing."""

    partition: int
    timestamp_ms: int

    @classmethod
    def of(cls, partition: int | None, timestamp_ms: int | None) -> Target:
        """Return the target of parameters, which may be missing."""
        return cls(-1 if partition is None else partition, -1 if timestamp_ms is None else timestamp_ms)


def has_events(headers: Mapping[bytes, bytes], media_type: bytes) -> bool:
    """Return whether the body of a request is a CloudEvent, or several.

    One required attribute is enough: an event without the others is refused, and not stored as an ordinary record.
    """
    return (
        b"ce-specversion" in headers
        or b"ce-id" in headers
        or b"ce-source" in headers
        or b"ce-type" in headers
        or media_type.startswith(_FAMILY)
    )


def is_json_format(media_type: bytes) -> bool:
    """Return whether attributes and data are in the body. A format that is not JSON is refused later."""
    return media_type.startswith(_FAMILY)


def fingerprint_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the headers `ce-*` of a request for its fingerprint: they are a part of the record."""
    return b"\n".join(sorted(name + b":" + value for name, value in headers if name.startswith(b"ce-")))


def decode_binary(
    headers: Sequence[tuple[bytes, bytes]], media_type: bytes, charset: str, body: bytes, target: Target
) -> list[Record]:
    """Decode an event in binary mode: its attributes are headers, and its data is the body.

    Without a Content-Type, and with a JSON type, an empty body is no data.

    Raises:
        BadRequest: An attribute is missing or not valid, or the data is not of its JSON type.
        InvalidRecord: The event exceeds a limit.
    """
    content_type = next((value.decode("latin-1") for name, value in headers if name == b"content-type"), None)
    try:
        event = cloud_events.parse_binary_event(headers, content_type)
    except InvalidEvent as error:
        raise _refused(None, error) from None
    is_json = media_type == _JSON or media_type.endswith(b"+json")
    if not body and (is_json or content_type is None):
        return [_record(0, event._replace(encoding=VALUE_JSON), target)]
    raw_type = b"+json" if is_json else media_type
    data = decode_raw(body, raw_type, charset, key=None, partition=None, timestamp_ms=None)
    return [_record(0, event._replace(encoding=data.encoding, data=data.value), target)]


def decode_events(media_type: bytes, body: bytes, max_records: int, target: Target) -> list[Record]:
    """Decode one event or a batch in the JSON format.

    Raises:
        BadRequest: The body is not JSON, or an attribute is missing or not valid; with the index of the event.
        InvalidRequest: The body is no object, or no list of objects.
        InvalidRecord: An event exceeds a limit.
        UnsupportedMediaType: The format is not JSON.
    """
    if media_type == STRUCTURED:
        members = decode_json(_event, body)
        check_names(body)
        return [_json_record(None, members, target)]
    if media_type != BATCH:
        raise UnsupportedMediaType(
            f"CloudEvents are accepted as {cloud_events.STRUCTURED}, as {cloud_events.BATCH}, or with headers ce-*"
        )
    events = decode_json(_batch, body)
    check_records(len(events), max_records)
    return [_batched_record(index, bytes(each), target) for index, each in enumerate(events)]


def _batched_record(index: int, body: bytes, target: Target) -> Record:
    if not body.startswith(b"{"):
        raise BadRequest.at(index, None, "is not an object", item="event")
    members = decode_json(_event, body)
    try:
        check_names(body)
    except BadRequest as error:
        raise BadRequest.at(index, None, "has a member twice", item="event", message=error.detail) from None
    return _json_record(index, members, target)


def _json_record(index: int | None, members: Mapping[str, Raw], target: Target) -> Record:
    try:
        return _record(index or 0, cloud_events.parse_event(members), target)
    except InvalidEvent as error:
        raise _refused(index, error) from None


def _record(index: int, event: Event, target: Target) -> Record:
    headers = event.headers()
    size = _size_of(headers)
    if len(headers) > MAX_HEADERS:
        raise InvalidRecord.at(index, "headers", f"must be at most {MAX_HEADERS}: an attribute is a header")
    if size > MAX_HEADER_BYTES:
        raise InvalidRecord.at(index, "headers", f"must have at most {MAX_HEADER_BYTES} bytes together")
    key = None if event.key is None else event.key.encode()
    check_key(index, key)
    if event.data is not None and event.encoding == VALUE_JSON:
        check_depth(index, event.data)
    stored = encode_headers(headers)
    return Record(target.partition, target.timestamp_ms, key, event.data, stored, event.encoding, size)


def _size_of(headers: Sequence[Header]) -> int:
    return sum(len(each.name.encode()) + len((each.value or "").encode()) for each in headers)


def _refused(index: int | None, error: InvalidEvent) -> BadRequest:
    return BadRequest.at(index, error.attribute or None, str(error), item="event")
