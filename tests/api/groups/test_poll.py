"""Poll over HTTP: the same request, repeated, is a consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.errors.database import ServiceUnavailable
from tests.broker.node import Node
from tests.serving import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

POLL = "/v1/groups/billing/members/alice/poll"
AUTO = {"topics": ["orders"], "auto_commit": True, "max_wait_ms": 0}


async def produce(client: httpx2.AsyncClient, *values: Any, **fields: Any) -> None:
    records = [{"value": value, "timestamp_ms": 7, "partition": 0} | fields for value in values]
    response = await client.post("/v1/topics/orders/records", json={"records": records})
    assert response.status_code == 201, response.text


@pytest.fixture
async def shop(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client of a server with `orders` of two partitions."""
    await client.put("/v1/topics/orders", json={"partitions": 2})
    return client


@pytest.fixture
def node(migrated_url: str, anyio_backend: str) -> Iterator[Node]:
    """A node without background tasks, with reads that can fail."""
    each = Node(migrated_url)
    yield each
    each.storage.close()


async def test_a_poll_answers_with_records_and_the_state_of_the_member(shop: httpx2.AsyncClient) -> None:
    await produce(shop, {"total": 1.50}, key="k", headers={"n": "v"})
    await produce(shop, "AP8=", encoding="base64")

    response = await shop.post(POLL, json={"topics": ["orders"]})

    assert response.status_code == 200
    assert response.json() == {
        "member_epoch": 1,
        "assignment": [{"topic": "orders", "partitions": [0, 1]}],
        "state": "STABLE",
        "heartbeat_interval_ms": 5_000,
        "records": [
            {
                "topic": "orders", "partition": 0, "offset": 0, "timestamp_ms": 7, "key": "k",
                "value": {"total": 1.50}, "headers": [{"name": "n", "value": "v"}],
            },
            {
                "topic": "orders", "partition": 0, "offset": 1, "timestamp_ms": 7, "key": None,
                "value": "AP8=", "encoding": "base64",
            },
        ],
        "next_offsets": [{"topic": "orders", "partition": 0, "from_offset": 0, "offset": 2}],
    }  # fmt: skip
    assert '"value":{"total":1.5}' in response.text


async def test_missing_topics_are_named_until_they_are_created(shop: httpx2.AsyncClient) -> None:
    asked = AUTO | {"topics": ["orders", "refunds"]}
    joined = await shop.post("/v1/groups/other/members", json={"topics": ["refunds"]})
    assert (joined.json()["assignment"], joined.json()["missing_topics"]) == ([], ["refunds"])

    assert (await shop.post(POLL, json=asked)).json()["missing_topics"] == ["refunds"]
    await shop.put("/v1/topics/refunds", json={"partitions": 1})

    assert "missing_topics" not in (await shop.post(POLL, json=asked)).json()


async def test_the_same_poll_repeated_is_a_consumer(shop: httpx2.AsyncClient) -> None:
    await produce(shop, *range(5))

    read = []
    for _ in range(4):
        answer = (await shop.post(POLL, json=AUTO | {"max_records": 2})).json()
        read.append([record["value"] for record in answer["records"]])

    assert read == [[0, 1], [2, 3], [4], []]


async def test_next_offsets_are_the_next_commit(shop: httpx2.AsyncClient) -> None:
    await produce(shop, 1, 2)
    first = (await shop.post(POLL, json={"topics": ["orders"], "max_records": 1})).json()
    body = {"member_epoch": first["member_epoch"], "commit": first["next_offsets"], "max_wait_ms": 0}

    second = (await shop.post(POLL, json=body)).json()
    again = (await shop.post(POLL, json=body)).json()

    assert [record["value"] for record in second["records"]] == [2]
    assert second == again


async def test_a_poll_returns_the_offsets_that_retention_has_removed(shop: httpx2.AsyncClient) -> None:
    await produce(shop, 1, 2)
    await shop.post(POLL, json=AUTO)
    await shop.delete("/v1/topics/orders/partitions/0/records?before_offset=1")

    answer = (await shop.post(POLL, json=AUTO | {"auto_commit": False})).json()

    assert answer["skipped"] == [{"topic": "orders", "partition": 0, "from_offset": 0, "to_offset": 1}]
    assert answer["next_offsets"] == [{"topic": "orders", "partition": 0, "from_offset": 0, "offset": 2}]


