"""Queues over HTTP: definitions, acquire and acknowledge, dead letters, browsing, purging, redriving."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.broker.queues.jobs import use_quota_of_delayed_records
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

JOBS = "/v1/queues/jobs"
FAR_MS = 4_000_000_000_000


async def put(client: httpx2.AsyncClient, queue: str = "jobs", **settings: Any) -> dict[str, Any]:
    answer = await client.put(f"/v1/queues/{queue}", json={"topic": "orders"} | settings)
    assert answer.status_code in {200, 201}, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def topic(client: httpx2.AsyncClient, name: str = "orders", partitions: int = 1, **config: Any) -> None:
    answer = await client.put(f"/v1/topics/{name}", json={"partitions": partitions, "config": config})
    assert answer.status_code == 201, answer.text


async def produce(client: httpx2.AsyncClient, *values: Any, partition: int = 0, **fields: Any) -> None:
    records = [{"value": value} | fields for value in values]
    answer = await client.post(f"/v1/topics/orders/partitions/{partition}/records", json={"records": records})
    assert answer.status_code == 201, answer.text


async def acquire(client: httpx2.AsyncClient, number: int = 10, queue: str = "jobs", **more: Any) -> list[Any]:
    answer = await client.post(f"/v1/queues/{queue}/acquire", json={"max_records": number} | more)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["deliveries"]
    return found


async def settle(client: httpx2.AsyncClient, outcome: str, *deliveries: Any, **more: Any) -> list[str | None]:
    """Acknowledge deliveries with one outcome, and return the codes."""
    items = [{"delivery_id": each["delivery_id"], "outcome": outcome} | more for each in deliveries]
    answer = await client.post(f"{JOBS}/acknowledge", json={"acknowledgements": items})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [each["delivery_id"] for each in results] == [each["delivery_id"] for each in items]
    return [each["code"] for each in results]


async def counts(client: httpx2.AsyncClient, queue: str = "jobs") -> dict[str, Any]:
    described: dict[str, Any] = (await client.get(f"/v1/queues/{queue}")).json()
    return {name: number for name, number in described["counts"].items() if number}


async def await_waiting_reads(client: httpx2.AsyncClient) -> None:
    """Return once a request waits at the server."""
    await until(lambda: client.get("/metrics"), lambda answer: "millrace_waiting_reads 1.0" in answer.text)


def values(deliveries: list[Any]) -> list[Any]:
    return [each["record"]["value"] for each in deliveries]


async def dead_letters(client: httpx2.AsyncClient, number: int) -> list[Any]:
    """Wait until the topic has a number of dead letters, and return them."""
    found: list[Any] = []
    while len(found) < number:
        query = {"offset": len(found), "max_wait_ms": 10_000}
        page = (await client.get("/v1/topics/dead/partitions/0/records", params=query)).json()
        assert page["records"], f"there are {len(found)} dead letters"
        found += page["records"]
    return found


async def test_a_queue_is_created_with_its_topics_and_then_confirmed(client: httpx2.AsyncClient) -> None:
    first = await client.put(JOBS, json={"topic": "orders", "dead_letter_topic": "dead", "ordering": "key"})
    assert first.status_code == 201
    created = first.json()
    assert created.pop("created_at_ms") > 0
    assert created.pop("created_topics") == ["orders", "dead"]
    assert created == {
        "name": "jobs",
        "topic": "orders",
        "lock_duration_ms": 30_000,
        "max_delivery_count": 5,
        "dead_letter_topic": "dead",
        "start": "earliest",
        "ordering": "key",
        "paused": False,
    }
    assert (await client.get("/v1/topics/dead")).status_code == 200
    assert (await client.put(JOBS)).json() | {"created_topics": ["orders", "dead"]} == first.json()
    assert "created_topics" not in (await client.get(JOBS)).json()
    assert (await client.put(JOBS, json={"topic": "orders", "ordering": "key"})).status_code == 200
    for differing in ({"topic": "other"}, {"ordering": "none"}, {"dead_letter_topic": None}, {"start": "latest"}):
        refused = await client.put(JOBS, json=differing)
        assert (refused.status_code, refused.json()["differing"]) == (409, list(differing))
        changeable = "dead_letter_topic" in differing
        assert ("PATCH" if changeable else "cannot be changed: delete the queue first") in refused.json()["detail"]


async def test_topics_that_a_request_creates_are_named_in_its_answer(client: httpx2.AsyncClient) -> None:
    await topic(client)
    assert "created_topics" not in (await client.put(JOBS, json={"topic": "orders"})).json()
    assert (await client.put("/v1/queues/typo", json={"topic": "ordres"})).json()["created_topics"] == ["ordres"]

    changed = await client.patch(JOBS, json={"dead_letter_topic": "daed"})
    assert changed.json()["created_topics"] == ["daed"]
    assert "created_topics" not in (await client.patch(JOBS, json={"dead_letter_topic": "daed"})).json()

    acquired = [await client.post("/v1/queues/more/acquire", json={"topic": "oders"}) for _ in range(2)]
    assert acquired[0].json() == {"deliveries": [], "created_topics": ["oders"]}
    assert acquired[1].json() == {"deliveries": []}


async def test_durations_in_seconds_are_used_with_a_warning(client: httpx2.AsyncClient) -> None:
    detail = "lock_duration_ms is 3.6 seconds, because it is in milliseconds; if 3600 is in seconds, send 3600000"
    warning = {"code": "DURATION_IN_SECONDS", "detail": detail, "field": "lock_duration_ms"}
    created = await client.put(JOBS, json={"topic": "orders", "lock_duration_ms": 3_600})
    assert (created.json()["lock_duration_ms"], created.json()["warnings"]) == (3_600, [warning])
    changed = await client.patch(JOBS, json={"lock_duration_ms": 1_800})
    assert [each["field"] for each in changed.json()["warnings"]] == ["lock_duration_ms"]
    assert "warnings" not in (await client.patch(JOBS, json={"lock_duration_ms": 5_000})).json()

    acquired = await client.post(f"{JOBS}/acquire", json={"lock_duration_ms": 3_600})
    assert acquired.json()["warnings"] == [warning]


async def test_a_delay_in_seconds_is_used_with_a_warning(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, 1, 2, 3)
    deliveries = (await client.post(f"{JOBS}/acquire", json={})).json()["deliveries"]
    ids = [each["delivery_id"] for each in deliveries]
    warning = {
        "code": "DURATION_IN_SECONDS",
        "detail": "delay_ms is 0.3 seconds, because it is in milliseconds; if 300 is in seconds, send 300000",
        "field": "delay_ms",
    }

    released = [{"delivery_id": ids[0], "outcome": "release", "delay_ms": 300}]
    released += [{"delivery_id": ids[1], "outcome": "release", "delay_ms": 5_000}]
    results = (await client.post(f"{JOBS}/acknowledge", json={"acknowledgements": released})).json()["results"]
    single = await client.post(f"{JOBS}/deliveries/{ids[2]}/release?delay_ms=300")

    assert [each.get("warnings") for each in results] == [[warning], None]
    assert single.json()["warnings"] == [warning]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "topic is required"),
        ({"topic": "orders", "lock_duration_ms": 30}, 422, "from 1000 to 3600000, in milliseconds"),
        ({"topic": "orders", "max_delivery_count": 0}, 422, "from 1 to 100"),
        ({"topic": "orders", "max_delivery_count": "x"}, 422, "max_delivery_count"),
        ({"topic": "orders", "start": "soon"}, 422, "start must be"),
        ({"topic": "orders", "ordering": "fifo"}, 422, "none, key, partition"),
        ({"topic": "orders", "dead_letter_topic": "orders"}, 422, "own topic"),
        ({"topic": "orders", "dead_letter_topic": "compacted"}, 422, "cleanup_policy delete"),
        ({"topic": "a b"}, 422, "1 to 249 characters"),
        ({"topic": "a b", "dead_letter_topic": "dead"}, 422, "1 to 249 characters"),
        ({"topic": "orders", "dead_letter_topic": ""}, 422, "1 to 249 characters"),
        ({"topic": "orders", "lock_duration": 5}, 422, "did you mean lock_duration_ms"),
    ],
)
async def test_an_invalid_definition_is_refused_with_its_reason(
    sqlite_client: httpx2.AsyncClient, body: dict[str, Any], status: int, word: str
) -> None:
    await topic(sqlite_client, "compacted", cleanup_policy="compact")
    answer = await sqlite_client.put(JOBS, json=body)
    assert answer.status_code == status
    assert word in answer.text
    assert [each["name"] for each in (await sqlite_client.get("/v1/topics")).json()["items"]] == ["compacted"]


async def test_a_queue_is_changed_paused_listed_and_deleted(client: httpx2.AsyncClient) -> None:
    await put(client, lock_duration_ms=1_000, dead_letter_topic="dead")
    await put(client, "mails")
    changed = await client.patch(JOBS, json={"lock_duration_ms": None, "dead_letter_topic": None, "paused": True})
    assert changed.status_code == 200
    assert (changed.json()["lock_duration_ms"], changed.json()["dead_letter_topic"]) == (30_000, None)
    await produce(client, 1)
    assert await acquire(client) == []
    await client.patch(JOBS, json={"paused": None})
    assert values(await acquire(client)) == [1]
    page = (await client.get("/v1/queues", params={"limit": 1})).json()
    rest = (await client.get("/v1/queues", params={"cursor": page["next_cursor"]})).json()
    assert [each["name"] for each in (*page["items"], *rest["items"])] == ["jobs", "mails"]
    assert (await client.delete(JOBS)).status_code == 204
    for answer in (await client.get(JOBS), await client.delete(JOBS), await client.patch(JOBS, json={})):
        assert (answer.status_code, answer.json()["code"]) == (404, "UNKNOWN_QUEUE")
    assert (await client.post(f"{JOBS}/acquire")).status_code == 404
    assert (await client.patch("/v1/queues/mails", json={"topic": "x"})).status_code == 422


@pytest.mark.parametrize(
    ("start", "first"),
    [("earliest", [0, 1, 2, 3]), ("latest", []), ("-1", [3]), ("2", [2, 3]), ("99", []), ("@1000002", [2, 3])],
)
async def test_a_queue_starts_at_its_start(client: httpx2.AsyncClient, start: str, first: list[int]) -> None:
    await topic(client, retention_ms=-1)
    for number in range(4):
        await produce(client, number, timestamp_ms=1_000_000 + number)
    await put(client, start=start)
    assert values(await acquire(client)) == first


async def test_each_queue_over_a_topic_has_its_own_state(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await put(client, "mails")
    await produce(client, 1, 2)
    assert await settle(client, "accept", *await acquire(client, 1)) == [None]
    assert values(await acquire(client)) == [2]
    assert values(await acquire(client, queue="mails")) == [1, 2]
    assert await counts(client) == {"acquired": 1, "accepted": 1}


async def test_deliveries_are_settled_once_and_independently(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, 1, 2, 3, 4)
    first, second, third, fourth = await acquire(client)
    assert (first["delivery_count"], first["record"]["offset"]) == (1, 0)
    items = [
        {"delivery_id": first["delivery_id"], "outcome": "accept"},
        {"delivery_id": first["delivery_id"], "outcome": "reject"},
        {"delivery_id": second["delivery_id"], "outcome": "release"},
        {"delivery_id": third["delivery_id"], "outcome": "renew"},
        {"delivery_id": fourth["delivery_id"], "outcome": "reject"},
        {"delivery_id": "9.0.0.1", "outcome": "accept"},
        {"delivery_id": "1.999.0.1", "outcome": "accept"},
        {"delivery_id": "never", "outcome": "accept"},
    ]
    results = (await client.post(f"{JOBS}/acknowledge", json={"acknowledgements": items})).json()["results"]
    codes = [each["code"] for each in results]
    assert codes == [None, "INVALID_RECORD_STATE", None, None, None, *["INVALID_RECORD_STATE"] * 3]
    assert results[3]["locked_until_ms"] >= third["locked_until_ms"]
    (again,) = await acquire(client)
    assert (again["record"]["value"], again["delivery_count"]) == (2, 2)
    assert await settle(client, "accept", second) == ["INVALID_RECORD_STATE"]
    assert await settle(client, "accept", again) == [None]


@pytest.mark.parametrize(
    ("outcome", "query", "body", "word"),
    [
        ("accept", {}, {"delay_ms": 5}, "accept takes no body"),
        ("renew", {}, {"delay_ms": 0}, "renew takes no body"),
        ("reject", {"delay_ms": 5}, {}, "release only"),
        ("release", {"delay_ms": 6}, {"delay_ms": 5}, "is 6 in the query and 5 in the body"),
        ("release", {"delay_ms": 0}, {"delay_ms": 5}, "is 0 in the query and 5 in the body"),
        ("release", {}, {"delay": 5}, "did you mean delay_ms"),
        ("accept", {}, {"outcome": "accept"}, "there is no field outcome"),
        ("release", {}, {"delay_ms": -1}, "delay_ms"),
    ],
)
async def test_an_unsuitable_body_or_query_of_a_single_acknowledgement_is_refused(
    sqlite_client: httpx2.AsyncClient, outcome: str, query: dict[str, Any], body: dict[str, Any], word: str
) -> None:
    await topic(sqlite_client)
    await put(sqlite_client)
    await produce(sqlite_client, 1)
    (delivery,) = await acquire(sqlite_client)
    path = f"{JOBS}/deliveries/{delivery['delivery_id']}/{outcome}"
    refused = await sqlite_client.post(path, params=query, json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_REQUEST")
    assert word in refused.json()["detail"]
    assert await counts(sqlite_client) == {"acquired": 1}


@pytest.mark.parametrize(
    ("query", "body"), [({"delay_ms": 60_000}, None), ({}, {"delay_ms": 60_000}), ({"delay_ms": 60_000},) * 2]
)
async def test_a_delay_is_given_in_the_query_or_in_the_body(
    sqlite_client: httpx2.AsyncClient, query: dict[str, Any], body: dict[str, Any] | None
) -> None:
    await topic(sqlite_client)
    await put(sqlite_client)
    await produce(sqlite_client, 1)
    (delivery,) = await acquire(sqlite_client)
    path = f"{JOBS}/deliveries/{delivery['delivery_id']}/release"
    assert (await sqlite_client.post(path, params=query, json=body)).status_code == 200
    assert await counts(sqlite_client) == {"delayed": 1}


async def test_a_single_delivery_is_settled_by_its_own_route(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, 1)
    (delivery,) = await acquire(client)
    path = f"{JOBS}/deliveries/{delivery['delivery_id']}"
    assert (await client.post(f"{path}/renew")).json()["locked_until_ms"] >= delivery["locked_until_ms"]
    assert (await client.post(f"{path}/lose")).status_code == 404
    for never in ("abc", "1.0.0"):
        refused = await client.post(f"{JOBS}/deliveries/{never}/accept")
        assert (refused.status_code, refused.json()["code"]) == (409, "INVALID_RECORD_STATE")
        assert (
            refused.json()["detail"]
            == "this is not a delivery_id such as 1.0.0.1; copy it from the response of acquire"
        )
    assert (await client.post(f"{path}/accept", params={"delay_ms": 5})).status_code == 422
    assert (await client.post(f"{path}/release", params={"delay_ms": 60_000})).status_code == 200
    refused = await client.post(f"{path}/accept")
    assert (refused.status_code, refused.json()["code"]) == (409, "INVALID_RECORD_STATE")
    assert await counts(client) == {"delayed": 1}


async def test_an_append_a_release_a_resume_and_a_due_record_wake_a_waiting_acquire(
    client: httpx2.AsyncClient,
) -> None:
    await topic(client)
    await put(client)

    async def woken(cause: Any) -> list[Any]:
        waiting = asyncio.create_task(acquire(client, max_wait_ms=20_000))
        await await_waiting_reads(client)
        await cause
        return await waiting

    (first,) = await woken(produce(client, 1))
    (second,) = await woken(settle(client, "release", first))
    assert second["delivery_count"] == 2
    (third,) = await woken(settle(client, "release", second, delay_ms=50))
    assert third["delivery_count"] == 3
    await client.patch(JOBS, json={"paused": True})
    await settle(client, "release", third)
    (fourth,) = await woken(client.patch(JOBS, json={"paused": False}))
    assert fourth["delivery_count"] == 4


async def test_a_record_whose_lock_expires_is_delivered_to_a_waiting_acquire(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client, lock_duration_ms=1_000)
    await produce(client, 1)
    (first,) = await acquire(client)
    (second,) = await acquire(client, max_wait_ms=20_000)
    assert (second["delivery_count"], second["locked_until_ms"] >= first["locked_until_ms"]) == (2, True)
    assert await settle(client, "accept", first) == ["INVALID_RECORD_STATE"]
    assert await settle(client, "accept", second) == [None]


async def test_archived_records_become_dead_letters_without_an_acquire(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client, dead_letter_topic="dead", max_delivery_count=1, lock_duration_ms=1_000)
    await produce(client, "a", key="k", headers={"n": "v"})
    await produce(client, "b", "c")
    rejected, released, _ = await acquire(client)
    assert await settle(client, "reject", rejected) == [None]
    assert await settle(client, "release", released) == [None]

    found = await dead_letters(client, 3)

    headers = [{each["name"]: each["value"] for each in letter["headers"]} for letter in found]
    assert (found[0]["key"], [letter["value"] for letter in found]) == ("k", ["a", "b", "c"])
    assert headers[0] == {
        "n": "v",
        "__dlq.errors.topic": "orders",
        "__dlq.errors.partition": "0",
        "__dlq.errors.offset": "0",
        "__dlq.errors.group": "jobs",
        "__dlq.errors.delivery.count": "1",
        "__dlq.errors.message": "rejected",
    }
    reasons = [each["__dlq.errors.message"] for each in headers[1:]]
    assert [reason.partition(" after")[0] for reason in reasons] == ["released", "lock expired"]
    assert await counts(client) == {"archived": 3}
    archived = (await client.get(f"{JOBS}/records", params={"state": "archived"})).json()["items"]
    assert [(each["record"]["value"], each["delivery_count"]) for each in archived] == [("a", 1), ("b", 1), ("c", 1)]


async def test_a_refused_dead_letter_keeps_the_record_and_shows_the_error(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await topic(client, "dead", max_message_bytes=10)
    await put(client, dead_letter_topic="dead")
    await produce(client, "x" * 100, "y")
    await settle(client, "reject", *await acquire(client))

    (letter,) = await dead_letters(client, 1)

    assert letter["value"] == "y"
    assert await counts(client) == {"delayed": 1, "archived": 1}
    assert "max_message_bytes of dead is 10" in (await client.get(JOBS)).json()["dead_letter_error"]


async def test_a_dead_letter_topic_in_use_is_not_deleted_and_a_queue_is_deleted_with_its_topic(
    client: httpx2.AsyncClient,
) -> None:
    await topic(client)
    await put(client, dead_letter_topic="dead")
    refused = await client.delete("/v1/topics/dead")
    assert (refused.status_code, refused.json()["code"], refused.json()["queues"]) == (409, "TOPIC_IN_USE", ["jobs"])
    waiting = asyncio.create_task(client.post(f"{JOBS}/acquire", json={"max_wait_ms": 20_000}))
    await await_waiting_reads(client)
    assert (await client.delete("/v1/topics/orders")).status_code == 204
    assert ((await waiting).status_code, (await client.get(JOBS)).status_code) == (404, 404)
    assert (await client.delete("/v1/topics/dead")).status_code == 204
    await topic(client)
    assert (await client.post(f"{JOBS}/acquire")).status_code == 404


async def test_a_repeated_acquire_gets_the_same_deliveries_while_they_are_locked(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, 1, 2, 3)
    key = {"Idempotency-Key": "worker-1"}
    first = await client.post(f"{JOBS}/acquire", json={"max_records": 2}, headers=key)
    again = await client.post(f"{JOBS}/acquire", json={"max_records": 2}, headers=key)
    assert again.json() == first.json()
    assert (await client.post(f"{JOBS}/acquire", json={"max_records": 1}, headers=key)).status_code == 422
    await settle(client, "accept", first.json()["deliveries"][0])
    other = await client.post(f"{JOBS}/acquire", json={"max_records": 2}, headers=key)
    assert values(other.json()["deliveries"]) == [3]


async def test_a_key_of_an_acknowledge_or_an_acquire_is_refused_for_the_other(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, 1, 2)
    (delivery,) = await acquire(client, 1)
    body = {"acknowledgements": [{"delivery_id": delivery["delivery_id"], "outcome": "accept"}]}
    acknowledged, acquired = {"Idempotency-Key": "a"}, {"Idempotency-Key": "b"}
    await client.post(f"{JOBS}/acknowledge", json=body, headers=acknowledged)
    await client.post(f"{JOBS}/acquire", headers=acquired)

    errors = [
        await client.post(f"{JOBS}/acquire", headers=acknowledged),
        await client.post(f"{JOBS}/acknowledge", json=body, headers=acquired),
    ]

    assert [(each.status_code, each.json()["code"]) for each in errors] == [(422, "IDEMPOTENCY_KEY_REUSED")] * 2


async def test_a_repeated_acknowledge_gets_the_same_answer(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, 1)
    (delivery,) = await acquire(client)
    key = {"Idempotency-Key": "ack-1"}
    body = {"acknowledgements": [{"delivery_id": delivery["delivery_id"], "outcome": "accept"}]}
    first = await client.post(f"{JOBS}/acknowledge", json=body, headers=key)
    again = await client.post(f"{JOBS}/acknowledge", json=body, headers=key)
    assert first.json() == again.json()
    assert first.json()["results"][0]["code"] is None
    body["acknowledgements"][0]["outcome"] = "reject"
    refused = await client.post(f"{JOBS}/acknowledge", json=body, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_header_delays_a_record_even_after_retention_deletes_it(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, "later", headers={"deliver_at_ms": str(FAR_MS)})
    await produce(client, "now", headers={"deliver_at_ms": "5"})
    await produce(client, "unreadable", headers={"deliver_at_ms": "soon"})
    assert values(await acquire(client)) == ["now", "unreadable"]
    await client.delete("/v1/topics/orders/partitions/0/records", params={"before_offset": 3})
    assert await counts(client) == {"acquired": 2, "delayed": 1}
    (delayed,) = (await client.get(f"{JOBS}/records", params={"state": "delayed"})).json()["items"]
    assert (delayed["record"]["value"], delayed["until_ms"]) == ("later", FAR_MS)


async def test_records_below_the_log_start_expire_unless_they_are_acquired(
    client: httpx2.AsyncClient,
) -> None:
    await topic(client)
    await put(client)
    await produce(client, *range(5))
    held, released = await acquire(client, 2)
    await settle(client, "release", released)
    await client.delete("/v1/topics/orders/partitions/0/records", params={"before_offset": 4})
    assert await counts(client) == {"available": 1, "acquired": 1, "expired": 3}
    assert await settle(client, "accept", held) == [None]
    assert values(await acquire(client)) == [4]
    assert await counts(client) == {"acquired": 1, "accepted": 1, "expired": 3}


async def test_keys_are_delivered_in_order_and_one_at_a_time(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client, ordering="key", max_delivery_count=2, dead_letter_topic="dead")
    for key, value in (("a", 1), ("a", 2), ("b", 3), (None, 4), (None, 5), ("a", 6)):
        await produce(client, value, key=key)
    first = await acquire(client)
    assert values(first) == [1, 3, 4, 5]
    assert await acquire(client) == []
    assert (await client.get(JOBS)).json()["blocked"] is True
    await settle(client, "release", first[0], delay_ms=60_000)
    assert await acquire(client) == []
    assert (await client.get(JOBS)).json()["blocked"] is True
    await settle(client, "accept", *first[1:])
    assert await counts(client) == {"available": 2, "delayed": 1, "accepted": 3}
    assert (await client.post(f"{JOBS}/purge")).json() == {"purged": 3}
    await produce(client, 7, 8, key="a")
    (seventh,) = await acquire(client)
    await settle(client, "reject", seventh)
    (eighth,) = await acquire(client, max_wait_ms=20_000)
    assert (seventh["record"]["value"], eighth["record"]["value"]) == (7, 8)
    assert [each["value"] for each in await dead_letters(client, 1)] == [7]


async def test_an_acquire_admits_no_more_than_the_in_flight_limit(sqlite_client: httpx2.AsyncClient) -> None:
    await topic(sqlite_client)
    await put(sqlite_client, ordering="key")
    await produce(sqlite_client, *range(3_000), key="same")
    await produce(sqlite_client, "other", key="other")
    (first,) = await acquire(sqlite_client)
    assert await acquire(sqlite_client) == []
    described = (await sqlite_client.get(JOBS)).json()
    assert (described["blocked"], described["counts"]["available"]) == (True, 3_000)
    await settle(sqlite_client, "accept", first)
    assert values(await acquire(sqlite_client)) == [1]


async def test_records_of_added_partitions_are_delivered(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    assert await acquire(client) == []
    await client.patch("/v1/topics/orders", json={"partitions": 3})
    await produce(client, "new", partition=2)
    assert values(await acquire(client)) == ["new"]


async def test_acquires_rotate_over_the_partitions_and_keep_to_max_bytes(client: httpx2.AsyncClient) -> None:
    await topic(client, partitions=4)
    await put(client)
    for partition in range(4):
        await produce(client, "x" * 1_000, "y" * 1_000, partition=partition)
    found = [delivery for _ in range(4) for delivery in await acquire(client, 1)]
    assert {delivery["record"]["partition"] for delivery in found} == {0, 1, 2, 3}
    assert len(await acquire(client, 10, max_bytes=2_500)) == 2
    assert len(await acquire(client, 10)) == 2


async def test_a_purge_keeps_acquired_records(client: httpx2.AsyncClient) -> None:
    await topic(client)
    await put(client)
    await produce(client, *range(5))
    held, delayed, released = await acquire(client, 3)
    await settle(client, "release", delayed, delay_ms=60_000)
    await settle(client, "release", released)
    assert (await client.post(f"{JOBS}/purge")).json() == {"purged": 4}
    assert await counts(client) == {"acquired": 1, "archived": 4}
    assert await settle(client, "accept", held) == [None]
    await produce(client, "after")
    assert values(await acquire(client)) == ["after"]


async def test_dead_letters_are_redriven_once_and_after_a_plan(client: httpx2.AsyncClient) -> None:
    await topic(client, partitions=2)
    await put(client, dead_letter_topic="dead")
    await produce(client, "a", key="k", headers={"n": "v", "deliver_at_ms": "1"}, partition=1)
    await produce(client, "b", "c")
    await settle(client, "reject", *await acquire(client))
    await until(lambda: client.post(f"{JOBS}/redrive"), lambda answer: answer.json()["records"] == 3)
    plan = (await client.post(f"{JOBS}/redrive", json={"max_records": 2})).json()
    assert (plan["dry_run"], plan["records"], plan["more"]) == (True, 2, True)
    done = (await client.post(f"{JOBS}/redrive", json={"dry_run": False})).json()
    assert done["plan"] == [
        {"topic": "orders", "partition": 0, "records": 2},
        {"topic": "orders", "partition": 1, "records": 1},
    ]
    assert (await client.post(f"{JOBS}/redrive", json={"dry_run": False})).json()["records"] == 0
    again = await acquire(client)
    assert sorted(values(again)) == ["a", "b", "c"]
    (keyed,) = [each["record"] for each in again if each["record"]["value"] == "a"]
    assert (keyed["partition"], keyed["key"], keyed["headers"]) == (1, "k", [{"name": "n", "value": "v"}])
    assert (await client.post(f"{JOBS}/redrive", json={"dead_letter_topic": "no"})).status_code == 404


async def test_browsing_acquires_nothing_and_continues_page_by_page(client: httpx2.AsyncClient) -> None:
    await topic(client, partitions=2)
    await put(client)
    for partition in (0, 1):
        await produce(client, *range(partition * 10, partition * 10 + 5), partition=partition)
    (held,) = await acquire(client, 1)
    await settle(client, "release", held)
    records: list[Any] = []
    cursor = None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(f"{JOBS}/records", params=query)).json()
        records += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert values(records) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert {each["state"] for each in records} == {"available"}
    assert len(await acquire(client)) == 10
    acquired = (await client.get(f"{JOBS}/records", params={"state": "acquired"})).json()["items"]
    assert await settle(client, "accept", *acquired) == [None] * 10
    for query in ({"state": "lost"}, {"cursor": "x"}, {"limit": 0}):
        assert (await client.get(f"{JOBS}/records", params=query)).status_code in {400, 422}


async def test_no_more_records_are_delayed_than_the_limit_allows(serve: Serve) -> None:
    application, client = await serve()
    await topic(client)
    await put(client)
    await use_quota_of_delayed_records(application.services.storage, left=2)
    await produce(client, "first", "second")
    await produce(client, "a", "b", headers={"deliver_at_ms": str(FAR_MS)})
    await produce(client, "last")
    first, second = await acquire(client, 2)
    assert await settle(client, "release", first, delay_ms=60_000) == [None]
    assert await acquire(client) == []
    assert await settle(client, "release", second, delay_ms=60_000) == ["DELAYED_RECORDS_LIMIT"]
    described = (await client.get(JOBS)).json()
    assert described["delayed_limit_reached"] is True
    assert {name: number for name, number in described["counts"].items() if number} == {
        "available": 2,
        "acquired": 1,
        "delayed": 2,
    }
    assert await settle(client, "accept", second) == [None]


async def test_an_acquire_skips_the_gaps_of_compaction(client: httpx2.AsyncClient) -> None:
    await topic(client, cleanup_policy="compact")
    for number in range(50):
        await produce(client, number, key=str(number % 2))
    await put(client)
    (first,) = await acquire(client, 1)
    assert first["record"]["value"] in {0, 48}
    found = await acquire(client, 100)
    assert values(found)[-2:] == [48, 49]
    assert await counts(client) == {"acquired": len(found) + 1}


async def test_a_repeated_single_acknowledgement_with_its_key_gets_the_same_answer(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/queues/jobs", json={"topic": "orders"})
    await client.post("/v1/topics/orders/records", json={"records": [{"value": 1}]})
    (found,) = (await client.post("/v1/queues/jobs/acquire", json={})).json()["deliveries"]
    url, key = f"/v1/queues/jobs/deliveries/{found['delivery_id']}", {"Idempotency-Key": "k"}

    first = await client.post(f"{url}/accept", headers=key)
    again = await client.post(f"{url}/accept", headers=key)
    other = await client.post(f"{url}/reject", headers=key)

    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
