"""Quotas over HTTP: 429, Retry-After and the RateLimit fields; requests that wait."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from app.api.limits.throttle import Throttle
from app.domain.limits.quotas import Quota, Quotas
from tests.streaming import StreamClient
from tests.waiting import until_true

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

RECORDS = "/v1/topics/orders/records"
PARTITION = "/v1/topics/orders/partitions/0/records"
REFUSED = {"code": "THROTTLING_QUOTA_EXCEEDED", "status": 429, "retriable": True}


def is_refused(answer: httpx2.Response) -> bool:
    found = answer.json()
    return {name: found.get(name) for name in REFUSED} == REFUSED and int(answer.headers["retry-after"]) >= 1


async def test_produce_requests_beyond_the_quota_are_429_and_write_nothing(serve: Serve) -> None:
    application, client = await serve(quota_produce_requests_per_s=2)
    answers = [await client.post(RECORDS, json={"value": number}) for number in range(3)]

    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert is_refused(answers[2])
    assert answers[0].headers["ratelimit-policy"] == '"produce-requests";q=2;qu="requests";w=1'
    assert re.fullmatch(r'"produce-requests";r=[01];t=1', answers[0].headers["ratelimit"])
    assert answers[2].headers["ratelimit"] == '"produce-requests";r=0;t=1'
    assert application.services.limits.refused == {"produce-requests": 1}
    assert "(MILLRACE_QUOTA_PRODUCE_REQUESTS_PER_S or MILLRACE_PRINCIPAL_QUOTAS)" in answers[2].json()["detail"]
    page = (await client.get(RECORDS, params={"offset": "earliest"})).json()
    assert [record["value"] for record in page["records"]] == [0, 1]


@pytest.mark.parametrize("path", ["/v1/transactions", RECORDS])
async def test_bytes_that_were_produced_count_as_they_were_sent(serve: Serve, path: str) -> None:
    _, client = await serve(quota_produce_bytes_per_s=1_000)
    records = {"records": [{"value": "x" * 1_500}]}
    body = records if path == RECORDS else {"produce": [records | {"topic": "orders"}]}
    first, second = [await client.post(path, json=body) for _ in range(2)]

    assert first.status_code in {200, 201}
    assert is_refused(second)


async def test_bytes_that_were_fetched_count_for_fetch_poll_and_acquire_together(serve: Serve) -> None:
    _, client = await serve(quota_fetch_bytes_per_s=1_000)
    await client.post(PARTITION, json={"value": "x" * 30_000})
    headers = {"Accept-Encoding": "identity"}
    assert (await client.get(PARTITION, params={"offset": "earliest"}, headers=headers)).status_code == 200

    assert is_refused(await client.get(PARTITION))
    assert is_refused(await client.post("/v1/groups/billing/members/alice/poll", json={"topics": ["orders"]}))
    assert is_refused(await client.post("/v1/queues/jobs/acquire", json={"topic": "orders"}))
    assert (await client.post(RECORDS, json={"value": 1})).status_code == 201


async def test_each_address_without_a_key_has_its_own_quota(serve: Serve) -> None:
    _, client = await serve(quota_produce_requests_per_s=1, trusted_proxies="127.0.0.1", auth="none")

    async def status_of(address: str) -> int:
        return (await client.post(RECORDS, json={"value": 1}, headers={"X-Forwarded-For": address})).status_code

    found = [await status_of(address) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")]
    assert found == [201, 201, 429]


async def test_with_keys_a_quota_is_that_of_the_principal_on_all_its_keys(serve: Serve) -> None:
    _, client = await serve(
        auth="keys", admin_key="a" * 32, principal_quotas={"app": {"produce_requests": 1}}, super_users="app,other"
    )
    admin = {"Authorization": f"Bearer {'a' * 32}"}

    async def key_of(principal: str) -> dict[str, str]:
        made = await client.post("/v1/keys", json={"name": "test", "principal": principal}, headers=admin)
        return {"Authorization": f"Bearer {made.json()['key']}"}

    keys = [await key_of("app"), await key_of("app"), await key_of("other")]
    answers = [await client.post(RECORDS, json={"value": 1}, headers=key) for key in (*keys, keys[2])]

    assert [answer.status_code for answer in answers] == [201, 429, 201, 201]
    assert "ratelimit" not in answers[2].headers


async def test_without_quotas_answers_have_no_fields_of_them(sqlite_client: httpx2.AsyncClient) -> None:
    answer = await sqlite_client.post(RECORDS, json={"value": 1})

    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers


async def test_a_stream_beyond_the_quota_is_slowed_down_and_loses_nothing(serve: Serve) -> None:
    _, client = await serve(quota_fetch_bytes_per_s=80_000)
    for number in range(3):
        await client.post(RECORDS, json={"records": [{"value": f"{number}" * 30_000}]})
    answer = await client.get(RECORDS, params={"offset": "earliest", "follow": "true", "max_events": 3})

    assert answer.status_code == 200
    assert len(answer.text.splitlines()) == 3


async def test_a_stream_waits_until_its_bytes_are_paid_or_the_server_stops() -> None:
    throttle = Throttle(Quotas(Quota(fetch_bytes_per_s=1_000), {}), "fetch", "app")
    answers = iter([False, False, True])
    await throttle.pace(500, lambda: next(answers))
    await throttle.pace(10**9, lambda: next(answers))

    assert list(answers) == []


async def test_waiting_requests_of_one_client_are_limited_and_leave_nothing_behind(serve: Serve) -> None:
    application, client = await serve(max_waiting_requests=2)
    await client.put("/v1/topics/orders")
    waiting = [
        asyncio.create_task(client.get(PARTITION, params={"offset": "latest", "max_wait_ms": 20_000})),
        asyncio.create_task(client.post("/v1/queues/jobs/acquire", json={"topic": "orders", "max_wait_ms": 20_000})),
    ]
    await until_true(lambda: application.services.signals.waiting == 2)

    assert is_refused(await client.get(RECORDS, params={"max_wait_ms": 1}))
    assert is_refused(await client.get(RECORDS, params={"follow": "true"}))
    assert (await client.get(RECORDS)).status_code == 200
    assert application.services.limits.refused == {"waiting": 2}
    assert application.services.memory.ledger.reserved_bytes == 2 * 16 * 1024

    await client.post(RECORDS, json={"records": [{"value": 1, "partition": number} for number in range(4)]})
    assert [(await each).status_code for each in waiting] == [200, 200]
    assert application.services.memory.ledger.reserved_bytes == 0
    assert (await client.get(RECORDS, params={"offset": "latest", "max_wait_ms": 1})).status_code == 200


async def test_streams_count_as_requests_that_wait_until_they_end(serve: Serve) -> None:
    application, client = await serve(max_waiting_requests=1)
    await client.put("/v1/topics/orders")
    async with StreamClient(application.asgi, f"{RECORDS}?follow=true") as stream:
        assert stream.status == 200
        await until_true(lambda: application.services.streams.open == 1)
        async with StreamClient(application.asgi, f"{RECORDS}?follow=true") as other:
            assert other.status == 429
    await until_true(lambda: application.services.memory.ledger.reserved_bytes == 0)


async def test_waiting_requests_fill_no_more_than_their_part_of_the_memory(serve: Serve) -> None:
    application, client = await serve(memory_budget_bytes=16 * 1024 * 1024)
    await client.put("/v1/topics/orders")
    while application.services.memory.ledger.reserve(16 * 1024):
        pass
    answer = await client.get(RECORDS, params={"max_wait_ms": 1})

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert application.services.limits.refused == {"waiting-memory": 1}
