"""Limits of what an installation has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

SOURCE = {"topic": "hooks", "verify": {"scheme": "none"}}


@pytest.mark.parametrize(
    ("setting", "limit", "paths", "body"),
    [
        ("max_topics", 2, "/v1/topics/", None),
        ("max_partitions", 9, "/v1/topics/", {"partitions": 4}),
        ("max_queues", 2, "/v1/queues/", {"topic": "orders"}),
        ("max_sources", 2, "/v1/sources/", SOURCE),
        ("max_webhooks", 2, "/v1/webhooks/", {"topics": ["orders"], "url": "https://example.com/", "paused": True}),
    ],
)
async def test_the_third_is_refused_until_one_is_deleted(
    migrated_url: str, serve: Serve, setting: str, limit: int, paths: str, body: Any
) -> None:
    _, client = await serve(database_url=migrated_url, secret_key="bWls" * 10 + "bWk=", **{setting: limit})
    first, second, third, again = [await client.put(f"{paths}{name}", json=body) for name in ("a", "b", "c", "a")]

    assert [first.status_code, second.status_code, third.status_code, again.status_code] == [201, 201, 409, 200]
    assert third.json()["code"] == "POLICY_VIOLATION"
    assert f"MILLRACE_{setting.upper()}" in third.json()["detail"]
    assert (await client.get(f"{paths}c")).status_code == 404
    await client.delete(f"{paths}a")
    assert (await client.put(f"{paths}c", json=body)).status_code == 201


async def test_topics_that_requests_create_and_partitions_that_are_added_count_too(serve: Serve) -> None:
    _, client = await serve(max_topics=1, max_partitions=8)
    created = await client.put("/v1/topics/orders")
    produced = await client.post("/v1/topics/bills/records", json={"value": 1})
    transaction = await client.post(
        "/v1/transactions", json={"produce": [{"topic": "bills", "records": [{"value": 1}]}]}
    )
    grown = await client.patch("/v1/topics/orders", json={"partitions": 9})

    assert created.status_code == 201
    assert {answer.status_code for answer in (produced, transaction, grown)} == {409}
    assert {answer.json()["code"] for answer in (produced, transaction, grown)} == {"POLICY_VIOLATION"}
    assert (await client.get("/v1/topics/orders")).json()["partitions"] == 4
