"""Offsets of groups over HTTP: commit, list with lag, reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

OFFSETS = "/v1/groups/billing/offsets"
ONE = {"topic": "orders", "partition": 0, "offset": 1}


@pytest.fixture
async def shop(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client of a server with `orders` of two partitions, three records in the first."""
    await client.put("/v1/topics/orders", json={"partitions": 2})
    records = [{"value": n, "partition": 0} for n in range(3)]
    await client.post("/v1/topics/orders/records", json={"records": records})
    return client


async def committed(client: httpx2.AsyncClient) -> list[int | None]:
    return [one["committed_offset"] for one in (await client.get(OFFSETS)).json()["offsets"]]


async def test_a_committed_offset_is_listed_with_its_lag(shop: httpx2.AsyncClient) -> None:
    body = {"offsets": [ONE | {"metadata": "checkpoint 7"}]}

    response = await shop.post(OFFSETS, json=body)

    assert (response.status_code, response.json()) == (200, {"committed": 1})
    first, second = (await shop.get(OFFSETS)).json()["offsets"]
    assert 0 <= first.pop("lag_ms") < 60_000
    assert first == {
        "topic": "orders", "partition": 0, "committed_offset": 1, "log_end_offset": 3, "lag": 2,
        "metadata": "checkpoint 7",
    }  # fmt: skip
    assert second == {
        "topic": "orders", "partition": 1, "committed_offset": None, "log_end_offset": 0, "lag": 0, "lag_ms": 0,
        "metadata": "",
    }  # fmt: skip


async def test_a_member_commits_at_its_epoch(shop: httpx2.AsyncClient) -> None:
    await shop.post("/v1/groups/billing/members", json={"topics": ["orders"], "member_id": "alice"})
    alice = {"member_id": "alice", "member_epoch": 1}

    assert (await shop.post(OFFSETS, json=alice | {"offsets": [ONE]})).status_code == 200
    for committer, code in (
        (alice | {"member_epoch": 0}, "STALE_MEMBER_EPOCH"),
        (alice | {"member_epoch": 2}, "FENCED_MEMBER_EPOCH"),
        (alice | {"member_id": "bob"}, "UNKNOWN_MEMBER_ID"),
        ({}, "NON_EMPTY_GROUP"),
    ):
        response = await shop.post(OFFSETS, json=committer | {"offsets": [ONE | {"offset": 2}]})
        assert (response.status_code, response.json()["code"]) == (409, code)
        if code == "STALE_MEMBER_EPOCH":
            assert response.json()["partitions"] == [{"topic": "orders", "partition": 0}]
    assert await committed(shop) == [1, 0]


async def test_a_commit_with_another_from_offset_is_a_conflict(
    shop: httpx2.AsyncClient,
) -> None:
    await shop.post(OFFSETS, json={"offsets": [ONE]})

    response = await shop.post(OFFSETS, json={"offsets": [ONE | {"offset": 3, "from_offset": 0}]})

    problem = response.json()
    assert (response.status_code, problem["code"], problem["committed_offset"]) == (409, "OFFSET_CONFLICT", 1)
    assert problem["errors"] == [{"index": 0, "field": "from_offset", "detail": "the committed offset is 1"}]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "INVALID_REQUEST"),
        ({"offsets": []}, "INVALID_REQUEST"),
        ({"offsets": [ONE], "member_id": "alice"}, "INVALID_REQUEST"),
        ({"offsets": [ONE], "member_epoch": 1}, "INVALID_REQUEST"),
        ({"offsets": [ONE], "member_id": "a\0b", "member_epoch": 1}, "INVALID_REQUEST"),
        ({"offsets": [ONE, ONE]}, "INVALID_REQUEST"),
        ({"offsets": [ONE] * 10_001}, "INVALID_REQUEST"),
        ({"offsets": [ONE | {"offset": -1}]}, "INVALID_REQUEST"),
        ({"offsets": [ONE | {"offset": 2**63}]}, "INVALID_REQUEST"),
        ({"offsets": [ONE | {"leader_epoch": 1}]}, "INVALID_REQUEST"),
        ({"offsets": [ONE | {"metadata": "a\0b"}]}, "INVALID_REQUEST"),
        ({"offsets": [ONE | {"metadata": "é" * 2_049}]}, "OFFSET_METADATA_TOO_LARGE"),
        ({"offsets": [ONE | {"offset": 4}]}, "OFFSET_OUT_OF_RANGE"),
        ({"offsets": [ONE | {"offset": 2**63 - 1}]}, "OFFSET_OUT_OF_RANGE"),
        ({"offsets": [ONE | {"partition": 2}]}, "UNKNOWN_TOPIC_OR_PARTITION"),
        ({"offsets": [ONE | {"topic": "clicks"}]}, "UNKNOWN_TOPIC_OR_PARTITION"),
        ({"offsets": [ONE | {"topic": "a b"}]}, "INVALID_TOPIC_EXCEPTION"),
    ],
    ids=lambda value: str(value)[:70],
)
async def test_an_invalid_commit_is_422_and_creates_no_group(shop: httpx2.AsyncClient, body: Any, code: str) -> None:
    response = await shop.post(OFFSETS, json=body)

    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    assert (await shop.get(OFFSETS)).status_code == 404


