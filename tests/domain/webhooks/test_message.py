"""What an attempt sends in each mode: id, body and headers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from app.domain.log.headers import Header, encode_headers
from app.domain.log.record import KEY_BASE64, VALUE_BASE64, VALUE_JSON, VALUE_TEXT, StoredRecord
from app.domain.webhooks.message import Content, WebhookRecord, batch_id, content, message_id, ping

if TYPE_CHECKING:
    from app.domain.webhooks.webhook import Mode

TIME_MS = 1_517_363_399_650
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
VALUE = re.compile(rb"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?")
MODES: list[Mode] = [
    "record",
    "envelope",
    "envelope-batch",
    "cloudevents-binary",
    "cloudevents-structured",
    "cloudevents-batch",
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def record(
    value: bytes | None = b'{"n": 1.0}',
    encoding: int = VALUE_JSON,
    *,
    key: bytes | None = None,
    headers: list[Header] | None = None,
    offset: int = 7,
) -> WebhookRecord:
    stored = StoredRecord(
        offset, TIME_MS, encoding, key, value, None if headers is None else encode_headers(headers), 0
    )
    return WebhookRecord(5, "orders", 3, stored, message_id(1, 5, 3, offset))


def plain(given: WebhookRecord) -> tuple[dict[str, str], bytes]:
    """Return headers and body in the mode `record`."""
    return headers_of(content("record", "billing", [given], 1))


def headers_of(found: Content) -> tuple[dict[str, str], bytes]:
    return {name.decode(): value.decode() for name, value in found.headers}, found.body


def test_a_message_id_is_opaque_and_differs_by_webhook_topic_partition_and_offset() -> None:
    ids = [message_id(*place) for place in ((1, 5, 3, 7), (2, 5, 3, 7), (1, 6, 3, 7), (1, 5, 4, 7), (1, 5, 3, 8))]

    assert len(set(ids)) == 5
    assert all(re.fullmatch(r"msg_[a-z2-7]{32}", each) for each in ids)
    assert message_id(11, 1, 1, 1) != message_id(1, 11, 1, 1)


def test_the_id_of_a_batch_depends_on_its_records_and_of_one_record_is_its_own() -> None:
    assert batch_id(["msg_a"]) == "msg_a"
    assert len({batch_id(["msg_a", "msg_b"]), batch_id(["msg_b", "msg_a"]), batch_id(["msg_a"])}) == 3


def test_the_value_is_the_body_byte_for_byte() -> None:
    headers, body = plain(record(b'{"b": 1.0, "a":\t"\\u00e4"}', key="ä 1".encode()))

    assert body == b'{"b": 1.0, "a":\t"\\u00e4"}'
    assert headers == {
        "content-type": "application/json",
        "millrace-topic": "orders",
        "millrace-partition": "3",
        "millrace-offset": "7",
        "millrace-timestamp-ms": "1517363399650",
        "millrace-key": "%C3%A4%201",
    }


@pytest.mark.parametrize(
    ("encoding", "headers", "expected"),
    [
        (VALUE_JSON, [], "application/json"),
        (VALUE_TEXT, [], "text/plain; charset=utf-8"),
        (VALUE_BASE64, [], "application/octet-stream"),
        (VALUE_BASE64, [Header("Content-Type", "application/avro")], "application/avro"),
        (VALUE_JSON, [Header("content-type", "a\r\nX-Evil: 1")], "a%0D%0AX-Evil:%201"),
        (VALUE_JSON, [Header("content-type", "text/" + "x" * 1_000)], "application/json"),
    ],
)
def test_the_content_type_is_that_of_the_record_or_of_its_encoding(
    encoding: int, headers: list[Header], expected: str
) -> None:
    found, _ = plain(record(b"1", encoding, headers=headers))

    assert found["content-type"] == expected
    assert "millrace-header-content-type" not in found


def test_a_tombstone_is_an_empty_body_that_says_so() -> None:
    headers, body = plain(record(None, key=b"7"))

    assert (body, headers["millrace-tombstone"], headers["millrace-key"]) == (b"", "true", "7")
    assert "millrace-tombstone" not in plain(record(b""))[0]


def test_headers_of_a_record_are_escaped_and_names_that_are_no_tokens_are_left_out() -> None:
    headers, _ = plain(
        record(
            headers=[
                Header("Trace", 'a "b" %\n'),
                Header("bad name", "1"),
                Header("ünicode", "1"),
                Header("", "1"),
                Header("none", None),
                Header("binary", "AAE=", "base64"),
            ]
        )
    )

    assert {name: value for name, value in headers.items() if name.startswith("millrace-header-")} == {
        "millrace-header-trace": "a%20%22b%22%20%25%0A",
        "millrace-header-binary": "AAE=",
    }


def test_a_binary_key_is_base64_and_says_so() -> None:
    headers, _ = plain(record(encoding=VALUE_JSON | KEY_BASE64, key=b"\x00\xff"))

    assert (headers["millrace-key"], headers["millrace-key-encoding"]) == ("AP8=", "base64")


def test_beyond_4_kib_key_and_headers_are_left_out_and_the_rest_stays() -> None:
    fitting = [Header("a", "x" * (4_096 - len("millrace-header-a")))]
    headers, _ = plain(record(headers=fitting))
    assert "millrace-truncated" not in headers

    headers, _ = plain(record(headers=fitting, key=b"k"))
    assert headers == {
        "content-type": "application/json",
        "millrace-topic": "orders",
        "millrace-partition": "3",
        "millrace-offset": "7",
        "millrace-timestamp-ms": "1517363399650",
        "millrace-truncated": "true",
    }


def test_a_traceparent_goes_along_if_it_is_one() -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for mode in ("record", "cloudevents-binary"):
        found, _ = headers_of(content(mode, "billing", [record(headers=[Header("traceparent", traceparent)])], 1))
        assert found["traceparent"] == traceparent
        long = [Header("traceparent", traceparent + "0" * 5_000)]
        assert "traceparent" not in headers_of(content(mode, "billing", [record(headers=long)], 1))[0]


@given(key=st.none() | st.binary(max_size=10), headers=st.lists(st.tuples(texts, st.none() | texts), max_size=5))
def test_no_record_makes_a_header_that_http_does_not_allow(
    key: bytes | None, headers: list[tuple[str, str | None]]
) -> None:
    given_record = record(
        encoding=VALUE_JSON | (KEY_BASE64 if key is not None else 0),
        key=key,
        headers=[Header(name, value) for name, value in headers],
    )
    for mode in MODES:
        for name, value in content(mode, "billing", [given_record], 1).headers:
            assert TOKEN.fullmatch(name), name
            assert VALUE.fullmatch(value), value


def test_an_envelope_has_the_record_as_fetch_shows_it() -> None:
    found = content("envelope", "billing", [record(b'"a"', key=b"k", headers=[Header("h", "v")])], 3)

    assert json.loads(found.body) == {
        "webhook": "billing",
        "message_id": found.message_id,
        "attempt": 3,
        "record": {
            "topic": "orders",
            "partition": 3,
            "offset": 7,
            "timestamp_ms": TIME_MS,
            "key": "k",
            "value": "a",
            "headers": [{"name": "h", "value": "v"}],
        },
    }


def test_a_batch_of_envelopes_names_each_message() -> None:
    records = [record(offset=offset) for offset in (7, 8)]
    found = content("envelope-batch", "billing", records, 1)

    body = json.loads(found.body)
    assert [each["message_id"] for each in body["records"]] == [each.message_id for each in records]
    assert [each["record"]["offset"] for each in body["records"]] == [7, 8]
    assert body["message_id"] == found.message_id == batch_id([each.message_id for each in records])


@pytest.mark.parametrize(
    ("value", "encoding", "data"),
    [
        (b'{"n":1}', VALUE_JSON, {"n": 1}),
        ("grün".encode(), VALUE_TEXT, "grün"),
        (b"\x00\xff", VALUE_BASE64, b"\x00\xff"),
    ],
)
def test_the_sdk_of_cloudevents_reads_each_mode(value: bytes, encoding: int, data: object) -> None:
    given_record = record(value, encoding, key=b"ann")
    binary = content("cloudevents-binary", "billing", [given_record], 1)
    structured = content("cloudevents-structured", "billing", [given_record], 1)
    batch = content("cloudevents-batch", "billing", [given_record, record(offset=8)], 1)

    headers, body = headers_of(binary)
    of_binary = from_binary(HTTPMessage(headers, body), JSONFormat(), CloudEvent)
    of_structured = JSONFormat().read(CloudEvent, structured.body)
    for event in (of_binary, of_structured):
        assert (event.get_id(), event.get_type(), event.get_source()) == (
            given_record.message_id,
            "millrace.record",
            "/topics/orders/partitions/3",
        )
        assert event.get_extension("partitionkey") == "ann"
    assert of_structured.get_data() == data
    assert body == value
    assert [event["id"] for event in json.loads(batch.body)] == [given_record.message_id, message_id(1, 5, 3, 8)]
    types = [headers_of(each)[0]["content-type"] for each in (structured, batch)]
    assert types == ["application/cloudevents+json", "application/cloudevents-batch+json"]


def test_an_event_keeps_its_attributes() -> None:
    attributes = {"specversion": "1.0", "id": "a.1", "source": "/shop", "type": "order.placed", "color": "grün"}
    event = record(
        b"<a/>",
        VALUE_TEXT,
        headers=[
            *(Header(f"ce_{name}", value) for name, value in attributes.items()),
            Header("content-type", "text/xml"),
        ],
    )
    binary, body = headers_of(content("cloudevents-binary", "billing", [event], 1))
    structured = json.loads(content("cloudevents-structured", "billing", [event], 1).body)

    assert {name[3:]: value for name, value in binary.items() if name.startswith("ce-")} == attributes | {
        "color": "gr%C3%BCn"
    }
    assert (binary["content-type"], body) == ("text/xml", b"<a/>")
    assert structured == attributes | {"datacontenttype": "text/xml", "data": "<a/>"}
    assert content("cloudevents-structured", "billing", [event], 1).message_id == event.message_id


def test_a_ping_names_its_webhook_and_has_an_id_of_its_own() -> None:
    first, second = ping(1, "billing", 1), ping(1, "billing", 2)

    assert json.loads(first.body) == {"type": "millrace.ping", "webhook": "billing", "message_id": first.message_id}
    assert first.message_id != second.message_id


@pytest.mark.parametrize("mode", ["record", "envelope", "cloudevents-binary", "cloudevents-structured"])
def test_a_mode_that_sends_one_record_refuses_several(mode: Mode) -> None:
    with pytest.raises(ValueError, match="one record at a time"):
        content(mode, "billing", [record(), record(offset=8)], 1)
