"""CloudEvents over HTTP: one in headers, one in JSON, a batch; and records fetched as a batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

URL = "/v1/topics/orders/partitions/0/records"
TOPIC_URL = "/v1/topics/orders/records"
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
ACCEPT = {"Accept": "application/cloudevents-batch+json"}
EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed"}
BINARY = {f"ce-{name}": value for name, value in EVENT.items()}


async def records(client: httpx2.AsyncClient) -> list[Any]:
    return list((await client.get(URL)).json()["records"])


async def events(client: httpx2.AsyncClient) -> list[Any]:
    response = await client.get(URL, headers=ACCEPT)
    assert response.headers["content-type"] == "application/cloudevents-batch+json"
    return list(response.json())


async def refused(client: httpx2.AsyncClient, headers: dict[str, str], body: bytes, status: int = 400) -> Any:
    response = await client.post(URL, content=body, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


async def test_an_event_in_headers_becomes_a_record_with_headers(client: httpx2.AsyncClient) -> None:
    headers = BINARY | {"ce-note": "Euro%20%E2%82%AC", "ce-partitionkey": "alice", "Content-Type": "application/xml"}

    assert (await client.post(URL, content=b"<order/>", headers=headers)).status_code == 201

    (record,) = await records(client)
    assert record["key"] == "alice"
    assert (record["value"], record["encoding"]) == ("PG9yZGVyLz4=", "base64")
    assert {each["name"]: each["value"] for each in record["headers"]} == {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "/shop",
        "ce_type": "order.placed",
        "ce_note": "Euro €",
        "content-type": "application/xml",
    }
    assert await events(client) == [
        EVENT
        | {
            "note": "Euro €",
            "partitionkey": "alice",
            "datacontenttype": "application/xml",
            "data_base64": "PG9yZGVyLz4=",
        }
    ]


async def test_data_in_the_body_keeps_its_type(client: httpx2.AsyncClient) -> None:
    for content_type, body, member, data in (
        ("application/json", b'{"value": 1e2}', "data", {"value": 100.0}),
        ("application/vnd.shop+json; charset=utf-8", b'"text"', "data", "text"),
        ("text/plain", b"hi", "data", "hi"),
        ("text/plain", b"", "data", ""),
        ("text/plain; charset=latin-1", b"\xe9", "data_base64", "6Q=="),
        ("application/octet-stream", b"\x00", "data_base64", "AA=="),
        ("application/json", b"", None, None),
        ("application/x-ndjson", b"1\n2\n", "data_base64", "MQoyCg=="),
    ):
        await client.put("/v1/topics/orders")
        answer = await client.post(URL, content=body, headers=BINARY | {"Content-Type": content_type})
        assert answer.status_code == 201, answer.text
        event = (await events(client))[0]
        assert event == EVENT | {"datacontenttype": content_type} | ({} if member is None else {member: data})
        await client.delete("/v1/topics/orders")


async def test_an_event_in_headers_without_a_content_type_has_bytes(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(URL, content=b"hi", headers=BINARY)
    await sqlite_client.post(URL, content=b"", headers=BINARY)

    assert await events(sqlite_client) == [EVENT | {"data_base64": "aGk="}, EVENT]


async def test_an_event_in_json_and_a_batch_are_given_as_they_came(client: httpx2.AsyncClient) -> None:
    first = EVENT | {
        "time": "2026-11-28T12:00:00.5+01:00",
        "partitionkey": "alice",
        "data": {"big": 2**70, "a": [None]},
    }
    batch = [EVENT | {"id": str(number), "extension": "x", "data": number} for number in range(3)]

    assert (await client.post(URL, content=json.dumps(first), headers=STRUCTURED)).status_code == 201
    answer = await client.post(URL, content=json.dumps(batch), headers=BATCH)

    assert [place["offset"] for place in answer.json()["offsets"]] == [1, 2, 3]
    assert await events(client) == [first, *batch]


async def test_the_key_of_an_event_chooses_its_partition(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put("/v1/topics/orders", json={"partitions": 10})
    ordinary = await sqlite_client.post(TOPIC_URL, json={"key": "foobar", "value": 1})

    event = await sqlite_client.post(TOPIC_URL, json=EVENT | {"partitionkey": "foobar"}, headers=STRUCTURED)

    assert event.json()["offsets"][0]["partition"] == ordinary.json()["offsets"][0]["partition"]


async def test_all_partitions_are_read_as_a_batch(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 3})
    for partition in range(3):
        value = {"value": partition, "timestamp_ms": 1_000 + partition, "partition": partition}
        assert (await client.post(TOPIC_URL, json=value)).status_code == 201

    response = await client.get(TOPIC_URL, params={"max_records": 2}, headers=ACCEPT)
    rest = await client.get(response.links["next"]["url"], headers=ACCEPT)

    found = [*response.json(), *rest.json()]
    assert [(event["source"], event["type"], event["time"], event["data"]) for event in found] == [
        ("/topics/orders/partitions/0", "millrace.record", "1970-01-01T00:00:01.000Z", 0),
        ("/topics/orders/partitions/1", "millrace.record", "1970-01-01T00:00:01.001Z", 1),
        ("/topics/orders/partitions/2", "millrace.record", "1970-01-01T00:00:01.002Z", 2),
    ]
    again = (await client.get(TOPIC_URL, headers=ACCEPT)).json()
    assert again == found
    assert len({event["id"] for event in found}) == 3


async def test_an_empty_page_is_an_empty_batch(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put("/v1/topics/orders")

    assert await events(sqlite_client) == []


@pytest.mark.parametrize("name", sorted(EVENT))
async def test_a_missing_attribute_is_400_in_every_mode(sqlite_client: httpx2.AsyncClient, name: str) -> None:
    event = {key: value for key, value in EVENT.items() if key != name}
    headers = {f"ce-{key}": value for key, value in event.items()}

    problem = await refused(sqlite_client, headers | {"Content-Type": "text/plain"}, b"hi")
    assert problem["errors"] == [{"field": name, "detail": "is required, and must not be empty"}]
    problem = await refused(sqlite_client, STRUCTURED, json.dumps(event).encode())
    assert problem["errors"] == [{"field": name, "detail": "is required, and must not be empty"}]
    problem = await refused(sqlite_client, BATCH, json.dumps([EVENT, event]).encode())
    assert problem["errors"] == [{"index": 1, "field": name, "detail": "is required, and must not be empty"}]
    assert problem["detail"].startswith(f"event 1: {name} ")


@pytest.mark.parametrize("name", ["ce-id", "ce-source", "ce-type"])
async def test_headers_of_events_without_specversion_do_not_become_an_ordinary_record(
    sqlite_client: httpx2.AsyncClient, name: str
) -> None:
    for content_type in ("application/json", "text/plain", "application/octet-stream"):
        problem = await refused(sqlite_client, {name: "1", "Content-Type": content_type}, b'{"value": 1}')
        assert problem["errors"][0]["field"] == "specversion"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b"[1]", 400),
        (b"[[]]", 400),
        (b"null", 422),
        (b'[{"specversion":"1.0","id":"\\ud800","source":"/s","type":"t"}]', 400),
        (b'[{"specversion":"1.0","id":"1","source":"/s","type":"t","type":"u"}]', 400),
        (b'[{"specversion":"1.0","id":"1","source":"/s","type":"t","data":\xff}]', 400),
        (b'[{"specversion":"1.0","id":"1","source":"/s","type":"t","x":' + b"[" * 9_000 + b"]" * 9_000 + b"}]", 400),
        (b'[{"specversion":"1.0","id":"1","source":"/s","type":"t","data":' + b"[" * 600 + b"]" * 600 + b"}]", 400),
    ],
)
async def test_a_broken_batch_is_refused_whole(sqlite_client: httpx2.AsyncClient, body: bytes, status: int) -> None:
    await sqlite_client.put("/v1/topics/orders")

    await refused(sqlite_client, BATCH, body, status)

    assert await records(sqlite_client) == []


async def test_limits_of_records_hold_for_events(serve: Serve) -> None:
    _, client = await serve(max_records=2)
    many = {f"x{number}": "1" for number in range(60)}
    for event in (many, {"x": "y" * 17_000}, {"partitionkey": "k" * 5_000}):
        await refused(client, STRUCTURED, json.dumps(EVENT | event).encode(), 422)
    await refused(client, BATCH, json.dumps([EVENT] * 3).encode(), 422)


async def test_invalid_data_of_a_json_type_is_400(sqlite_client: httpx2.AsyncClient) -> None:
    for body in (b"{", b"\xff", b'"\\ud800"', b"NaN"):
        await refused(sqlite_client, BINARY | {"Content-Type": "application/json"}, body)


async def test_invalid_percent_encoding_is_400(sqlite_client: httpx2.AsyncClient) -> None:
    for value in ("%C0%A0", "%", "%zz"):
        problem = await refused(sqlite_client, BINARY | {"ce-note": value}, b"")
        assert problem["errors"] == [{"field": "note", "detail": "must be percent-encoded UTF-8"}]


async def test_the_query_of_other_bodies_is_refused(sqlite_client: httpx2.AsyncClient) -> None:
    for query in ("lines=values", "lines=records", "key=a", "key_from=/a"):
        for headers in (BINARY, STRUCTURED, BATCH):
            response = await sqlite_client.post(f"{URL}?{query}", content=json.dumps(EVENT), headers=headers)
            assert response.status_code == 422
    answer = await sqlite_client.post(f"{TOPIC_URL}?partition=0&timestamp_ms=5", json=EVENT, headers=STRUCTURED)
    assert answer.json()["offsets"] == [{"partition": 0, "offset": 0, "timestamp_ms": 5}]


async def test_another_event_under_an_idempotency_key_is_not_a_repeat(client: httpx2.AsyncClient) -> None:
    headers = BINARY | {"Idempotency-Key": "k"}

    assert (await client.post(URL, content=b"same", headers=headers)).status_code == 201
    assert (await client.post(URL, content=b"same", headers=headers)).json()["duplicate"] is True
    other = await client.post(URL, content=b"same", headers=headers | {"ce-id": "2"})

    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_fetched_batch_can_be_produced_unchanged(client: httpx2.AsyncClient) -> None:
    await client.post(URL, json={"records": [{"key": "k", "value": {"a": 1}}, {"value": "aGk=", "encoding": "base64"}]})
    batch = (await client.get(URL, headers=ACCEPT)).content

    copied = await client.post("/v1/topics/copy/partitions/0/records", content=batch, headers=BATCH)
    assert copied.status_code == 201

    assert (await client.get("/v1/topics/copy/partitions/0/records", headers=ACCEPT)).content == batch


async def test_follow_streams_lines_although_a_batch_is_accepted(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(URL, json={"value": 1})

    response = await sqlite_client.get(URL, params={"follow": "true", "offset": 0, "max_events": 1}, headers=ACCEPT)

    assert response.headers["content-type"] == "application/x-ndjson"
