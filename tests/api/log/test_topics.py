"""Topics over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

DEFAULTS = {
    "cleanup_policy": "delete",
    "retention_ms": 604_800_000,
    "retention_bytes": -1,
    "max_message_bytes": 1_048_576,
    "message_timestamp_type": "CreateTime",
    "delete_retention_ms": 86_400_000,
    "min_compaction_lag_ms": 0,
}
ORDERS = "/v1/topics/orders"


async def test_put_creates_a_topic_or_confirms_it_or_is_409(client: httpx2.AsyncClient) -> None:
    request = {"partitions": 2, "config": {"retention_ms": 1000}}

    created = await client.put(ORDERS, json=request)
    confirmed = await client.put(ORDERS, json=request)
    unasked = await client.put(ORDERS)
    partitions = await client.put(ORDERS, json={"partitions": 3})
    config = await client.put(ORDERS, json={"config": {"retention_ms": 1000, "retention_bytes": 5}})

    assert [r.status_code for r in (created, confirmed, unasked, partitions, config)] == [201, 200, 200, 409, 409]
    topic = created.json()
    assert topic == {
        "name": "orders",
        "partitions": 2,
        "config": DEFAULTS | {"retention_ms": 1000},
        "created_at_ms": topic["created_at_ms"],
    }
    assert confirmed.json() == unasked.json() == (await client.get(ORDERS)).json() == topic
    assert (partitions.json()["code"], partitions.json()["differing"]) == ("TOPIC_ALREADY_EXISTS", ["partitions"])
    assert config.json()["differing"] == ["retention_bytes"]


async def test_a_put_that_differs_names_what_can_be_done(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS, json={"partitions": 4})

    more = await client.put(ORDERS, json={"partitions": 8})
    fewer = await client.put(ORDERS, json={"partitions": 2, "config": {"retention_ms": 60_000}})

    assert more.json()["detail"] == "the topic exists and differs in partitions; PATCH /v1/topics/{topic} changes that"
    assert fewer.json()["detail"] == (
        "the topic exists and differs in partitions, retention_ms; it has 4 partitions, "
        "and their number can only rise: leave partitions out, or take another name"
    )


@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_an_empty_body_may_have_any_media_type(
    sqlite_client: httpx2.AsyncClient, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}

    response = await sqlite_client.put(ORDERS, headers=headers)

    assert response.status_code == 201
    assert (response.json()["partitions"], response.json()["config"]) == (4, DEFAULTS)


async def test_patch_changes_the_configuration_and_null_resets_to_the_default(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS, json={"partitions": 2, "config": {"retention_ms": 1, "max_message_bytes": 9}})

    changed = await client.patch(ORDERS, json={"config": {"retention_ms": None, "cleanup_policy": "compact,delete"}})

    assert changed.status_code == 200
    assert changed.json()["config"] == DEFAULTS | {"max_message_bytes": 9, "cleanup_policy": "compact,delete"}
    assert (await client.get(ORDERS)).json() == changed.json()
    assert (await client.patch(ORDERS)).json() == changed.json()


async def test_partitions_can_be_added_and_not_removed(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS, json={"partitions": 2})
    await client.post(f"{ORDERS}/partitions/1/records", json={"value": 1})

    grown = await client.patch(ORDERS, json={"partitions": 3})
    shrunk = await client.patch(ORDERS, json={"partitions": 2, "config": {"retention_ms": 5}})

    assert grown.json()["partitions"] == 3
    assert (shrunk.status_code, shrunk.json()["code"], shrunk.json()["partitions"]) == (422, "INVALID_PARTITIONS", 3)
    assert (await client.get(ORDERS)).json() == grown.json()
    items = (await client.get(f"{ORDERS}/partitions")).json()["items"]
    assert [item["log_end_offset"] for item in items] == [0, 1, 0]


async def test_delete_removes_the_topic_its_records_and_its_idempotency_keys(client: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    await client.post(f"{ORDERS}/partitions/0/records", json={"value": "old"}, headers=headers)

    assert (await client.delete(ORDERS)).status_code == 204
    assert (await client.delete(ORDERS)).status_code == 404
    assert (await client.get(ORDERS)).json()["code"] == "UNKNOWN_TOPIC_OR_PARTITION"

    again = await client.post(f"{ORDERS}/partitions/0/records", json={"value": "old"}, headers=headers)
    assert (again.status_code, again.json()["offsets"][0]["offset"]) == (201, 0)
    records = (await client.get(f"{ORDERS}/partitions/0/records")).json()["records"]
    assert len(records) == 1


async def test_topics_are_listed_in_pages(client: httpx2.AsyncClient) -> None:
    for name in ("b", "a.1", "A", "a", "c"):
        await client.put(f"/v1/topics/{name}", json={"partitions": 1})

    first = (await client.get("/v1/topics", params={"limit": 2})).json()
    second = (await client.get("/v1/topics", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    third = (await client.get("/v1/topics", params={"limit": 2, "cursor": second["next_cursor"]})).json()

    names = [[item["name"] for item in page["items"]] for page in (first, second, third)]
    assert names == [["A", "a"], ["a.1", "b"], ["c"]]
    assert third["next_cursor"] is None
    assert (await client.get("/v1/topics", params={"cursor": "!"})).json()["code"] == "INVALID_CURSOR"


async def test_a_partition_has_its_offsets_and_its_size(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS, json={"partitions": 2})
    records = [{"key": "k", "value": "12", "partition": 1}, {"value": None, "partition": 1}, {"value": 7}]
    await client.post(f"{ORDERS}/partitions/1/records", json={"records": records})
    described = {"partition": 1, "log_start_offset": 0, "log_end_offset": 3, "size_bytes": 6}

    assert (await client.get(f"{ORDERS}/partitions/1")).json() == described
    assert (await client.get(f"{ORDERS}/partitions")).json() == {
        "items": [{"partition": 0, "log_start_offset": 0, "log_end_offset": 0, "size_bytes": 0}, described],
        "next_cursor": None,
    }


async def test_the_records_before_an_offset_are_deleted(client: httpx2.AsyncClient) -> None:
    partition = f"{ORDERS}/partitions/0"
    await client.post(f"{partition}/records", json={"records": [{"value": n} for n in range(5)]})

    missing = await client.delete(f"{partition}/records")
    beyond = await client.delete(f"{partition}/records", params={"before_offset": 6})
    done = await client.delete(f"{partition}/records", params={"before_offset": 3})
    lower = await client.delete(f"{partition}/records", params={"before_offset": 1})

    assert missing.status_code == 422
    assert missing.json()["errors"] == [{"field": "before_offset", "detail": "is required"}]
    assert (beyond.status_code, beyond.json()["log_end_offset"]) == (416, 5)
    assert (done.status_code, done.json(), lower.json()) == (200, {"log_start_offset": 3}, {"log_start_offset": 3})
    page = (await client.get(f"{partition}/records")).json()
    assert ([record["value"] for record in page["records"]], page["log_start_offset"]) == ([3, 4], 3)

    emptied = await client.delete(f"{partition}/records", params={"before_offset": 5})
    assert emptied.json() == {"log_start_offset": 5}
    appended = await client.post(f"{partition}/records", json={"value": "next"})
    assert appended.json()["offsets"][0]["offset"] == 5


@pytest.mark.parametrize("name", ["%2e", "%2e%2e", "a%20b", "a%00", "%C3%A9", "a" * 250, "__internal"])
async def test_an_invalid_name_is_refused(sqlite_client: httpx2.AsyncClient, name: str) -> None:
    for method, path in (("PUT", ""), ("POST", "/records"), ("POST", "/partitions/0/records")):
        response = await sqlite_client.request(method, f"/v1/topics/{name}{path}", json={"value": 1} if path else None)

        assert response.status_code in {404, 422}, response.text
        assert response.headers["content-type"] == "application/problem+json"
    assert (await sqlite_client.get("/v1/topics")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"partitions": 0}, "INVALID_PARTITIONS"),
        ({"partitions": 1001}, "INVALID_PARTITIONS"),
        ({"partitions": -(10**30)}, "INVALID_PARTITIONS"),
        ({"partitions": "4"}, "INVALID_REQUEST"),
        ({"partitions": True}, "INVALID_REQUEST"),
        ({"partitions": 1.5}, "INVALID_REQUEST"),
        ({"partition": 4}, "INVALID_REQUEST"),
        ({"config": {"retention": 1}}, "INVALID_REQUEST"),
        ({"config": {"cleanup_policy": "shred"}}, "INVALID_REQUEST"),
        ({"config": None}, "INVALID_REQUEST"),
        ({"config": {"retention_ms": -2}}, "INVALID_CONFIG"),
        ({"config": {"retention_ms": 2**63}}, "INVALID_CONFIG"),
        ({"config": {"max_message_bytes": 33_554_433}}, "INVALID_CONFIG"),
        ([], "INVALID_REQUEST"),
    ],
    ids=repr,
)
async def test_an_invalid_request_is_refused_and_creates_no_topic(
    sqlite_client: httpx2.AsyncClient, body: Any, code: str
) -> None:
    content = json.dumps(body)
    response = await sqlite_client.put(ORDERS, content=content)
    await sqlite_client.put("/v1/topics/there")
    changed = await sqlite_client.patch("/v1/topics/there", content=content)

    assert (response.status_code, response.json()["code"]) == (422, code)
    assert (changed.status_code, changed.json()["code"]) == (422, code)
    assert (await sqlite_client.get(ORDERS)).status_code == 404


async def test_a_record_of_a_compacted_topic_needs_a_key(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS, json={"config": {"cleanup_policy": "compact"}})

    refused = await client.post(f"{ORDERS}/records", json={"records": [{"key": "k", "value": 1}, {"value": 2}]})

    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_RECORD")
    assert refused.json()["errors"] == [{"index": 1, "field": "key", "detail": "is required on a compacted topic"}]
    assert (await client.post(f"{ORDERS}/records", json={"key": "", "value": 1})).status_code == 201


async def test_without_auto_create_topics_produce_creates_no_topic(serve: Serve) -> None:
    _, client = await serve(auto_create_topics=False)

    assert (await client.post(f"{ORDERS}/records", json={"value": 1})).status_code == 404
    await client.put(ORDERS)
    assert (await client.post(f"{ORDERS}/records", json={"value": 1})).status_code == 201


async def test_a_refused_record_creates_no_topic(sqlite_client: httpx2.AsyncClient) -> None:
    first = await sqlite_client.post(f"{ORDERS}/records", json={"value": 1, "partition": 99})
    second = await sqlite_client.post(f"{ORDERS}/partitions/7/records", json={"value": 1})
    third = await sqlite_client.post(f"{ORDERS}/partitions/0/records?expected_offset=1", json={"value": 1})

    assert [first.status_code, second.status_code, third.status_code] == [422, 404, 412]
    assert (await sqlite_client.get(ORDERS)).status_code == 404


async def test_a_topic_has_the_defaults_of_the_settings(serve: Serve) -> None:
    _, client = await serve(default_partitions=2, max_message_bytes=50)

    topic = (await client.put(ORDERS)).json()

    assert (topic["partitions"], topic["config"]["max_message_bytes"]) == (2, 50)
    assert (await client.post(f"{ORDERS}/records", json={"value": "x" * 60})).status_code == 413


async def test_partitions_are_listed_in_pages(sqlite_client: httpx2.AsyncClient) -> None:
    path = "/v1/topics/orders/partitions"
    await sqlite_client.put("/v1/topics/orders", json={"partitions": 5})

    first = (await sqlite_client.get(path, params={"limit": 3})).json()
    second = (await sqlite_client.get(path, params={"limit": 3, "cursor": first["next_cursor"]})).json()
    wrong = await sqlite_client.get(path, params={"cursor": "b3JkZXJz"})

    assert [one["partition"] for one in first["items"]] == [0, 1, 2]
    assert [one["partition"] for one in second["items"]] == [3, 4]
    assert (second["next_cursor"], wrong.status_code) == (None, 400)
