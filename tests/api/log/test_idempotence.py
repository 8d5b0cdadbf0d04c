"""Repeated requests, and requests with expected_offset."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
KEY = {"Idempotency-Key": "checkout 17"}


def stamp(sequence: Any, epoch: Any = 0, producer: str = "checkout-1") -> dict[str, str]:
    return {"Producer-Id": producer, "Producer-Epoch": str(epoch), "Producer-Sequence": str(sequence)}


async def end(client: httpx2.AsyncClient) -> Any:
    return (await client.get(f"{ORDERS}/partitions/0")).json()["log_end_offset"]


async def test_a_repeated_request_gets_the_answer_of_the_first(client: httpx2.AsyncClient) -> None:
    first = await client.post(URL, json={"value": 1}, headers=KEY)
    second = await client.post(URL, json={"value": 1}, headers=KEY)

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json() | {"duplicate": True}
    assert await end(client) == 1


async def test_a_repeated_request_may_have_another_prefer_header(client: httpx2.AsyncClient) -> None:
    body = {"records": [{"value": 1}, {"value": 2}]}
    first = await client.post(URL, json=body, headers=KEY)

    minimal = await client.post(URL, json=body, headers=KEY | {"Prefer": "return=minimal"})
    whole = await client.post(URL, json=body, headers=KEY)

    assert minimal.json() == {"partitions": [{"partition": 0, "base_offset": 0, "count": 2}], "duplicate": True}
    assert whole.json() == first.json() | {"duplicate": True}


async def test_a_repeated_request_may_be_compressed(client: httpx2.AsyncClient) -> None:
    body, json = b'{"value": 1}', {"Content-Type": "application/json"}
    await client.post(URL, content=body, headers=KEY | json)

    response = await client.post(URL, content=gzip.compress(body), headers=KEY | json | {"Content-Encoding": "gzip"})

    assert (response.status_code, response.json()["duplicate"]) == (200, True)


async def test_another_request_with_the_same_key_is_refused(client: httpx2.AsyncClient) -> None:
    await client.post(URL, content=b'{"value":1}', headers=KEY | {"Content-Type": "application/json"})

    for url, body, content_type in (
        (URL, b'{"value":2}', "application/json"),
        (URL, b'{"value":1}', "text/plain"),
        (URL + "?lines=records", b'{"value":1}', "application/json"),
        (URL.replace("/0/", "/1/"), b'{"value":1}', "application/json"),
        (f"{ORDERS}/records", b'{"value":1}', "application/json"),
    ):
        response = await client.post(url, content=body, headers=KEY | {"Content-Type": content_type})
        assert (response.status_code, response.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    other = await client.post("/v1/topics/other/records", json={"value": 1}, headers=KEY)
    assert other.status_code == 201


async def test_the_key_of_a_refused_request_can_be_used_again(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS)

    refused = await client.post(URL, params={"expected_offset": 5}, json={"value": 1}, headers=KEY)
    accepted = await client.post(URL, params={"expected_offset": 0}, json={"value": 2}, headers=KEY)

    assert (refused.status_code, accepted.status_code) == (412, 201)


async def test_a_repeated_request_is_answered_before_expected_offset_is_checked(client: httpx2.AsyncClient) -> None:
    first = await client.post(URL, params={"expected_offset": 0}, json={"value": 1}, headers=KEY)
    await client.post(URL, json={"value": 2})

    second = await client.post(URL, params={"expected_offset": 0}, json={"value": 1}, headers=KEY)

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["offsets"] == first.json()["offsets"]


async def test_concurrent_requests_with_one_key_append_once(client: httpx2.AsyncClient) -> None:
    responses = await asyncio.gather(
        *(client.post(f"{ORDERS}/records", json={"value": 1}, headers=KEY) for _ in range(16))
    )

    assert sorted(response.status_code for response in responses) == [200] * 15 + [201]
    assert len({str(response.json()["offsets"]) for response in responses}) == 1


async def test_another_expected_offset_fails_with_log_end_offset(client: httpx2.AsyncClient) -> None:
    await client.post(URL, json={"value": 1})

    behind = await client.post(URL, params={"expected_offset": 0}, json={"value": 2})
    exact = await client.post(URL, params={"expected_offset": 1}, json={"records": [{"value": 2}, {"value": 3}]})
    ahead = await client.post(URL, params={"expected_offset": 4}, json={"value": 4})

    assert [response.status_code for response in (behind, exact, ahead)] == [412, 201, 412]
    assert (behind.json()["log_end_offset"], ahead.json()["log_end_offset"]) == (1, 3)
    topic = await client.post(f"{ORDERS}/records", params={"expected_offset": 3}, json={"value": 4})
    assert topic.status_code == 422


async def test_one_of_several_requests_with_the_same_expected_offset_succeeds(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS)

    responses = await asyncio.gather(
        *(client.post(URL, params={"expected_offset": 0}, json={"value": n}) for n in range(10))
    )

    assert sorted(response.status_code for response in responses) == [201] + [412] * 9
    assert await end(client) == 1


async def test_sequences_are_appended_in_order_and_repeats_get_their_answers(client: httpx2.AsyncClient) -> None:
    appended = [(await client.post(URL, json={"value": n}, headers=stamp(n))) for n in range(7)]

    replayed = await client.post(URL, json={"value": 2}, headers=stamp(2))
    old = await client.post(URL, json={"value": 1}, headers=stamp(1))
    reused = await client.post(URL, json={"value": "other"}, headers=stamp(6))
    gap = await client.post(URL, json={"value": 8}, headers=stamp(8))

    assert [response.status_code for response in appended] == [201] * 7
    assert (replayed.status_code, replayed.json()) == (200, appended[2].json() | {"duplicate": True})
    assert (old.status_code, old.json()["code"]) == (409, "DUPLICATE_SEQUENCE_NUMBER")
    assert (reused.status_code, reused.json()["code"]) == (422, "SEQUENCE_REUSED")
    assert (gap.status_code, gap.json()["code"]) == (409, "OUT_OF_ORDER_SEQUENCE_NUMBER")
    assert gap.json()["expected_sequence"] == 7
    assert await end(client) == 7


async def test_an_unregistered_producer_starts_at_sequence_0(client: httpx2.AsyncClient) -> None:
    late = await client.post(URL, json={"value": 1}, headers=stamp(3))
    start = await client.post(URL, json={"value": 1}, headers=stamp(0, epoch=4))

    assert (late.status_code, late.json()["expected_sequence"]) == (409, 0)
    assert start.status_code == 201
    assert (await client.get("/v1/producers/checkout-1")).json()["producer_epoch"] == 4


async def test_a_new_epoch_fences_the_older_instance_on_every_topic(client: httpx2.AsyncClient) -> None:
    unknown = await client.get("/v1/producers/checkout-1")
    first = (await client.post("/v1/producers/checkout-1")).json()
    await client.post(URL, json={"value": 1}, headers=stamp(0, 0))
    second = (await client.post("/v1/producers/checkout-1")).json()

    fenced = await client.post(URL, json={"value": 2}, headers=stamp(1, 0))
    elsewhere = await client.post("/v1/topics/other/records", json={"value": 2}, headers=stamp(0, 0))
    repeated = await client.post(URL, json={"value": 1}, headers=stamp(0, 0))
    middle = await client.post(URL, json={"value": 2}, headers=stamp(1, 1))
    fresh = await client.post(URL, json={"value": 2}, headers=stamp(0, 1))

    assert (unknown.status_code, unknown.json()["code"]) == (404, "UNKNOWN_PRODUCER_ID")
    assert (first, second) == ({"producer_epoch": 0}, {"producer_epoch": 1})
    for response in (fenced, elsewhere, repeated):
        assert (response.status_code, response.json()["code"]) == (409, "INVALID_PRODUCER_EPOCH")
        assert response.json()["producer_epoch"] == 1
    assert (middle.status_code, middle.json()["expected_sequence"]) == (409, 0)
    assert fresh.status_code == 201
    assert (await client.get("/v1/producers/checkout-1")).json() == {
        "producer_id": "checkout-1",
        "producer_epoch": 1,
        "topics": [{"topic": "orders", "expected_sequence": 1}],
    }


async def test_the_sequence_of_a_refused_request_can_be_used_again(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS)

    refused = await client.post(URL, params={"expected_offset": 9}, json={"value": 1}, headers=stamp(0))
    accepted = await client.post(URL, json={"value": 1}, headers=stamp(0))

    assert (refused.status_code, accepted.status_code) == (412, 201)


async def test_concurrent_sequences_are_each_appended_once(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS)
    requests = [client.post(URL, json={"value": n}, headers=stamp(n)) for n in (0, 1, 2, 3)]

    responses = await asyncio.gather(*requests)

    assert [response.status_code for response in responses] == [201] * 4
    assert [response.json()["offsets"][0]["offset"] for response in responses] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Producer-Id": "p"}, 400),
        ({"Producer-Id": "p", "Producer-Epoch": "0"}, 400),
        ({"Producer-Epoch": "0", "Producer-Sequence": "0"}, 400),
        (stamp(-1), 400),
        (stamp("1.0"), 400),
        (stamp("+1"), 400),
        (stamp("x"), 400),
        (stamp(""), 400),
        (stamp(2**63), 400),
        (stamp("9" * 5000), 400),
        (stamp(0, 2**31), 400),
        (stamp(0, producer="a b"), 422),
        (stamp(0, producer=""), 422),
        (stamp(0, producer="a" * 250), 422),
        (stamp(0) | KEY, 422),
        ({"Producer-Id": "p"} | KEY, 422),
    ],
    ids=str,
)
async def test_incomplete_or_invalid_producer_headers_are_refused(
    sqlite_client: httpx2.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await sqlite_client.post(URL, json={"value": 1}, headers=headers)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert (await sqlite_client.get(ORDERS)).status_code == 404


@pytest.mark.parametrize("name", ["a%20b", "%2e%2e", "a" * 250])
async def test_an_invalid_producer_id_is_refused(sqlite_client: httpx2.AsyncClient, name: str) -> None:
    assert (await sqlite_client.post(f"/v1/producers/{name}")).status_code == 422
    assert (await sqlite_client.get(f"/v1/producers/{name}")).status_code == 422


async def test_a_repeated_request_is_answered_after_the_topic_has_changed(sqlite_client: httpx2.AsyncClient) -> None:
    path = "/v1/topics/orders/records"
    await sqlite_client.put("/v1/topics/orders", json={})
    first = await sqlite_client.post(path, json={"value": "x" * 200}, headers={"Idempotency-Key": "k"})
    await sqlite_client.patch("/v1/topics/orders", json={"config": {"max_message_bytes": 100}})

    again = await sqlite_client.post(path, json={"value": "x" * 200}, headers={"Idempotency-Key": "k"})
    other = await sqlite_client.post(path, json={"value": "x" * 200}, headers={"Idempotency-Key": "other"})

    assert (again.status_code, again.json()["offsets"]) == (200, first.json()["offsets"])
    assert other.status_code == 413


async def test_a_request_with_a_key_to_an_unknown_partition_is_404(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put("/v1/topics/orders", json={})

    refused = await sqlite_client.post(
        "/v1/topics/orders/partitions/99/records", json={"value": 1}, headers={"Idempotency-Key": "k"}
    )

    assert (refused.status_code, refused.json()["code"]) == (404, "UNKNOWN_TOPIC_OR_PARTITION")


async def test_a_sequence_gap_on_an_unknown_topic_creates_nothing(sqlite_client: httpx2.AsyncClient) -> None:
    stamp = {"Producer-Id": "p", "Producer-Epoch": "0", "Producer-Sequence": "5"}

    refused = await sqlite_client.post("/v1/topics/new/records", json={"value": 1}, headers=stamp)

    assert refused.status_code == 409
    assert (await sqlite_client.get("/v1/topics/new")).status_code == 404
