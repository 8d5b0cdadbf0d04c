"""CloudEvents 1.0: attributes of records, in the HTTP headers of one event and in its JSON. Pure.

A record is an event if it has the headers of the CloudEvents Kafka binding: `ce_specversion`, `ce_id`, `ce_source`,
`ce_type` and others `ce_<name>`; `content-type` is the type of its data, and the key is `partitionkey`. Any other
record gets attributes from its topic, partition and offset.

Source: CloudEvents 1.0.2 with its JSON format, HTTP binding, Kafka binding and partitioning extension.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Raw

from app.domain.log.headers import Header, decode_headers
from app.domain.log.record import KEY_BASE64, VALUE_BASE64, VALUE_JSON, VALUE_MASK, VALUE_TEXT, StoredRecord

PREFIX = "ce_"
CONTENT_TYPE = "content-type"
PARTITION_KEY = "partitionkey"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

_REQUIRED = ("specversion", "id", "source", "type")
_RESERVED = frozenset({"data", "data_base64", "datacontenttype", PARTITION_KEY})
_NAME = re.compile(r"[a-z0-9]{1,64}")
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})?")
_QUOTED_PAIR = re.compile(r"\\(.)")
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_encoder = msgspec.json.Encoder()


class InvalidEvent(Exception):
    """An event breaks a rule of the specification.

    Attributes:
        attribute: The attribute, or an empty string.
    """

    def __init__(self, attribute: str, detail: str) -> None:
        super().__init__(detail)
        self.attribute = attribute


class Event(NamedTuple):
    """An event to append.

    Attributes:
        attributes: Without `datacontenttype` and `partitionkey`, in the order in which they came.
        content_type: `datacontenttype`, or None.
        key: `partitionkey`, or None.
        encoding: The VALUE_* of the data.
        data: None without data.
    """

    attributes: dict[str, str]
    content_type: str | None
    key: str | None
    encoding: int
    data: bytes | None

    def headers(self) -> list[Header]:
        """Return the event's attributes as record headers."""
        found = [Header(PREFIX + name, value) for name, value in self.attributes.items()]
        return found if self.content_type is None else [*found, Header(CONTENT_TYPE, self.content_type)]


