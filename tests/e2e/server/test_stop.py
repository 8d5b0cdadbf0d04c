"""SIGTERM while requests run: each request that wrote nothing is told so, and the process ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.e2e.support.api_calls import create_topic, gauge
from tests.e2e.support.raw_http import connect, request_of
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

pytestmark = pytest.mark.anyio

PATH = "/v1/topics/orders/records"
RECORD = {"records": [{"value": 1}]}
LARGE_RECORDS = 24
LARGE_BYTES = 900_000
PENDING = "millrace_pending_append_bytes"


async def test_an_upload_that_has_not_arrived_is_refused_at_the_stop(migrated_url: str, tmp_path: Path) -> None:
    with ServerProcess(migrated_url, tmp_path) as node:
        reader, writer = await connect(node.url)
        writer.write(
            b"POST /v1/topics/orders/records HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"records":['
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        node.terminate()
        answer = await reader.read()
        code = await asyncio.to_thread(node.exit_code)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer
    assert b'"retriable":true' in answer
    assert (code, node.log) == (0, "")


@pytest.mark.postgres
async def test_requests_that_wait_for_a_transaction_are_refused_at_the_stop(
    migrated_postgres_url: str, tmp_path: Path
) -> None:
    with (
        ServerProcess(migrated_postgres_url, tmp_path) as node,
        psycopg.connect(migrated_postgres_url, autocommit=True) as lock,
    ):
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            lock.execute("SELECT pg_advisory_lock(19794, partition_id::int) FROM partitions")
            requests = [asyncio.create_task(client.post(PATH, json=RECORD))]
            size_bytes = await until(lambda: gauge(client, PENDING), lambda found: found > 0)
            # The transaction of the first request waits for the lock; the others wait for that transaction.
            requests += [asyncio.create_task(client.post(PATH, json=RECORD)) for _ in range(4)]
            await until(lambda: gauge(client, PENDING), lambda found: found == 5 * size_bytes)
            node.terminate()
            answers = await asyncio.gather(*requests, return_exceptions=True)
        code = await asyncio.to_thread(node.exit_code)
        lock.execute("SELECT pg_advisory_unlock_all()")
        found = lock.execute("SELECT count(*) FROM records").fetchall()

    refused = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(refused) >= 4
    assert {(answer.status_code, answer.json()["retriable"]) for answer in refused} == {(503, True)}
    assert (code, found) == (0, [(0,)])
    assert "Traceback" not in node.log
    assert f"did not end within 600 ms: POST {PATH}" in node.log


async def create_queue(client: httpx2.AsyncClient) -> None:
    """Create a queue with more large records than the buffers of a connection hold."""
    await create_topic(client, "orders", 1)
    queue = {"topic": "orders", "lock_duration_ms": 1_000}
    assert (await client.put("/v1/queues/jobs", json=queue)).status_code == 201
    for _ in range(LARGE_RECORDS):
        path = "/v1/topics/orders/partitions/0/records"
        answer = await client.post(
            path, content=bytes(LARGE_BYTES), headers={"Content-Type": "application/octet-stream"}
        )
        assert answer.status_code == 201


async def acquire_all(client: httpx2.AsyncClient) -> set[tuple[int, int]]:
    """Acquire until every record has come. Return each offset with its delivery count."""
    found: set[tuple[int, int]] = set()

    async def acquire() -> int:
        answer = await client.post("/v1/queues/jobs/acquire", json={"max_records": LARGE_RECORDS, "max_wait_ms": 1_000})
        deliveries = answer.json()["deliveries"]
        found.update((each["record"]["offset"], each["delivery_count"]) for each in deliveries)
        accepted = [{"delivery_id": each["delivery_id"], "outcome": "accept"} for each in deliveries]
        if accepted:
            await client.post("/v1/queues/jobs/acknowledge", json={"acknowledgements": accepted})
        return len({offset for offset, _ in found})

    await until(acquire, lambda number: number == LARGE_RECORDS)
    return found


@pytest.mark.parametrize("moment", ["request is read", "answer is written"])
async def test_records_of_an_acquire_that_the_stop_cuts_off_are_delivered_again(
    migrated_url: str, tmp_path: Path, moment: str
) -> None:
    node = ServerProcess(migrated_url, tmp_path)
    with node:
        async with node.client() as client:
            await create_queue(client)
        body = b'{"max_records":%d,"max_bytes":33554432}' % LARGE_RECORDS
        request = request_of(node.url, "POST", "/v1/queues/jobs/acquire", body, {})
        reader, writer = await connect(node.url)
        if moment == "request is read":
            writer.write(request[:-1])
            node.terminate()
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        else:
            writer.write(request)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            node.terminate()
        assert await asyncio.to_thread(node.exit_code) == 0

        node.start()
        async with node.client() as client:
            found = await acquire_all(client)
    locked = {offset for offset, count in found if count == 2}
    assert bool(locked) == (moment == "answer is written")
    assert {offset for offset, _ in found} == set(range(LARGE_RECORDS))
    assert {count for _, count in found} <= {1, 2}
    assert "Traceback" not in node.log
