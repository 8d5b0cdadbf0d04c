"""Produce over HTTP: media types of a body, and values that are fetched unchanged."""

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
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
MOMENT_MS = 1_517_363_399_650


async def produce(client: httpx2.AsyncClient, body: bytes, query: str = "", content_type: str | None = None) -> Any:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await client.post(URL + query, content=body, headers=headers)
    assert response.status_code == 201, response.text
    return response.json()


async def fetched(client: httpx2.AsyncClient) -> list[Any]:
    """Return the records without partition, offset and timestamp."""
    records = (await client.get(URL)).json()["records"]
    return [{k: v for k, v in r.items() if k not in {"partition", "offset", "timestamp_ms"}} for r in records]


async def refused(
    client: httpx2.AsyncClient, body: bytes, query: str = "", content_type: str = "application/json"
) -> Any:
    response = await client.post(URL + query, content=body, headers={"Content-Type": content_type})
    assert 400 <= response.status_code < 500, response.text
    assert (await client.get("/v1/topics/orders")).status_code == 404
    return response.json()


async def test_the_answer_has_partition_offset_and_timestamp_of_each_record(client: httpx2.AsyncClient) -> None:
    first_ms, second_ms, third_ms = range(1_517_363_399_650, 1_517_363_399_653)
    records = [{"value": 1, "timestamp_ms": second_ms}, {"value": 2, "timestamp_ms": third_ms}]
    single = await client.post(URL, json={"value": "hi", "timestamp_ms": first_ms})
    batch = await client.post(URL, json={"records": records})

    assert (single.status_code, batch.status_code) == (201, 201)
    assert single.json() == {"offsets": [{"partition": 0, "offset": 0, "timestamp_ms": first_ms}]}
    assert batch.json() == {
        "offsets": [
            {"partition": 0, "offset": 1, "timestamp_ms": second_ms},
            {"partition": 0, "offset": 2, "timestamp_ms": third_ms},
        ]
    }


async def test_a_minimal_answer_has_one_entry_per_partition(client: httpx2.AsyncClient) -> None:
    records = [{"value": n, "partition": partition} for n, partition in enumerate([1, 0, 1, 1])]
    await client.post(TOPIC_URL, json={"value": 0, "partition": 1})

    response = await client.post(TOPIC_URL, json={"records": records}, headers={"Prefer": "return=minimal"})

    assert (response.status_code, response.headers["preference-applied"]) == (201, "return=minimal")
    assert response.json() == {
        "partitions": [
            {"partition": 1, "base_offset": 1, "count": 3},
            {"partition": 0, "base_offset": 0, "count": 1},
        ]
    }


@pytest.mark.parametrize(
    "value",
    [
        "0", "-0", "false", "true", '""', "[]", "{}", "1.0", "1", "1e999", "1E+2", "-1.50e-7",
        "1180591620717411303424", "123456789012345678901234567890.000", '"\\u00e9\\/\\n"', '"é😀"', '"\\ud83d\\ude00"',
        '{"b":1,"a":2,"b":3}', '{ "a" : [ 1 ,\n\t2 ] }', '"\\u0000"', "[" * 499 + "0" + "]" * 499, '" leading"',
    ],
)  # fmt: skip
async def test_a_json_value_is_fetched_byte_for_byte(sqlite_client: httpx2.AsyncClient, value: str) -> None:
    await produce(sqlite_client, b'{"value": ' + value.encode() + b" }", content_type="application/json")

    assert f'"value":{value}}}]' in (await sqlite_client.get(URL)).text


@pytest.mark.parametrize(
    "record",
    [
        {"key": None, "value": None},
        {"key": "", "value": "", "encoding": "text"},
        {"key": "k", "value": 'tab\t, nul\0, quote" and \\ é😀\u2028', "encoding": "text"},
        {"key": "nul\0", "value": "AP/+", "encoding": "base64"},
        {"key": "/wA=", "value": "", "encoding": "base64", "key_encoding": "base64"},
        {"key": "", "value": 1, "key_encoding": "base64"},
        {"key": None, "value": 1, "headers": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]},
        {"key": None, "value": 1, "headers": [{"name": "", "value": None}, {"name": "é", "value": ""}]},
        {"key": None, "value": 1, "headers": [{"name": "b", "value": "AP8=", "encoding": "base64"}]},
    ],
    ids=lambda record: json.dumps(record)[:40],
)
async def test_a_fetched_record_can_be_produced_again_unchanged(
    client: httpx2.AsyncClient, record: dict[str, Any]
) -> None:
    assert (await client.post(URL, json=record)).status_code == 201
    first = (await client.get(URL)).json()["records"]

    assert (await client.post(URL, json={"records": [first[0] | {"topic": "orders"}]})).status_code == 201

    assert await fetched(client) == [record, record]


@pytest.mark.parametrize("encoding", ["json", "text", "base64"])
async def test_null_is_the_tombstone_in_every_encoding(sqlite_client: httpx2.AsyncClient, encoding: str) -> None:
    await sqlite_client.post(URL, json={"key": "k", "value": None, "encoding": encoding})

    assert await fetched(sqlite_client) == [{"key": "k", "value": None}]


