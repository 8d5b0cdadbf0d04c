"""Transactions over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

URL = "/v1/transactions"
ALICE = {"group": "billing", "member_id": "alice", "member_epoch": 1}
MOVE = {"topic": "orders", "partition": 0, "from_offset": 0, "offset": 2}
PRODUCE = [{"topic": "bills", "records": [{"value": {"total": 25}, "partition": 0, "timestamp_ms": 1_517_363_399_650}]}]
BOTH = {"produce": PRODUCE, "commit": [ALICE | {"offsets": [MOVE]}]}
DONE = [{"topic": "bills", "offsets": [{"partition": 0, "offset": 0, "timestamp_ms": 1_517_363_399_650}]}]


@pytest.fixture
async def shop(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client of a server with three records in `orders`, assigned to one member."""
    await client.put("/v1/topics/orders", json={"partitions": 1})
    await client.post("/v1/topics/orders/records", json={"records": [{"value": n} for n in range(3)]})
    await client.post("/v1/groups/billing/members", json={"topics": ["orders"], "member_id": "alice"})
    return client


async def state(client: httpx2.AsyncClient) -> tuple[int, int]:
    """Return the number of bills and the committed offset."""
    bills = await client.get("/v1/topics/bills/records")
    offsets = (await client.get("/v1/groups/billing/offsets")).json()["offsets"]
    return len(bills.json().get("records", [])), offsets[0]["committed_offset"]


async def test_a_repeated_transaction_is_a_conflict(shop: httpx2.AsyncClient) -> None:
    first = await shop.post(URL, json=BOTH)
    again = await shop.post(URL, json=BOTH)

    assert (first.status_code, first.json()) == (201, {"produced": DONE, "duplicate": False})
    assert (again.status_code, again.json()["code"], again.json()["committed_offset"]) == (409, "OFFSET_CONFLICT", 2)
    assert await state(shop) == (1, 2)


