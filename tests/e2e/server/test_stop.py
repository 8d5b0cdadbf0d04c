"""SIGTERM while requests run: each request that wrote nothing is told so, and the process ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.e2e.support.api_calls import create_topic, gauge
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

PATH = "/v1/topics/orders/records"
RECORD = {"records": [{"value": 1}]}
PENDING = "millrace_pending_append_bytes"


async def test_an_upload_that_has_not_arrived_is_refused_at_the_stop(migrated_url: str, tmp_path: Path) -> None:
    with ServerProcess(migrated_url, tmp_path) as node:
        host, port = node.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/topics/orders/records HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"records":['
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        node.terminate()
        answer = await reader.read()
        writer.close()
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
