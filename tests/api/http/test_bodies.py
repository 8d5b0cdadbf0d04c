"""Bodies: names given twice, byte order marks, `null` for no body, Content-Type and Idempotency-Key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from app.api.documents.openapi import operations
from app.api.http.bodies.json_bodies import check_names
from app.errors.http import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

BOM = b"\xef\xbb\xbf"
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
ORDERS = "/v1/topics/orders"
RECORDS = f"{ORDERS}/records"
MEMBER = "/v1/groups/g/members/m"
ACQUIRE = "/v1/queues/jobs/acquire"
ACKNOWLEDGEMENT = b'{"delivery_id":"1.0.0.1","outcome":"accept"}'

TWICE = {
    "records": b'{"records":[{"value":1}],"records":[{"value":2}]}',
    "records with spaces": b'{ "records" : [{"value":1}] , "records" : [{"value":2}] }',
    "records escaped": b'{"records":[{"value":1}],"record\\u0073":[{"value":2}]}',
    "the same records": b'{"records":[{"value":1}],"records":[{"value":1}]}',
    "a longer second value": b'{"value":1,"value":12}',
    "a shorter second value": b'{"value":12,"value":1}',
    "null first": b'{"value":null,"value":1}',
    "key": b'{"key":"a","value":1,"key":"b"}',
    "an empty key": b'{"key":"","value":1,"key":""}',
    "the last member": b'{"value":1,"key":"a","key":"a"}',
    "partition": b'{"value":1,"partition":0,"partition":1}',
    "an ignored field": b'{"value":1,"topic":"a","topic":"b"}',
    "after a value with the name": b'{"value":{"records":[],"value":1},"value":2}',
    "three": b'{"value":1,"value":1,"value":1}',
    "text that looks like the end": b'{"key":"\\"}","value":"}","key":","}',
}
ONCE = {
    "one member": b'{"value":1}',
    "spaces": b' \n { "value" : 1 ,\t"key" : "k" } \r\n',
    "wide indentation": b'{\n' + b" " * 100 + b'"value": 1,\n' + b" " * 100 + b'"key": "k"\n}\n',
    "an escaped name": b'{"\\u0076\\u0061\\u006c\\u0075\\u0065":1,"key":"k"}',
    "names of other objects": b'{"value":{"value":1,"value":2,"key":{"key":1}},"key":"\\"key\\":1"}',
    "records with their names": b'{  "records"  :  [ {"value":{"records":1,"records":2}}, {"value":1} ]  }',
}  # fmt: skip


async def values(client: httpx2.AsyncClient) -> list[Any]:
    return [record["value"] for record in (await client.get(RECORDS)).json()["records"]]


@pytest.mark.parametrize("body", TWICE.values(), ids=TWICE)
async def test_a_name_given_twice_is_400_and_nothing_is_appended(
    sqlite_client: httpx2.AsyncClient, body: bytes
) -> None:
    for url in (RECORDS, f"{ORDERS}/partitions/0/records"):
        refused = await sqlite_client.post(url, content=body, headers=JSON)

        assert (refused.status_code, refused.json()["code"]) == (400, "BAD_REQUEST")
        assert "two members named" in refused.json()["detail"]
    assert (await sqlite_client.get(ORDERS)).status_code == 404


async def test_other_bodies_are_accepted(sqlite_client: httpx2.AsyncClient) -> None:
    for name, body in ONCE.items():
        assert (await sqlite_client.post(RECORDS, content=body, headers=JSON)).status_code == 201, name


async def test_names_given_twice_in_a_value_are_kept(sqlite_client: httpx2.AsyncClient) -> None:
    value = b'{"a":1,"a":2,"records":[],"records":[]}'
    for body, headers in (
        (b'{"value":' + value + b"}", JSON),
        (b'{"records":[{"value":' + value + b"}]}", JSON),
        (value, {"Content-Type": "application/geo+json"}),
    ):
        assert (await sqlite_client.post(RECORDS, content=body, headers=headers)).status_code == 201
    assert (await sqlite_client.post(f"{RECORDS}?lines=values", content=value, headers=JSON)).status_code == 201

    page = await sqlite_client.get(RECORDS)
    assert page.content.count(value) == 4


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", ORDERS, b'{"partitions":1,"partitions":2}'),
        ("PATCH", ORDERS, b'{"partitions":5,"partitions":6}'),
        ("POST", f"{MEMBER}/poll", b'{"topics":["orders"],"max_wait_ms":0,"topics":["others"]}'),
        ("POST", f"{MEMBER}/heartbeat", b'{"member_epoch":1,"member_epoch":2}'),
        ("POST", ACQUIRE, b'{"max_records":1, "max_records":2}'),
        (
            "POST",
            "/v1/queues/jobs/acknowledge",
            b'{"acknowledgements":[%b],"acknowledgements":[%b]}' % (ACKNOWLEDGEMENT, ACKNOWLEDGEMENT),
        ),
        ("POST", "/v1/transactions", b'{"produce":[{"topic":"a","records":[{"value":1}]}],"produce":[]}'),
        ("PUT", "/v1/queues/jobs", b'{"topic":"orders","topic":"others"}'),
    ],
)
async def test_every_body_is_checked_for_names_given_twice(
    sqlite_client: httpx2.AsyncClient, method: str, path: str, body: bytes
) -> None:
    refused = await sqlite_client.request(method, path, content=body, headers=JSON)

    assert (refused.status_code, refused.json()["code"]) == (400, "BAD_REQUEST"), refused.text
    assert "two members named" in refused.json()["detail"]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n  ", "\t:  ")])
def test_names_are_compared_whatever_the_spacing(separators: tuple[str, str]) -> None:
    members = {f"name_{number}": [number, {"name_1": "name_2"}] for number in range(20)}
    body = json.dumps(members, separators=separators).encode()
    check_names(body)

    for number in range(20):
        twice = body[:-1] + f'{separators[0]}"name_{number}"{separators[1]}0}}'.encode()
        with pytest.raises(BadRequest, match=f"named name_{number};"):
            check_names(twice)


async def test_a_byte_order_mark_before_json_or_lines_is_dropped(sqlite_client: httpx2.AsyncClient) -> None:
    produced = [
        await sqlite_client.post(RECORDS + query, content=BOM + body, headers=headers)
        for query, body, headers in (
            ("", b'{"value":1}', JSON),
            ("", b'{"records":[{"value":2,"headers":{"a":"b"}}]}', JSON),
            ("", b'{"value":3}\r\n' + BOM + b'{"value":4}\n', NDJSON),
            ("?lines=values", b"5\n" + BOM + b"6\n" + BOM, NDJSON),
            ("", b"7", {"Content-Type": "application/x+json"}),
        )
    ]
    transaction = b'{"produce":[{"topic":"orders","records":[{"value":8}]}]}'
    produced.append(await sqlite_client.post("/v1/transactions", content=BOM + transaction, headers=JSON))
    joined = await sqlite_client.post(
        f"{MEMBER}/poll", content=BOM + b'{"topics":["orders"],"max_wait_ms":0}', headers=JSON
    )

    assert [answer.status_code for answer in produced] == [201] * 6
    assert sorted(await values(sqlite_client)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert joined.status_code == 200


async def test_a_byte_order_mark_in_a_value_is_kept(sqlite_client: httpx2.AsyncClient) -> None:
    for body, headers in (
        (BOM + b"text", {"Content-Type": "text/plain"}),
        (b'{"value":"\xef\xbb\xbftext"}', JSON),
        (b'{"value":"a\\n\xef\xbb\xbftext"}', NDJSON),
    ):
        assert (await sqlite_client.post(RECORDS, content=body, headers=headers)).status_code == 201

    assert sorted(await values(sqlite_client)) == ["a\n\ufefftext", "\ufefftext", "\ufefftext"]


@pytest.mark.parametrize("body", [b"null", b" null\n", BOM + b"null", b"\n", BOM])
async def test_null_and_blanks_are_no_body(serve: Serve, tmp_path: Path, body: bytes) -> None:
    application, client = await serve()
    _, other = await serve(database_url=f"sqlite:///{tmp_path}/other.db")
    statuses = set()
    for route in operations(application.api):
        if "body" in route.operation.parameters:
            (method,) = list(route.methods or ())
            examples = {name: str(value) for name, value in route.operation.description.examples.items()}
            path = route.path.format(**examples)
            without = await client.request(method, path)
            given = await other.request(method, path, content=body, headers=JSON)
            assert (given.status_code, given.json().get("detail")) == (
                without.status_code,
                without.json().get("detail"),
            )
            statuses.add(given.status_code)

    assert {201, 422} <= statuses


async def test_null_for_a_topic_creates_it_with_the_defaults(sqlite_client: httpx2.AsyncClient) -> None:
    created = await sqlite_client.put(ORDERS, content=b"null", headers=JSON)
    confirmed = await sqlite_client.put(ORDERS)

    assert (created.status_code, confirmed.status_code) == (201, 200)


@pytest.mark.parametrize(
    "given",
    [
        ["application/json, application/json"], ["application/json,text/plain"], ["application/json;charset=utf-8,a/b"],
        ["application/json", "application/json"], ["text/plain", "application/json"], [","], [""], [" "], [";"],
    ],
)  # fmt: skip
async def test_several_content_types_or_an_empty_one_are_415(
    sqlite_client: httpx2.AsyncClient, given: list[str]
) -> None:
    headers = [("Content-Type", value) for value in given]
    for path in (RECORDS, f"{ORDERS}/partitions/0/records", "/v1/transactions", f"{MEMBER}/poll", ACQUIRE):
        refused = await sqlite_client.post(path, content=b'{"value":1}', headers=headers)

        assert (refused.status_code, refused.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE"), path
    assert (await sqlite_client.get(ORDERS)).status_code == 404


@pytest.mark.parametrize("given", ['text/plain; title="a,b"', 'text/plain; title="a\\",b"; charset=utf-8'])
async def test_a_comma_in_a_quoted_parameter_is_part_of_one_media_type(
    sqlite_client: httpx2.AsyncClient, given: str
) -> None:
    produced = await sqlite_client.post(RECORDS, content=b"a", headers={"Content-Type": given})

    assert produced.status_code == 201
    assert await values(sqlite_client) == ["a"]


@pytest.mark.parametrize("key", ["", " ", "\t"])
async def test_an_empty_idempotency_key_is_400(sqlite_client: httpx2.AsyncClient, key: str) -> None:
    await sqlite_client.put("/v1/topics/others")
    await sqlite_client.put("/v1/queues/jobs", json={"topic": "others"})
    for path, body in (
        (RECORDS, {"value": 1}),
        (f"{ORDERS}/partitions/0/records", {"value": 1}),
        ("/v1/transactions", {"produce": [{"topic": "orders", "records": [{"value": 1}]}]}),
        (ACQUIRE, {}),
        ("/v1/queues/jobs/acknowledge", {"acknowledgements": [{"delivery_id": "1.0.0.1", "outcome": "accept"}]}),
        ("/v1/queues/jobs/deliveries/1.0.0.1/accept", {}),
    ):
        refused = await sqlite_client.post(path, json=body, headers={"Idempotency-Key": key})

        assert (refused.status_code, refused.json()["code"]) == (400, "BAD_REQUEST"), path
        assert "Idempotency-Key" in refused.json()["detail"]
    assert (await sqlite_client.get(ORDERS)).status_code == 404