async def test_metadata_of_the_greatest_size_is_kept(shop: httpx2.AsyncClient) -> None:
    assert (await shop.post(OFFSETS, json={"offsets": [ONE | {"metadata": "é" * 2_048}]})).status_code == 200

    assert (await shop.get(OFFSETS)).json()["offsets"][0]["metadata"] == "é" * 2_048


@pytest.mark.parametrize(
    ("to", "offset"),
    [("earliest", 0), ("latest", 3), (2, 2), ("2", 2), (-1, 2), ("-2", 1), ("@0", 0), ("@2099-01-01T00:00:00Z", 3)],
)
async def test_a_reset_is_applied_only_without_dry_run(shop: httpx2.AsyncClient, to: Any, offset: int) -> None:
    await shop.post(OFFSETS, json={"offsets": [ONE]})
    body = {"topic": "orders", "to": to, "partitions": [0]}
    plan = [{"topic": "orders", "partition": 0, "committed_offset": 1, "offset": offset}]

    planned = await shop.post(f"{OFFSETS}/reset", json=body)
    assert (planned.status_code, planned.json()) == (200, {"offsets": plan, "applied": False})
    assert await committed(shop) == [1, None]
    done = await shop.post(f"{OFFSETS}/reset", json=body | {"dry_run": False})

    assert (done.status_code, done.json()) == (200, {"offsets": plan, "applied": True})
    assert await committed(shop) == [offset, None]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"to": 4}, 422), ({"to": "soon"}, 422), ({"to": None}, 422), ({"to": True}, 422), ({"to": 10**30}, 422),
        ({"to": "@"}, 422), ({"to": "9" * 5_000}, 422), ({"partitions": []}, 422), ({"partitions": [2]}, 404),
        ({"partitions": [2**63 - 1]}, 404), ({"topic": "clicks"}, 404), ({"topic": "a\0b"}, 422), ({"now": 1}, 422),
        ({"topic": 1}, 422),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_an_invalid_reset_is_refused(shop: httpx2.AsyncClient, fields: Any, status: int) -> None:
    body = {"topic": "orders", "to": "earliest", "dry_run": False} | fields

    assert (await shop.post(f"{OFFSETS}/reset", json=body)).status_code == status
    assert (await shop.get(OFFSETS)).status_code == 404


async def test_a_group_with_members_is_not_reset(shop: httpx2.AsyncClient) -> None:
    await shop.post("/v1/groups/billing/members", json={"topics": ["orders"], "member_id": "alice"})
    body = {"topic": "orders", "to": "latest", "dry_run": False}

    refused = await shop.post(f"{OFFSETS}/reset", json=body)

    assert (refused.status_code, refused.json()["code"]) == (409, "NON_EMPTY_GROUP")
    assert (await shop.post(f"{OFFSETS}/reset", json=body | {"dry_run": True})).json()["applied"] is False
    assert await committed(shop) == [0, 0]