async def test_headers_may_be_an_object(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(URL, json={"value": 1, "headers": {"a": "1", "b": None}})
    await sqlite_client.post(URL, json={"value": 1, "headers": {}})

    assert await fetched(sqlite_client) == [
        {"key": None, "value": 1, "headers": [{"name": "a", "value": "1"}, {"name": "b", "value": None}]},
        {"key": None, "value": 1},
    ]


@pytest.mark.parametrize(
    ("content_type", "query"),
    [
        ("application/x-ndjson", ""),
        ("application/jsonl", ""),
        ("application/json", "?lines=records"),
        ("application/vnd.x+json", "?lines=records"),
        ("application/x-ndjson; charset=utf-8", "?lines=records"),
    ],
)
async def test_each_line_is_a_record_and_blank_lines_are_skipped(
    sqlite_client: httpx2.AsyncClient, content_type: str, query: str
) -> None:
    body = b'{"value":1}\n\n  \t\r\n{"key":"k","value":null}\r\n{"value":"x","encoding":"text"}'

    await produce(sqlite_client, body, query, content_type)

    assert await fetched(sqlite_client) == [
        {"key": None, "value": 1},
        {"key": "k", "value": None},
        {"key": None, "value": "x", "encoding": "text"},
    ]


@pytest.mark.parametrize("body", [b'{"value":1}{"value":2}', b'{"value":\n1}', b'{"value":1}\n{"value":2} x'])
async def test_a_line_has_exactly_one_record(sqlite_client: httpx2.AsyncClient, body: bytes) -> None:
    assert (await refused(sqlite_client, body, content_type="application/x-ndjson"))["code"] == "BAD_REQUEST"


async def test_key_and_timestamp_come_from_inside_each_value(client: httpx2.AsyncClient) -> None:
    body = (
        b'{"id":"a","at":1517363399650,"deep":{"~x/y":["q"]}}\n\n'
        b'{"id":1.50,"at":"2018-01-31T01:49:59.651Z"}\n'
        b'{"id":null,"at":"2018-01-31T02:49:59.652+01:00"}\n'
        b'{"id":true,"at":0}\n'
    )
    answer = await produce(client, body, "?lines=values&key_from=/id&timestamp_from=/at", "application/json")

    assert [place["timestamp_ms"] for place in answer["offsets"]] == [
        1_517_363_399_650, 1_517_363_399_651, 1_517_363_399_652, 0,
    ]  # fmt: skip
    assert [record["key"] for record in await fetched(client)] == ["a", "1.50", None, "true"]
    assert '"value":{"id":1.50,"at":"2018-01-31T01:49:59.651Z"}' in (await client.get(URL)).text


async def test_a_json_pointer_may_have_several_parts_and_escapes(sqlite_client: httpx2.AsyncClient) -> None:
    body = b'{"~x/y":[{"":"key"},2]}'

    await produce(sqlite_client, body, "?lines=values&key_from=/~0x~1y/0/", "application/x-ndjson")
    await produce(sqlite_client, b'["a","b"]', "?lines=values&key_from=/1", "application/x-ndjson")

    assert [record["key"] for record in await fetched(sqlite_client)] == ["key", "b"]


@pytest.mark.parametrize(
    ("query", "good", "bad", "field"),
    [
        ("key_from=/id", b'{"id":1}', b'{"no":1}', "key_from"),
        ("key_from=/id", b'{"id":1}', b'{"id":{}}', "key_from"),
        ("key_from=/id", b'{"id":1}', b'{"id":[1]}', "key_from"),
        ("key_from=/id", b'{"id":1}', b"17", "key_from"),
        ("key_from=/id/x", b'{"id":{"x":1}}', b'{"id":"text"}', "key_from"),
        ("key_from=/1", b"[1,2]", b"[1]", "key_from"),
        ("key_from=/0", b"[1]", b'{"1":2}', "key_from"),
        ("key_from=/id", b'{"id":1}', b'{"id":"' + b"k" * 4097 + b'"}', "key"),
        ("timestamp_from=/at", b'{"at":1}', b'{"id":1}', "timestamp_from"),
        ("timestamp_from=/at", b'{"at":1}', b'{"at":"noon"}', "timestamp_from"),
        ("timestamp_from=/at", b'{"at":1}', b'{"at":null}', "timestamp_from"),
        ("timestamp_from=/at", b'{"at":1}', b'{"at":-1}', "timestamp_from"),
        ("timestamp_from=/at", b'{"at":1}', b'{"at":1.5}', "timestamp_from"),
        ("timestamp_from=/at", b'{"at":1}', b'{"at":{}}', "timestamp_from"),
        ("timestamp_from=/at", b'{"at":1}', b'{"at":99999999999999999999}', "timestamp_from"),
        ("timestamp_from=/at", b'{"at":1}', b'{"at":9999999999999}', "timestamp_ms"),
    ],
)
async def test_a_value_without_a_key_or_timestamp_at_the_pointer_is_refused_with_its_index(
    sqlite_client: httpx2.AsyncClient, query: str, good: bytes, bad: bytes, field: str
) -> None:
    problem = await refused(sqlite_client, b"\n".join([b"", good, b"", good, bad, good]), f"?lines=values&{query}")

    assert problem["status"] == 422
    assert (problem["errors"][0]["field"], problem["errors"][0]["index"]) == (field, 2)


@pytest.mark.parametrize("query", ["key_from=/id", "timestamp_from=/at", "lines=values&key_from=id", "lines=pages"])
async def test_json_pointers_need_lines_of_values(sqlite_client: httpx2.AsyncClient, query: str) -> None:
    assert (await refused(sqlite_client, b'{"value":1}', f"?{query}"))["status"] == 422


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        (None, b"\x00\xff", {"key": None, "value": "AP8=", "encoding": "base64"}),
        (None, b"", {"key": None, "value": "", "encoding": "base64"}),
        ("application/octet-stream", b"hi", {"key": None, "value": "aGk=", "encoding": "base64"}),
        ("image/png", b"hi", {"key": None, "value": "aGk=", "encoding": "base64"}),
        ("text/plain", "é\n".encode(), {"key": None, "value": "é\n", "encoding": "text"}),
        ("TEXT/CSV; Charset=UTF-8", b"a,b", {"key": None, "value": "a,b", "encoding": "text"}),
        ("text/plain", b"\xff", {"key": None, "value": "/w==", "encoding": "base64"}),
        ("text/plain; charset=latin-1", b"hi", {"key": None, "value": "aGk=", "encoding": "base64"}),
        ("text/plain", b"", {"key": None, "value": "", "encoding": "text"}),
        ("application/vnd.x+json", b'{"b":1,"a":2}', {"key": None, "value": {"b": 1, "a": 2}}),
        ("application/vnd.x+json", b"null", {"key": None, "value": None}),
    ],
)
async def test_a_body_of_another_media_type_is_one_value(
    sqlite_client: httpx2.AsyncClient, content_type: str | None, body: bytes, expected: dict[str, Any]
) -> None:
    await produce(sqlite_client, body, content_type=content_type)

    assert await fetched(sqlite_client) == [expected]


