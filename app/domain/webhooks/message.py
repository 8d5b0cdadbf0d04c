"""What an attempt sends: the id of the message, its body and its headers. Pure.

Source: Standard Webhooks for the id, the time and the signature; the CloudEvents HTTP binding for its modes.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal, NamedTuple, TypeGuard

import msgspec

from app.domain.log import cloud_events, record_json
from app.domain.log.cloud_events import Place, encode_header_value
from app.domain.log.headers import Header, decode_headers
from app.domain.log.record import KEY_BASE64, VALUE_JSON, VALUE_MASK, VALUE_TEXT, StoredRecord
from app.domain.outbound import via
from app.domain.webhooks.webhook import BATCH_MODES, Mode

HttpHeader = tuple[bytes, bytes]

_MAX_RECORD_HEADER_BYTES = 4_096
_MAX_PASSED_ON = 256
"""Characters of a record's `content-type` and `traceparent`: a longer one is no such header."""
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_CONTENT_TYPES = {VALUE_JSON: b"application/json", VALUE_TEXT: b"text/plain; charset=utf-8"}
_NOT_PASSED_ON = {"content-type", via.HEADER}
_encoder = msgspec.json.Encoder()


class WebhookRecord(NamedTuple):
    """A record on its way to a receiver."""

    topic_id: int
    topic: str
    partition: int
    record: StoredRecord
    message_id: str


class Content(NamedTuple):
    """The body of an attempt and the headers that depend on its records.

    Attributes:
        via: The marks of the webhooks that the records have passed.
    """

    message_id: str
    headers: list[HttpHeader]
    body: bytes
    via: Sequence[str] = ()


class _Envelope(msgspec.Struct):
    webhook: str
    message_id: str
    attempt: int
    record: record_json.PolledRecord


class _BatchedRecord(msgspec.Struct):
    message_id: str
    record: record_json.PolledRecord


class _BatchEnvelope(msgspec.Struct):
    webhook: str
    message_id: str
    attempt: int
    records: list[_BatchedRecord]


def message_id(webhook_id: int, topic_id: int, partition: int, offset: int, kind: Literal["", "ping"] = "") -> str:
    """Return the id of a record's message: the same for all its attempts, opaque, without a dot."""
    return _id(f"{kind}{webhook_id}/{topic_id}/{partition}/{offset}")


def batch_id(message_ids: Sequence[str]) -> str:
    """Return the id of a batch."""
    return message_ids[0] if len(message_ids) == 1 else _id(" ".join(message_ids))


def content(mode: Mode, webhook: str, records: Sequence[WebhookRecord], attempt: int) -> Content:
    """Return what an attempt sends, without the signature.

    Args:
        mode: The webhook's mode; only batch modes take several records.
        webhook: Name of the webhook.
        records: In the order in which they are sent.
        attempt: Number of the attempt, from 1.

    Raises:
        ValueError: The mode takes one record.
    """
    if len(records) > 1 and mode not in BATCH_MODES:
        raise ValueError(f"the mode {mode} sends one record at a time")
    found = _content(mode, webhook, records, attempt)
    return found._replace(via=list(dict.fromkeys(mark for each in records for mark in marks_of(each.record))))


def marks_of(record: StoredRecord) -> list[str]:
    """Return the marks of the webhooks that a record has passed."""
    if record.headers is None or via.HEADER.encode() not in record.headers:
        return []
    return via.parse(each.value for each in decode_headers(record.headers) if each.name == via.HEADER and each.value)


def _content(mode: Mode, webhook: str, records: Sequence[WebhookRecord], attempt: int) -> Content:
    first = records[0]
    if mode == "record":
        return _plain(first)
    if mode == "cloudevents-binary":
        return _binary_event(first)
    if mode == "cloudevents-structured":
        event = cloud_events.to_json(first.record, _place(first))
        return Content(first.message_id, [(b"content-type", cloud_events.STRUCTURED.encode())], event)
    identity = batch_id([each.message_id for each in records])
    if mode == "cloudevents-batch":
        events = cloud_events.to_batch(cloud_events.to_json(each.record, _place(each)) for each in records)
        return Content(identity, [(b"content-type", cloud_events.BATCH.encode())], events)
    json = [(b"content-type", b"application/json")]
    if mode == "envelope":
        return Content(identity, json, _encoder.encode(_Envelope(webhook, identity, attempt, _record_out(first))))
    batch = [_BatchedRecord(each.message_id, _record_out(each)) for each in records]
    return Content(identity, json, _encoder.encode(_BatchEnvelope(webhook, identity, attempt, batch)))


