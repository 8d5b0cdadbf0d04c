"""The connection breaks between COMMIT and its answer: 504, and a repetition writes nothing a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.storage.db.postgres.proxy import PostgresProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.serving import Serve

pytestmark = [pytest.mark.postgres, pytest.mark.anyio]

RECORDS = "/v1/topics/orders/partitions/0/records"
MARKER = "the answer of this commit is lost"
REQUESTS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "idempotency key": ("/v1/topics/orders/records", {"records": [{"value": MARKER}]}, {"Idempotency-Key": "one"}),
    "sequence": (
        "/v1/topics/orders/records",
        {"records": [{"value": MARKER}]},
        {"Producer-Id": "p", "Producer-Epoch": "0", "Producer-Sequence": "0"},
    ),
    "transaction": (
        "/v1/transactions",
        {"produce": [{"topic": "orders", "records": [{"value": MARKER}]}]},
        {"Idempotency-Key": "one"},
    ),
}


@pytest.fixture
async def proxy(migrated_postgres_url: str) -> AsyncIterator[PostgresProxy]:
    """A proxy in front of a PostgreSQL."""
    with PostgresProxy(migrated_postgres_url) as running:
        yield running


async def open_topic(serve: Serve, proxy: PostgresProxy) -> httpx2.AsyncClient:
    """Serve from the database behind the proxy, with a topic and a producer."""
    _, client = await serve(database_url=proxy.url)
    assert (await client.put("/v1/topics/orders", json={"partitions": 1})).status_code == 201
    assert (await client.post("/v1/producers/p")).status_code == 200
    return client


async def values(client: httpx2.AsyncClient) -> list[Any]:
    """Return the values of all records."""
    page = (await client.get(RECORDS, params={"offset": "earliest", "max_wait_ms": 0})).json()
    return [record["value"] for record in page["records"]]


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_commit_without_an_answer_is_504_and_the_repetition_stores_the_records_once(
    proxy: PostgresProxy, serve: Serve, kind: str
) -> None:
    client = await open_topic(serve, proxy)
    path, body, headers = REQUESTS[kind]
    proxy.lose_commit_of(MARKER.encode(), arrives=True)

    lost = await client.post(path, json=body, headers=headers)

    assert proxy.cut.is_set()
    assert (lost.status_code, lost.json()["outcome"], lost.json()["retriable"]) == (504, "unknown", False)
    for _ in range(2):
        repeated = await client.post(path, json=body, headers=headers)
        assert repeated.status_code in {200, 201}, repeated.text
        assert '"duplicate":true' in repeated.text
    assert await values(client) == [MARKER]


async def test_a_commit_that_does_not_arrive_is_504_and_wrote_nothing(proxy: PostgresProxy, serve: Serve) -> None:
    client = await open_topic(serve, proxy)
    proxy.lose_commit_of(MARKER.encode(), arrives=False)

    lost = await client.post(RECORDS, json={"value": MARKER})

    assert (lost.status_code, lost.json()["outcome"], lost.json()["retriable"]) == (504, "unknown", False)
    assert await values(client) == []


async def test_a_statement_before_commit_that_does_not_arrive_is_repeated(proxy: PostgresProxy, serve: Serve) -> None:
    client = await open_topic(serve, proxy)
    path, body, headers = REQUESTS["sequence"]
    proxy.lose_commit_of(MARKER.encode(), arrives=False)

    answer = await client.post(path, json=body, headers=headers)

    assert proxy.cut.is_set()
    assert answer.status_code in {200, 201}, answer.text
    assert await values(client) == [MARKER]


async def test_a_connection_that_breaks_before_commit_is_replaced_without_an_error(
    proxy: PostgresProxy, serve: Serve
) -> None:
    client = await open_topic(serve, proxy)
    for number in range(3):
        proxy.close_connections()
        answer = await client.post(RECORDS, json={"value": number})
        assert answer.status_code == 201, answer.text
    assert await values(client) == [0, 1, 2]
