"""CloudEvents: attributes in headers and in JSON, read again as they were, and compared with the SDK."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from app.domain.log import cloud_events
from app.domain.log.cloud_events import Event, InvalidEvent, Place
from app.domain.log.headers import encode_headers
from app.domain.log.record import KEY_BASE64, VALUE_BASE64, VALUE_JSON, VALUE_TEXT, StoredRecord

REQUIRED = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed"}
PLACE = Place("orders", 3, "msg_x", "2018-01-31T01:49:59.650Z")

texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=20).filter(
    cloud_events.is_string
)
names = st.from_regex(r"\A[a-z0-9]{1,20}\Z").filter(
    lambda name: name not in {*REQUIRED, "time", "data", "datacontenttype", "partitionkey", "subject", "dataschema"}
)
json_values = st.recursive(
    st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def parsed(event: dict[str, Any]) -> Event:
    return cloud_events.parse_event(msgspec.json.decode(json.dumps(event), type=dict[str, msgspec.Raw]))


def stored(event: Event) -> StoredRecord:
    """Return the record of an event as the log has it."""
    key = None if event.key is None else event.key.encode()
    return StoredRecord(7, 1_517_363_399_650, event.encoding, key, event.data, encode_headers(event.headers()), 0)


def refused(event: dict[str, Any]) -> str:
    with pytest.raises(InvalidEvent) as error:
        parsed(event)
    return error.value.attribute


@given(
    st.dictionaries(names, texts, max_size=5),
    st.none() | texts,
    st.sampled_from([None, "application/json", "text/plain", "application/xml; charset=utf-8", "application/x+json"]),
    st.none() | json_values | st.binary(),
)
def test_an_event_in_json_is_given_as_it_came(
    extensions: dict[str, str], key: str | None, content_type: str | None, data: Any
) -> None:
    event: dict[str, Any] = REQUIRED | extensions
    if key is not None:
        event["partitionkey"] = key
    if content_type is not None:
        event["datacontenttype"] = content_type
    if isinstance(data, bytes):
        event["data_base64"] = msgspec.to_builtins(data)
    elif data is not None:
        event["data"] = data

    assert json.loads(cloud_events.to_json(stored(parsed(event)), PLACE)) == event


@given(st.dictionaries(names, texts, max_size=5), st.none() | texts)
def test_attributes_in_headers_are_given_as_they_came(extensions: dict[str, str], key: str | None) -> None:
    attributes = REQUIRED | extensions | ({} if key is None else {"partitionkey": key})
    headers = [
        (f"ce-{name}".encode(), cloud_events.encode_header_value(value).encode()) for name, value in attributes.items()
    ]

    event = cloud_events.parse_binary_event(headers, "text/plain")

    found, content_type = cloud_events.attributes_of(stored(event), PLACE)
    assert (found, content_type) == (attributes, "text/plain")


@given(st.dictionaries(names, texts, max_size=5), json_values)
def test_the_sdk_reads_the_same_event(extensions: dict[str, str], data: Any) -> None:
    event = REQUIRED | {"time": "2026-11-28T12:00:00Z", "datacontenttype": "application/json"} | extensions

    read = JSONFormat().read(CloudEvent, cloud_events.to_json(stored(parsed(event | {"data": data})), PLACE))

    attributes = read.get_attributes()
    assert attributes.pop("time") == datetime.fromisoformat("2026-11-28T12:00:00+00:00")
    assert attributes == {name: value for name, value in event.items() if name != "time"}
    assert read.get_data() == data


@given(texts)
def test_the_sdk_decodes_the_same_header(text: str) -> None:
    encoded = cloud_events.encode_header_value(text)

    headers = {f"ce-{name}": value for name, value in REQUIRED.items()} | {"ce-note": encoded}
    read = from_binary(HTTPMessage(headers, b""), JSONFormat(), CloudEvent)

    assert read.get_attributes()["note"] == text
    assert cloud_events.decode_header_value("note", encoded.encode()) == text


@pytest.mark.parametrize("name", sorted(REQUIRED))
@pytest.mark.parametrize("value", ["", None])
def test_a_required_attribute_is_never_invented(name: str, value: str | None) -> None:
    assert refused(REQUIRED | {name: value}) == name


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("specversion", "0.3"),
        ("time", "yesterday"),
        ("time", "2026-13-01T00:00:00Z"),
        ("time", "2026-02-30T00:00:00Z"),
        ("time", "2026-02-28T25:00:00Z"),
        ("time", "2026-02-28T00:00:00"),
        ("id", 7),
        ("source", 7),
        ("subject", True),
        ("subject", ""),
        ("dataschema", ""),
        ("datacontenttype", ""),
        ("partitionkey", ""),
        ("Upper", "x"),
        ("with-dash", "x"),
        ("extension", 1.5),
        ("extension", 2**31),
        ("extension", {"a": 1}),
        ("extension", ["a"]),
        ("extension", "line\nbreak"),
        ("extension", "\ufdd0"),
        ("extension", "\U0001fffe"),
        ("data_base64", "=not base64="),
        ("data_base64", 5),
    ],
)
def test_a_broken_attribute_is_refused_by_its_name(member: str, value: Any) -> None:
    assert refused(REQUIRED | {member: value}) == member


def test_data_and_data_base64_exclude_each_other() -> None:
    assert refused(REQUIRED | {"data": 1, "data_base64": "aGk="}) == "data_base64"
    assert parsed(REQUIRED | {"data": None, "data_base64": "aGk="}).data == b"hi"


@pytest.mark.parametrize(
    "time",
    ["2026-11-28T12:00:00Z", "2026-11-28t12:00:00.123456789z", "2016-12-31T23:59:60Z", "2026-11-28T12:00:00-08:00"],
)
def test_times_of_rfc_3339_keep_their_spelling(time: str) -> None:
    assert parsed(REQUIRED | {"time": time}).attributes["time"] == time


def test_numbers_and_booleans_become_their_canonical_text() -> None:
    event = parsed(REQUIRED | {"count": -5, "urgent": True, "late": False})

    assert {name: event.attributes[name] for name in ("count", "urgent", "late")} == {
        "count": "-5",
        "urgent": "true",
        "late": "false",
    }


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b"%e2%82%ac", "€"),
        (b'"quoted \\"text\\" %20"', 'quoted "text"  '),
        ("à".encode(), "à"),
        (b"  outer blanks\t", "outer blanks"),
    ],
)
def test_header_values_are_unquoted_and_decoded(raw: bytes, text: str) -> None:
    assert cloud_events.decode_header_value("note", raw) == text


@pytest.mark.parametrize("raw", [b"%C0%A0", b"%", b"%2", b"%zz", b"%FF", b"\xff", b'"open', b'"a"b"', b'"a\\"'])
def test_header_values_that_are_no_percent_encoded_utf_8_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidEvent) as error:
        cloud_events.decode_header_value("note", raw)
    assert error.value.attribute == "note"


def test_attributes_in_headers_are_not_repeated_and_have_no_reserved_names() -> None:
    headers = [(f"ce-{name}".encode(), value.encode()) for name, value in REQUIRED.items()]
    for further, attribute in (
        ((b"ce-id", b"2"), "id"),
        ((b"ce-datacontenttype", b"text/plain"), "datacontenttype"),
        ((b"ce-data", b"x"), "data"),
        ((b"ce-a_b", b"x"), "a_b"),
        ((b"ce-", b"x"), ""),
    ):
        with pytest.raises(InvalidEvent) as error:
            cloud_events.parse_binary_event([*headers, further], None)
        assert error.value.attribute == attribute


def test_an_ordinary_record_has_attributes_of_its_place() -> None:
    record = StoredRecord(7, 1_517_363_399_650, VALUE_TEXT, b"alice", b"hi", None, 0)

    place = cloud_events.place_of("orders", 4, 3, record)

    assert json.loads(cloud_events.to_json(record, place)) == {
        "specversion": "1.0",
        "id": place.message_id,
        "source": "/topics/orders/partitions/3",
        "type": "millrace.record",
        "time": "2018-01-31T01:49:59.650Z",
        "partitionkey": "alice",
        "datacontenttype": "text/plain; charset=utf-8",
        "data": "hi",
    }


def test_the_message_id_is_opaque_and_belongs_to_one_offset_of_one_topic() -> None:
    record = StoredRecord(7, 0, VALUE_JSON, None, b"1", None, 0)
    others = [(4, 3, record), (4, 37, record._replace(offset=0)), (5, 3, record), (4, 3, record._replace(offset=8))]

    ids = [cloud_events.place_of("a.b", topic_id, partition, each).message_id for topic_id, partition, each in others]

    assert len(set(ids)) == 4
    assert cloud_events.place_of("renamed", 4, 3, record._replace(timestamp_ms=9)).message_id == ids[0]
    assert all("." not in each for each in ids)


@pytest.mark.parametrize("key", [b"", b"line\nbreak", b"\xff\xfe"])
def test_a_key_that_cannot_be_a_partitionkey_is_left_out(key: bytes) -> None:
    record = StoredRecord(0, 0, KEY_BASE64 if key == b"\xff\xfe" else 0, key, b"1", None, 0)

    assert "partitionkey" not in json.loads(cloud_events.to_json(record, PLACE))


@pytest.mark.parametrize(
    ("encoding", "content_type", "value", "member"),
    [
        (VALUE_TEXT, "application/json", b"hi", "data_base64"),
        (VALUE_JSON, "text/plain", b'"hi"', "data_base64"),
        (VALUE_JSON, "text/plain", b'{"a":1}', "data"),
        (VALUE_TEXT, "text/plain", b"hi", "data"),
        (VALUE_JSON, None, b'"hi"', "data"),
        (VALUE_BASE64, "application/json", b"{", "data_base64"),
    ],
)
def test_data_that_would_be_read_as_something_else_is_given_as_bytes(
    encoding: int, content_type: str | None, value: bytes, member: str
) -> None:
    event = Event(dict(REQUIRED), content_type, None, encoding, value)

    assert member in json.loads(cloud_events.to_json(stored(event), PLACE))