class Place(NamedTuple):
    """Where a record is, for the attributes of a record that is no event."""

    topic: str
    partition: int
    message_id: str
    time: str


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Refuse attributes that break the specification.

    Raises:
        InvalidEvent: With the attribute.
    """
    for name in _REQUIRED:
        if not attributes.get(name):
            raise InvalidEvent(name, "is required, and must not be empty")
    if attributes["specversion"] != "1.0":
        raise InvalidEvent("specversion", 'must be "1.0"')
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise InvalidEvent(name[:64], "is not a name: an attribute has 1 to 64 characters of a-z and 0-9")
        if any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F for character in value):
            raise InvalidEvent(name, "must have no control characters")
    if (time := attributes.get("time")) is not None and not _TIME.fullmatch(time):
        raise InvalidEvent("time", "must be a time of RFC 3339, such as 2026-11-28T12:00:00Z")


def decode_header_value(name: str, raw: bytes) -> str:
    """Decode the value of an HTTP header `ce-<name>`: a quoted string is unquoted, then escapes are decoded.

    Raises:
        InvalidEvent: An escape is not valid, or the text is not UTF-8.
    """
    text = raw.decode("latin-1").strip()
    if len(text) >= 2 and text.startswith('"') and text.endswith('"'):
        text = _QUOTED_PAIR.sub(r"\1", text[1:-1])
    try:
        return _ESCAPE.sub(_unescape, text.encode("latin-1")).decode()
    except ValueError:
        raise InvalidEvent(name, "must be percent-encoded UTF-8") from None


def _unescape(found: re.Match[bytes]) -> bytes:
    if found[1] is None:
        raise ValueError
    return bytes.fromhex(found[1].decode())


def encode_header_value(text: str) -> str:
    """Encode a text for the value of an HTTP header: space, `"`, `%` and all but printable ASCII are escaped."""
    return quote(text, safe=_SAFE)


def parse_event(given: Mapping[str, Raw]) -> Event:
    """Parse an event in the JSON format, from its members.

    Raises:
        InvalidEvent: With the attribute.
    """
    if "data" in given and "data_base64" in given:
        raise InvalidEvent("data_base64", "must not stand beside data")
    attributes: dict[str, str] = {}
    for name, raw in given.items():
        if name not in {"data", "data_base64"} and bytes(raw) != b"null":
            attributes[name] = _attribute(name, raw)
    content_type = attributes.pop("datacontenttype", None)
    key = attributes.pop(PARTITION_KEY, None)
    check_attributes(attributes)
    encoding, data = _data_of(given, content_type)
    return Event(attributes, content_type, key, encoding, data)


def is_json_type(content_type: str | None) -> bool:
    """Return whether data of a type is JSON, which it also is without a type."""
    if content_type is None:
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def attributes_of(record: StoredRecord, place: Place) -> tuple[dict[str, str], str | None]:
    """Return the attributes of a record without `datacontenttype`, and its content type."""
    headers = [] if record.headers is None else decode_headers(record.headers)
    content_type = next((each.value for each in headers if each.name.lower() == CONTENT_TYPE and each.value), None)
    attributes = {
        each.name[len(PREFIX) :]: each.value
        for each in headers
        if each.name.startswith(PREFIX) and each.value is not None and each.encoding == "text"
    }
    if not _is_event(attributes):
        content_type = content_type or _content_type_of(record)
        attributes = {
            "specversion": "1.0",
            "id": place.message_id,
            "source": f"/topics/{place.topic}/partitions/{place.partition}",
            "type": "millrace.record",
            "time": place.time,
        }
    if record.key is not None and not record.encoding & KEY_BASE64:
        attributes[PARTITION_KEY] = record.key.decode()
    return attributes, content_type


def to_json(record: StoredRecord, place: Place) -> bytes:
    """Return a record as an event in the JSON format."""
    attributes, content_type = attributes_of(record, place)
    event: dict[str, Any] = dict(attributes)
    if content_type is not None:
        event["datacontenttype"] = content_type
    value, encoding = record.value, record.encoding & VALUE_MASK
    if value is not None:
        if encoding == VALUE_BASE64:
            event["data_base64"] = b64encode(value).decode()
        else:
            event["data"] = Raw(value) if encoding == VALUE_JSON else value.decode()
    return _encoder.encode(event)


def to_batch(events: Iterable[bytes]) -> bytes:
    """Return events in the JSON format as a batch."""
    return b"[" + b",".join(events) + b"]"


def _is_event(attributes: Mapping[str, str]) -> bool:
    try:
        check_attributes(attributes)
    except InvalidEvent:
        return False
    return not attributes.keys() & _RESERVED


def _content_type_of(record: StoredRecord) -> str | None:
    if record.value is None:
        return None
    encoding = record.encoding & VALUE_MASK
    if encoding == VALUE_JSON:
        return "application/json"
    return "text/plain; charset=utf-8" if encoding == VALUE_TEXT else "application/octet-stream"


def _attribute(name: str, raw: Raw) -> str:
    """Return the canonical text of an attribute: a string, a boolean or an integer of 32 bits."""
    value = msgspec.json.decode(raw)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return str(value)
    raise InvalidEvent(name[:64], "must be a string, a boolean or an integer of 32 bits")


def _data_of(given: Mapping[str, Raw], content_type: str | None) -> tuple[int, bytes | None]:
    if (encoded := given.get("data_base64")) is not None and bytes(encoded) != b"null":
        try:
            return VALUE_BASE64, b64decode(msgspec.json.decode(encoded, type=str), validate=True)
        except (Base64Error, ValueError, msgspec.DecodeError):
            raise InvalidEvent("data_base64", "must be a string of base64") from None
    data = given.get("data")
    if data is None or bytes(data) == b"null":
        return VALUE_JSON, None
    if not is_json_type(content_type) and bytes(data).startswith(b'"'):
        return VALUE_TEXT, msgspec.json.decode(data, type=str).encode()
    return VALUE_JSON, bytes(data)


def header_attributes(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the attributes of the HTTP headers `ce-*` of one event in binary mode.

    Raises:
        InvalidEvent: A header is not percent-encoded UTF-8, or is repeated.
    """
    attributes: dict[str, str] = {}
    for raw_name, raw_value in headers:
        if raw_name.startswith(b"ce-"):
            name = raw_name[3:].decode("latin-1")
            if name in attributes:
                raise InvalidEvent(name[:64], "is repeated")
            attributes[name] = decode_header_value(name, raw_value)
    return attributes