async def test_key_partition_and_timestamp_of_a_raw_value_come_from_the_query(client: httpx2.AsyncClient) -> None:
    response = await client.post(
        TOPIC_URL, params={"key": "null", "partition": 2, "timestamp_ms": MOMENT_MS}, content=b"x"
    )

    assert response.json() == {"offsets": [{"partition": 2, "offset": 0, "timestamp_ms": MOMENT_MS}]}
    (record,) = (await client.get("/v1/topics/orders/partitions/2/records")).json()["records"]
    assert record == {
        "partition": 2, "offset": 0, "timestamp_ms": MOMENT_MS, "key": "null", "value": "eA==", "encoding": "base64",
    }  # fmt: skip


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_a_form_is_refused_with_commands_that_work(sqlite_client: httpx2.AsyncClient, content_type: str) -> None:
    for method, url in (("POST", URL), ("POST", TOPIC_URL), ("PUT", "/v1/topics/orders")):
        response = await sqlite_client.request(
            method, url, content=b'{"value":"hi"}', headers={"Content-Type": content_type}
        )

        assert (response.status_code, response.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert "curl --json '{…}' URL" in response.json()["detail"]
        assert "curl -H 'Content-Type: application/json' -d '{…}' URL" in response.json()["detail"]


async def test_unsupported_media_types_and_combinations_are_415(sqlite_client: httpx2.AsyncClient) -> None:
    for query, content_type in (
        ("", "application/cloudevents"),
        ("", "application/cloudevents+xml"),
        ("", "application/cloudevents-batch+avro"),
        ("?lines=values", "text/plain"),
        ("?lines=records", "application/octet-stream"),
    ):
        problem = await refused(sqlite_client, b"{}", query, content_type)
        assert problem["code"] == "UNSUPPORTED_MEDIA_TYPE"


async def test_keys_map_to_the_partitions_of_kafka(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 10})
    keys = ["21", "foobar", "abc", "", "a-little-bit-long-string"]

    response = await client.post(TOPIC_URL, json={"records": [{"key": key, "value": 1} for key in keys]})

    assert [place["partition"] for place in response.json()["offsets"]] == [0, 6, 7, 1, 2]


async def test_records_without_a_key_go_to_one_partition_per_request_round_robin(client: httpx2.AsyncClient) -> None:
    chosen = []
    for _ in range(8):
        answer = (await client.post(TOPIC_URL, json={"records": [{"value": 1}] * 3})).json()
        (partition,) = {place["partition"] for place in answer["offsets"]}
        chosen.append(partition)

    assert sorted(chosen) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(chosen[:4])) == 4


async def test_log_append_time_replaces_the_timestamp_of_the_record(serve: Serve) -> None:
    _, client = await serve()
    await client.put("/v1/topics/orders", json={"config": {"message_timestamp_type": "LogAppendTime"}})

    answer = (await client.post(URL, json={"value": 1, "timestamp_ms": 5})).json()

    assert answer["offsets"][0]["timestamp_ms"] > 1_700_000_000_000