def ping(webhook_id: int, webhook: str, number: int) -> Content:
    """Return the message of a test; `number` is different in each, and so is its id."""
    identity = message_id(webhook_id, 0, 0, number, "ping")
    body = _encoder.encode({"type": "millrace.ping", "webhook": webhook, "message_id": identity})
    return Content(identity, [(b"content-type", b"application/json")], body)


def _id(text: str) -> str:
    return "msg_" + b32encode(sha256(text.encode()).digest()[:20]).decode().lower()


def _record_out(given: WebhookRecord) -> record_json.PolledRecord:
    return record_json.topic_record_out(given.topic, given.partition, given.record)


def _place(given: WebhookRecord) -> Place:
    moment = datetime.fromtimestamp(given.record.timestamp_ms / 1000, UTC)
    time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Place(given.topic, given.partition, given.message_id, time)


def _plain(given: WebhookRecord) -> Content:
    record = given.record
    stored = [] if record.headers is None else decode_headers(record.headers)
    headers = [
        (b"content-type", _content_type(record, stored)),
        (b"millrace-topic", given.topic.encode()),
        (b"millrace-partition", b"%d" % given.partition),
        (b"millrace-offset", b"%d" % record.offset),
        (b"millrace-timestamp-ms", b"%d" % record.timestamp_ms),
    ]
    if record.value is None:
        headers.append((b"millrace-tombstone", b"true"))
    headers += _traceparent(stored)
    own = _record_headers(record, stored)
    if sum(len(name) + len(value) for name, value in own) > _MAX_RECORD_HEADER_BYTES:
        own = [(b"millrace-truncated", b"true")]
    return Content(given.message_id, headers + own, record.value or b"")


def _content_type(record: StoredRecord, headers: Sequence[Header]) -> bytes:
    for header in headers:
        if header.name.lower() == "content-type" and header.encoding == "text" and _is_passed_on(header.value):
            return _printable(header.value)
    return _CONTENT_TYPES.get(record.encoding & VALUE_MASK, b"application/octet-stream")


def _record_headers(record: StoredRecord, headers: Sequence[Header]) -> list[HttpHeader]:
    """Return the key and the headers of a record; those whose name is no token are left out."""
    found: list[HttpHeader] = []
    if record.key is not None:
        encoded = bool(record.encoding & KEY_BASE64)
        text = _base64(record.key) if encoded else record.key.decode()
        found.append((b"millrace-key", encode_header_value(text).encode()))
        if encoded:
            found.append((b"millrace-key-encoding", b"base64"))
    for header in headers:
        name = header.name.encode()
        if name and not set(name) - _TOKEN and header.value is not None and header.name.lower() not in _NOT_PASSED_ON:
            found.append((b"millrace-header-" + name.lower(), encode_header_value(header.value).encode()))
    return found


def _binary_event(given: WebhookRecord) -> Content:
    attributes, content_type = cloud_events.attributes_of(given.record, _place(given))
    headers = [(f"ce-{name}".encode(), encode_header_value(value).encode()) for name, value in attributes.items()]
    if _is_passed_on(content_type):
        headers.append((b"content-type", _printable(content_type)))
    elif given.record.encoding & VALUE_MASK == VALUE_JSON and given.record.value is not None:
        headers.append((b"content-type", b"application/json"))
    stored = [] if given.record.headers is None else decode_headers(given.record.headers)
    return Content(given.message_id, headers + _traceparent(stored), given.record.value or b"")


def _traceparent(headers: Sequence[Header]) -> list[HttpHeader]:
    for header in headers:
        if header.name.lower() == "traceparent" and _is_passed_on(header.value):
            return [(b"traceparent", _printable(header.value))]
    return []


def _is_passed_on(value: str | None) -> TypeGuard[str]:
    return bool(value) and len(value or "") <= _MAX_PASSED_ON


def _printable(text: str) -> bytes:
    """Return a text for the value of a header; characters that are not allowed there are escaped."""
    if all(0x20 <= ord(each) < 0x7F for each in text):
        return text.strip().encode()
    return encode_header_value(text).encode()


def _base64(value: bytes) -> str:
    return bytes(msgspec.json.encode(value)).decode().strip('"')