async def test_a_poll_without_bounds_uses_the_limits_of_the_server(serve: Serve) -> None:
    _, client = await serve(max_wait_ms=10, max_records=1)
    await client.put("/v1/topics/orders", json={"partitions": 1})

    assert (await client.post(POLL, json={"topics": ["orders"]})).status_code == 200
    for field, value in (("max_wait_ms", 11), ("max_records", 2)):
        refused = await client.post(POLL, json=AUTO | {field: value})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "topics"),
        ({"topics": ["orders"], "member_epoch": 1}, "member_epoch"),
        ({"topics": ["orders"], "commit": [{"topic": "orders", "partition": 0, "offset": 0}]}, "commit"),
        (AUTO | {"max_records": 0}, "max_records"),
        (AUTO | {"max_records": 10_001}, "max_records"),
        (AUTO | {"max_bytes": 0}, "max_bytes"),
        (AUTO | {"max_bytes": 33_554_433}, "max_bytes"),
        (AUTO | {"max_wait_ms": -1}, "max_wait_ms"),
        (AUTO | {"max_wait_ms": 60_001}, "max_wait_ms"),
        (AUTO | {"auto_comit": True}, "auto_comit"),
        ({"member_epoch": 1, "commit": [{"topic": "orders", "partition": 0}]}, "offset"),
        ({"member_epoch": 1, "commit": [{"topic": "orders", "partition": 0, "offset": 0}] * 10_001}, "commit"),
        ({"member_epoch": 1, "commit": [{"topic": "orders", "partition": 0, "offset": -1}]}, "offset"),
        ({"member_epoch": 1, "owned": [{"topic": "orders", "partitions": [-1]}]}, "partitions"),
        ({"member_epoch": 2**63}, "member_epoch"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_invalid_poll_is_422(sqlite_client: httpx2.AsyncClient, body: Any, field: str) -> None:
    response = await sqlite_client.post(POLL, json=body)

    assert (response.status_code, response.json()["code"]) == (422, "INVALID_REQUEST"), response.text
    assert response.json()["errors"][0]["field"] == field


async def test_a_commit_of_an_unknown_partition_is_422(shop: httpx2.AsyncClient) -> None:
    await shop.post(POLL, json=AUTO)
    for topic, partition, offset, code in (
        ("orders", 2, 0, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("orders", 2**63 - 1, 0, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("clicks", 0, 0, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("a\0b", 0, 0, "INVALID_TOPIC_EXCEPTION"),
        ("orders", 0, 1, "OFFSET_OUT_OF_RANGE"),
    ):
        commit = [{"topic": topic, "partition": partition, "offset": offset}]
        response = await shop.post(POLL, json={"member_epoch": 1, "commit": commit})

        assert (response.status_code, response.json()["code"]) == (422, code)


async def test_with_reset_none_a_poll_without_a_committed_offset_is_409(shop: httpx2.AsyncClient) -> None:
    response = await shop.post(POLL, json=AUTO | {"auto_offset_reset": "none"})

    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "NO_OFFSET_FOR_PARTITION")
    assert (problem["topic"], problem["partition"], problem["committed_offset"]) == ("orders", 0, None)


async def test_a_poll_that_cannot_find_its_missing_topics_returns_no_records(node: Node) -> None:
    async def fail() -> None:
        raise ServiceUnavailable("the database cannot be reached")

    await node.create()
    await node.produce(b"1")
    async with client_of(node.application.asgi) as client:
        node.after_read = fail  # the first read of a poll looks for the missing topics
        assert (await client.post(POLL, json=AUTO)).status_code == 503

        answers = [(await client.post(POLL, json=AUTO)).json()["records"] for _ in range(2)]
    assert [[record["value"] for record in records] for records in answers] == [[1], []]
