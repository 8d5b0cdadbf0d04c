"""Times and durations in seconds: warnings in answers, and offset specs that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

URL = "/v1/topics/orders/records"
SECONDS = 1_517_363_399
MILLISECONDS = 1_517_363_399_650
WARNING = {
    "code": "TIMESTAMP_IN_SECONDS",
    "detail": "the timestamp 1517363399 is a time on 1970-01-18, because it is in milliseconds; if it is in seconds, "
    "multiply it by 1000",
    "index": 1,
}
LINES = b'{"value":1,"timestamp_ms":1517363399650}\n{"value":2,"timestamp_ms":1517363399}\n{"value":3}\n'
VALUES = b'{"at":"2018-01-31t01:49:59z"}\n{"at":1517363399}\n'


async def post(
    client: httpx2.AsyncClient, body: bytes, query: str = "", content_type: str = "application/json", **headers: str
) -> Any:
    response = await client.post(URL + query, content=body, headers={"Content-Type": content_type} | headers)
    assert response.status_code in {200, 201}, response.text
    return response.json()


@pytest.mark.parametrize(
    ("body", "query", "content_type"),
    [
        (b'{"records":[%b]}' % LINES.strip().replace(b"\n", b","), "", "application/json"),
        (LINES, "", "application/x-ndjson"),
        (LINES, "?lines=records", "application/json"),
        (VALUES, "?lines=values&timestamp_from=/at", "application/json"),
    ],
    ids=["json", "ndjson", "lines of records", "lines of values"],
)
async def test_a_timestamp_in_seconds_is_appended_with_a_warning(
    client: httpx2.AsyncClient, body: bytes, query: str, content_type: str
) -> None:
    answer = await post(client, body, query, content_type)

    assert answer["offsets"][1]["timestamp_ms"] == SECONDS
    assert answer["warnings"] == [WARNING]


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "application/x+json"])
async def test_the_timestamp_of_a_raw_body_is_warned_of(client: httpx2.AsyncClient, content_type: str) -> None:
    answer = await post(client, b"1", f"?timestamp_ms={SECONDS}", content_type)

    assert answer["warnings"] == [WARNING | {"index": 0}]


async def test_a_short_answer_and_a_repeated_one_have_the_warnings(client: httpx2.AsyncClient) -> None:
    headers = {"Prefer": "return=minimal", "Idempotency-Key": "a"}

    first, again = [await post(client, LINES, "", "application/x-ndjson", **headers) for _ in range(2)]

    assert first["warnings"] == again["warnings"] == [WARNING]
    assert (set(first), again["duplicate"]) == ({"partitions", "warnings"}, True)


async def test_at_most_ten_records_are_warned_of(client: httpx2.AsyncClient) -> None:
    answer = await post(client, b"\n".join([b'{"value":1,"timestamp_ms":99999999999}'] * 20), "?lines=records")

    assert [each["index"] for each in answer["warnings"]] == list(range(10))


async def test_without_seconds_there_are_no_warnings(client: httpx2.AsyncClient) -> None:
    assert set(await post(client, b'{"value":1}')) == {"offsets"}
    assert set(await post(client, b'{"value":1,"timestamp_ms":100000000000}')) == {"offsets"}
    await client.put("/v1/topics/orders-appended", json={"config": {"message_timestamp_type": "LogAppendTime"}})
    response = await client.post("/v1/topics/orders-appended/records", json={"value": 1, "timestamp_ms": SECONDS})
    assert set(response.json()) == {"offsets"}


async def test_a_transaction_warns_with_the_entry_and_the_index(client: httpx2.AsyncClient) -> None:
    records = [{"value": 1, "timestamp_ms": MILLISECONDS}, {"value": 2, "timestamp_ms": SECONDS}]
    produce = [{"topic": "a", "records": records[:1]}, {"topic": "b", "records": records}]

    warned = (await client.post("/v1/transactions", json={"produce": produce})).json()
    silent = (await client.post("/v1/transactions", json={"produce": produce[:1]})).json()

    assert warned["warnings"] == [WARNING | {"produce": 1}]
    assert set(silent) == {"produced", "duplicate"}


async def test_an_offset_spec_in_seconds_is_refused_wherever_an_offset_is_taken(client: httpx2.AsyncClient) -> None:
    await post(client, b'{"value":1}')
    spec = f"@{SECONDS}"
    reset = {"topic": "orders", "to": spec}
    answers = [
        await client.get("/v1/topics/orders/partitions/0/records", params={"offset": spec}),
        await client.get(URL, params={"offset": spec}),
        await client.get(URL, params={"offset": spec, "follow": "true", "max_wait_ms": 1}),
        await client.get(URL, params={"offset": spec, "max_wait_ms": 1}, headers={"Accept": "text/event-stream"}),
        await client.post("/v1/groups/g/offsets/reset", json=reset),
        await client.put("/v1/queues/q", json={"topic": "orders", "start": spec}),
    ]

    assert [answer.status_code for answer in answers] == [422] * 6
    for answer in answers:
        assert f"{SECONDS} looks like seconds; write @1517363399000 or @2018-01-31T01:49:59Z" in answer.text


async def test_zero_and_rfc_3339_in_small_letters_are_times(client: httpx2.AsyncClient) -> None:
    await post(client, LINES, content_type="application/x-ndjson")

    for spec in ("@0", "@1970-01-18t13:29:23z"):
        response = await client.get(URL, params={"offset": spec})
        assert [each["value"] for each in response.json()["records"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("time", "code", "words"),
    [
        (str(SECONDS), "DELIVERY_TIME_IN_SECONDS", "1517363399 is a time on 1970-01-18, because it is in milliseconds"),
        ("2026-12-01T00:00:00Z", "DELIVERY_TIME_INVALID", "is not a number of milliseconds since 1970, such as"),
        ("1517363399.65", "DELIVERY_TIME_INVALID", "queues deliver the record at once"),
        (str(MILLISECONDS * 1000), "DELIVERY_TIME_INVALID", "queues deliver the record at once"),
    ],
)
async def test_a_delivery_time_that_delays_nothing_is_warned_of(
    client: httpx2.AsyncClient, time: str, code: str, words: str
) -> None:
    records = [{"value": 0}, {"value": 1, "headers": {"deliver_at_ms": str(MILLISECONDS)}}]
    records += [{"value": 2, "headers": {"deliver_at_ms": time, "x": "1"}}]

    answers = [
        (await client.post(URL, json={"records": records})).json()["warnings"],
        (await client.post("/v1/transactions", json={"produce": [{"topic": "orders", "records": records}]})).json()[
            "warnings"
        ],
    ]

    for (warning,) in answers:
        assert (warning["code"], warning["index"]) == (code, 2)
        assert words in warning["detail"]


async def test_valid_delivery_times_and_other_headers_are_not_warned_of(client: httpx2.AsyncClient) -> None:
    records = [
        {"value": 1, "headers": {"deliver_at_ms": time, "at": "1517363399"}} for time in ("0", "4000000000000", None)
    ]

    answer = await client.post(URL, json={"records": records})

    assert (answer.status_code, "warnings" in answer.json()) == (201, False)


@pytest.mark.parametrize(
    ("config", "seconds", "meant"),
    [
        ({"retention_ms": 86_400}, "86.4", 86_400_000),
        ({"delete_retention_ms": 604_800}, "604.8", 604_800_000),
        ({"min_compaction_lag_ms": 3_600}, "3.6", 3_600_000),
    ],
)
async def test_a_configuration_in_seconds_is_set_with_a_warning(
    client: httpx2.AsyncClient, config: dict[str, int], seconds: str, meant: int
) -> None:
    ((field, value),) = config.items()
    detail = (
        f"config.{field} is {seconds} seconds, because it is in milliseconds; if {value} is in seconds, send {meant}"
    )
    for answer in (
        await client.put("/v1/topics/orders", json={"config": config}),
        await client.put("/v1/topics/orders", json={"config": config}),
        await client.patch("/v1/topics/orders", json={"config": config}),
    ):
        assert answer.json()["config"][field] == value
        assert [each["detail"] for each in answer.json()["warnings"]] == [detail]
        assert answer.json()["warnings"][0]["field"] == f"config.{field}"
    assert "warnings" not in (await client.get("/v1/topics/orders")).json()


async def test_a_retention_of_zero_is_set_with_a_warning(client: httpx2.AsyncClient) -> None:
    answer = await client.put("/v1/topics/orders", json={"config": {"retention_ms": 0}})

    assert answer.json()["warnings"] == [
        {
            "code": "RETENTION_IS_ZERO",
            "detail": "config.retention_ms is 0, which deletes records at once; -1 keeps them for ever",
            "field": "config.retention_ms",
        }
    ]


async def test_durations_of_a_topic_that_are_round_as_milliseconds_are_not_warned_of(
    client: httpx2.AsyncClient,
) -> None:
    config = {"retention_ms": 3_600_000, "delete_retention_ms": 0, "min_compaction_lag_ms": 60_000}

    answer = await client.put("/v1/topics/orders", json={"config": config})

    assert (answer.status_code, "warnings" in answer.json()) == (201, False)


async def test_the_time_outs_of_a_join_in_seconds_are_warned_of(client: httpx2.AsyncClient) -> None:
    body = {"topics": ["orders"], "session_timeout_ms": 1_800, "rebalance_timeout_ms": 1_200}

    joined = await client.post("/v1/groups/g/members", json=body | {"member_id": "a"})
    polled = await client.post("/v1/groups/g/members/b/poll", json=body | {"max_wait_ms": 0})

    for answer in (joined, polled):
        assert [each["field"] for each in answer.json()["warnings"]] == ["session_timeout_ms", "rebalance_timeout_ms"]
