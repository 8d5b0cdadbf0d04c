"""CloudEvents 1.0: attributes of records, in the HTTP headers of one event and in its JSON. Pure.

A record is an event if it has the headers of the CloudEvents Kafka binding: `ce_specversion`, `ce_id`, `ce_source`,
`ce_type` and others `ce_<name>`; `content-type` is the type of its data, and the key is `partitionkey`. Any other
record gets attributes from its topic, partition and offset.

Source: CloudEvents 1.0.2 with its JSON format, HTTP binding, Kafka binding and partitioning extension.
"""

from __future__ import annotations

import re
from base64 import b32encode, b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
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
_HEADER_PREFIX = b"ce-"

_REQUIRED = ("specversion", "id", "source", "type")
_NOT_EMPTY = ("subject", "dataschema")
_RESERVED = frozenset({"data", "datacontenttype", PARTITION_KEY})
_NAME = re.compile(r"[a-z0-9]{1,64}")
_NO_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters, surrogates and noncharacters: no string of an event has them."""
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})?")
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_QUOTED_PAIR = re.compile(rb"\\(.)")
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-5][0-9]|60)(?:\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-5][0-9])"
)
_STRINGS = frozenset({"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"})
"""Attributes of the specification; extensions may be numbers and booleans too."""
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


def place_of(topic: str, topic_id: int, partition: int, record: StoredRecord) -> Place:
    """Return the place of a record of the log. Its message id stays the same while the topic exists."""
    digest = sha256(f"record {topic_id}/{partition}/{record.offset}".encode()).digest()
    message_id = "msg_" + b32encode(digest[:20]).decode().lower()
    moment = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Place(topic, partition, message_id, time)


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
        if not is_string(value):
            raise InvalidEvent(name, "must have no control characters and no noncharacters of Unicode")
    for name in _NOT_EMPTY:
        if attributes.get(name) == "":
            raise InvalidEvent(name, "must not be empty")
    if (time := attributes.get("time")) is not None and not _is_time(time):
        raise InvalidEvent("time", "must be a time of RFC 3339, such as 2026-11-28T12:00:00Z")


def is_string(text: str) -> bool:
    """Return whether an attribute may have a text: it has no control characters and no noncharacters."""
    return not _NO_CHARACTERS.search(text) and not any(ord(each) & 0xFFFE == 0xFFFE for each in text if each > "\uffff")


def _is_time(text: str) -> bool:
    if (found := _TIME.fullmatch(text)) is None:
        return False
    day, minute, _, zone = found.groups()
    try:
        datetime.fromisoformat(f"{day}T{minute}:00{zone.upper()}")
    except ValueError:
        return False
    return True


def decode_header_value(name: str, raw: bytes) -> str:
    """Decode the value of an HTTP header `ce-<name>`: a quoted string is unquoted, then escapes are decoded.

    Raises:
        InvalidEvent: The quoted string or an escape is not valid, or the text is not UTF-8.
    """
    value = raw.strip(b" \t")
    if value.startswith(b'"'):
        if not _QUOTED.fullmatch(value):
            raise InvalidEvent(name, "begins with a quotation mark, and is no quoted string")
        value = _QUOTED_PAIR.sub(rb"\1", value[1:-1])
    try:
        return _ESCAPE.sub(_unescape, value).decode()
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
    """Parse an event in the JSON format, from its members. A member that is `null` is left out.

    Raises:
        InvalidEvent: With the attribute.
    """
    members = {name: bytes(raw) for name, raw in given.items() if bytes(raw) != b"null"}
    data, encoded = members.pop("data", None), members.pop("data_base64", None)
    if data is not None and encoded is not None:
        raise InvalidEvent("data_base64", "must not stand beside data")
    attributes, content_type, key = _checked({name: _attribute(name, raw) for name, raw in members.items()})
    return Event(attributes, content_type, key, *_data_of(data, encoded, content_type))


def parse_binary_event(headers: Iterable[tuple[bytes, bytes]], content_type: str | None) -> Event:
    """Parse the HTTP headers of an event in binary mode, whose data is the body. The event has no data yet.

    Args:
        headers: All headers of the request; the names in lower case.
        content_type: The header Content-Type, or None.

    Raises:
        InvalidEvent: An attribute breaks a rule, is repeated, or is not percent-encoded UTF-8.
    """
    attributes: dict[str, str] = {}
    for raw_name, raw_value in headers:
        if raw_name.startswith(_HEADER_PREFIX):
            name = raw_name[len(_HEADER_PREFIX) :].decode("latin-1")
            if name in attributes:
                raise InvalidEvent(name[:64], "is repeated")
            attributes[name] = decode_header_value(name[:64], raw_value)
    if "datacontenttype" in attributes:
        raise InvalidEvent("datacontenttype", "must be the header Content-Type, without ce-")
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return Event(*_checked(attributes), VALUE_BASE64, None)


def _checked(attributes: dict[str, str]) -> tuple[dict[str, str], str | None, str | None]:
    """Check all attributes, and return them without `datacontenttype` and `partitionkey`, which follow."""
    content_type = attributes.pop("datacontenttype", None)
    key = attributes.pop(PARTITION_KEY, None)
    if "data" in attributes:
        raise InvalidEvent("data", "is not the name of an attribute")
    check_attributes(attributes)
    for name, value in (("datacontenttype", content_type), (PARTITION_KEY, key)):
        if value is not None and not (value and is_string(value)):
            raise InvalidEvent(name, "must not be empty, and must have no control characters")
    return attributes, content_type, key


def is_json_type(content_type: str | None) -> bool:
    """Return whether data of a type is JSON, which it also is without a type."""
    if content_type is None:
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def attributes_of(record: StoredRecord, place: Place) -> tuple[dict[str, str], str | None]:
    """Return the attributes of a record without `datacontenttype`, and its content type."""
    headers = [] if record.headers is None else decode_headers(record.headers)
    content_type = next(
        (
            each.value
            for each in headers
            if each.name.lower() == CONTENT_TYPE and each.value and each.encoding == "text" and is_string(each.value)
        ),
        None,
    )
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
    if record.key and not record.encoding & KEY_BASE64 and is_string(key := record.key.decode()):
        attributes[PARTITION_KEY] = key
    return attributes, content_type


def to_json(record: StoredRecord, place: Place) -> bytes:
    """Return a record as an event in the JSON format."""
    attributes, content_type = attributes_of(record, place)
    event: dict[str, Any] = dict(attributes)
    if content_type is not None:
        event["datacontenttype"] = content_type
    if (value := record.value) is not None:
        if _is_data_as(VALUE_JSON, record, content_type):
            event["data"] = Raw(value)
        elif _is_data_as(VALUE_TEXT, record, content_type):
            event["data"] = value.decode()
        else:
            event["data_base64"] = b64encode(value).decode()
    return _encoder.encode(event)


def _is_data_as(encoding: int, record: StoredRecord, content_type: str | None) -> bool:
    """Return whether `data` with a value as JSON, or as text, is read again as the same bytes.

    A string is JSON if the content type is JSON or missing, and text otherwise; anything else is JSON.
    """
    if record.encoding & VALUE_MASK != encoding:
        return False
    if encoding == VALUE_TEXT:
        return not is_json_type(content_type)
    return is_json_type(content_type) or (record.value or b"").lstrip()[:1] != b'"'


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


def _attribute(name: str, raw: bytes) -> str:
    """Return the canonical text of an attribute: a string, a boolean or an integer of 32 bits."""
    value = None if raw[:1] in b"{[" else msgspec.json.decode(raw)
    if isinstance(value, str):
        return value
    if name in _STRINGS:
        raise InvalidEvent(name, "must be a string")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return str(value)
    raise InvalidEvent(name[:64], "must be a string, a boolean or an integer of 32 bits")


def _data_of(data: bytes | None, encoded: bytes | None, content_type: str | None) -> tuple[int, bytes | None]:
    if encoded is not None:
        try:
            return VALUE_BASE64, b64decode(msgspec.json.decode(encoded, type=str), validate=True)
        except (Base64Error, ValueError, msgspec.DecodeError):
            raise InvalidEvent("data_base64", "must be a string of base64") from None
    if data is None:
        return VALUE_JSON, None
    if not is_json_type(content_type) and data.startswith(b'"'):
        return VALUE_TEXT, msgspec.json.decode(data, type=str).encode()
    return VALUE_JSON, data