async def test_a_repeated_transaction_with_a_key_gets_the_answer_of_the_first(shop: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": "bill-1"}
    await shop.post(URL, json=BOTH, headers=key)
    await shop.delete("/v1/groups/billing/members/alice")

    again = await shop.post(URL, json=BOTH, headers=key)
    other = await shop.post(URL, json=BOTH | {"produce": []}, headers=key)

    assert (again.status_code, again.json()) == (200, {"produced": DONE, "duplicate": True})
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await state(shop) == (1, 2)


async def test_the_key_of_a_refused_transaction_can_be_used_again(shop: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": "bill-1"}
    wrong = {"produce": PRODUCE, "commit": [ALICE | {"offsets": [MOVE | {"from_offset": 1}]}]}

    assert (await shop.post(URL, json=wrong, headers=key)).status_code == 409
    assert (await shop.get("/v1/topics/bills")).status_code == 404
    assert (await shop.post(URL, json=BOTH, headers=key)).status_code == 201


async def test_an_error_names_the_commit_or_the_produce_at_fault(shop: httpx2.AsyncClient) -> None:
    good, bad = MOVE, MOVE | {"from_offset": 1}

    commits = [{"group": "other", "offsets": [good | {"from_offset": 0}]}, ALICE | {"offsets": [bad]}]
    second = (await shop.post(URL, json={"produce": [], "commit": commits[1:]})).json()
    first = (await shop.post(URL, json={"produce": [], "commit": [ALICE | {"offsets": [good]}, commits[0]]})).json()
    records = [{"value": 1, "partition": 9}]
    produce = [{"topic": "bills", "records": [{"value": 1}]}, {"topic": "orders", "records": records}]
    third = (await shop.post(URL, json={"produce": produce, "commit": []})).json()

    assert (second["code"], second["commit"], second["detail"].split(":")[0]) == ("OFFSET_CONFLICT", 0, "commit 0")
    assert (first["code"], first["commit"], first["detail"].split(":")[0]) == ("OFFSET_CONFLICT", 1, "commit 1")
    assert (third["produce"], third["detail"].split(":")[0]) == (1, "produce 1")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "INVALID_REQUEST"),
        ({"produce": [], "commit": []}, 422, "INVALID_REQUEST"),
        ({"produce": [{"topic": "bills", "records": []}]}, 422, "INVALID_REQUEST"),
        ({"produce": [{"topic": "bills", "records": [{"value": 1}] * 10_001}]}, 422, "INVALID_REQUEST"),
        ({"produce": [{"topic": "bills", "records": [{"valeu": 1}]}]}, 422, "INVALID_REQUEST"),
        ({"produce": [{"topic": "a b", "records": [{"value": 1}]}]}, 422, "INVALID_TOPIC_EXCEPTION"),
        ({"produce": [{"topic": "a\0b", "records": [{"value": 1}]}]}, 422, "INVALID_TOPIC_EXCEPTION"),
        ({"produce": [{"topic": "new", "records": [{"value": 1, "partition": 9}]}]}, 422, "UNKNOWN_TOPIC_OR_PARTITION"),
        ({"produce": [{"topic": "new", "records": [{"value": "x" * 1_048_577}]}]}, 413, "MESSAGE_TOO_LARGE"),
        ({"produce": PRODUCE, "commits": []}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [{"topic": "orders", "partition": 0, "offset": 2}]}]}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [MOVE | {"from_offset": None}]}]}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [MOVE, MOVE]}]}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [MOVE] * 10_001}]}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [MOVE | {"metadata": "x"}]}]}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [MOVE], "member_epoch": None}]}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [MOVE], "member_id": "a\0b"}]}, 422, "INVALID_REQUEST"),
        ({"commit": [ALICE | {"offsets": [MOVE], "group": "a\0b"}]}, 422, "INVALID_GROUP_ID"),
        ({"commit": [ALICE | {"offsets": [MOVE | {"partition": 9}]}]}, 422, "UNKNOWN_TOPIC_OR_PARTITION"),
        ({"commit": [ALICE | {"offsets": [MOVE | {"offset": 4}]}]}, 422, "OFFSET_OUT_OF_RANGE"),
        ({"commit": [ALICE | {"offsets": [MOVE], "member_epoch": 2}]}, 409, "FENCED_MEMBER_EPOCH"),
        ({"commit": [ALICE | {"offsets": [MOVE], "member_epoch": 0}]}, 409, "STALE_MEMBER_EPOCH"),
        ({"commit": [ALICE | {"offsets": [MOVE], "member_id": "bob"}]}, 409, "UNKNOWN_MEMBER_ID"),
        ({"commit": [{"group": "billing", "offsets": [MOVE]}]}, 409, "NON_EMPTY_GROUP"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_refused_transaction_writes_nothing(
    shop: httpx2.AsyncClient, body: Any, status: int, code: str
) -> None:
    if "commit" in body and "produce" not in body:
        body = {"produce": PRODUCE} | body

    response = await shop.post(URL, json=body)

    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert [topic["name"] for topic in (await shop.get("/v1/topics")).json()["items"]] == ["orders"]
    assert [group["name"] for group in (await shop.get("/v1/groups")).json()["items"]] == ["billing"]
    assert await state(shop) == (0, 0)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400), (b"{", 400), (b"\xff", 400), (b"[]", 422), (b'{"produce":' + b"[" * 100_000, 422),
        (b'{"produce":[{"topic":"t","records":[{"value":' + b"[" * 501 + b"]" * 501 + b"}]}]}", 400),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
async def test_a_malformed_body_is_refused(sqlite_client: httpx2.AsyncClient, content: bytes, status: int) -> None:
    response = await sqlite_client.post(URL, content=content, headers={"Content-Type": "application/json"})

    assert response.status_code == status


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/x-ndjson"])
async def test_a_body_of_another_media_type_is_refused(sqlite_client: httpx2.AsyncClient, content_type: str) -> None:
    assert (await sqlite_client.post(URL, content=b"{}", headers={"Content-Type": content_type})).status_code == 415
