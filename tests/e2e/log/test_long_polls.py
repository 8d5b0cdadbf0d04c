"""Waiting reads: what they hold when their clients are gone, and how they end when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.e2e.support.api_calls import await_waiting_reads, create_topic, fetch, produce, read_partition, waiting_reads
from tests.e2e.support.database import MOST_CONNECTIONS, open_connections
from tests.e2e.support.raw_http import open_get
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import DEADLINE_S, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

CLIENTS = 1_000
READS = 50
PRODUCERS = 8
READ_FOR_A_MINUTE = "/v1/topics/orders/partitions/0/records?max_wait_ms=60000"


async def test_a_thousand_clients_killed_during_a_long_poll_leave_nothing_behind(
    migrated_url: str, tmp_path: Path
) -> None:
    node = ServerProcess(migrated_url, tmp_path)
    with node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            path = "/v1/topics/orders/partitions/0/records"
            await asyncio.gather(*[fetch(client, path) for _ in range(READS)])
            writers = [(await open_get(node.url, READ_FOR_A_MINUTE))[1] for _ in range(CLIENTS)]
            await await_waiting_reads(client, CLIENTS)

            assert await waiting_reads(client) == CLIENTS
            assert await open_connections(migrated_url) <= MOST_CONNECTIONS
            for writer in writers:
                writer.transport.abort()
            await until(lambda: waiting_reads(client), lambda found: found == 0)
            await produce(client, "orders", "after the kill")
            assert (await client.get("/readyz")).status_code == 200
        node.terminate()
        assert node.exit_code() == 0
    assert "Traceback" not in node.log


async def test_sigterm_answers_waiting_reads_keeps_acknowledged_records_and_exits_with_0(
    migrated_url: str, tmp_path: Path
) -> None:
    node = ServerProcess(migrated_url, tmp_path)
    acknowledged: dict[int, str] = {}
    statuses: Counter[int] = Counter()
    many_acknowledged = asyncio.Event()

    async def produce_until_stopped(client: httpx2.AsyncClient, producer: int) -> None:
        with contextlib.suppress(httpx2.TransportError):
            for number in range(1_000_000):
                value = f"{producer}.{number}"
                answer = await client.post("/v1/topics/orders/partitions/0/records", json={"value": value})
                statuses[answer.status_code] += 1
                if answer.status_code == 201:
                    acknowledged[answer.json()["offsets"][0]["offset"]] = value
                if len(acknowledged) > 50:
                    many_acknowledged.set()

    with node:
        async with node.client() as client, asyncio.TaskGroup() as group:
            await create_topic(client, "orders", 2)
            waiting = {"offset": "latest", "max_wait_ms": "60000"}
            reads = [
                group.create_task(client.get("/v1/topics/orders/partitions/1/records", params=waiting))
                for _ in range(READS)
            ]
            await await_waiting_reads(client, READS)
            for producer in range(PRODUCERS):
                group.create_task(produce_until_stopped(client, producer))
            async with asyncio.timeout(DEADLINE_S):
                await many_acknowledged.wait()
            node.terminate()
            code = await asyncio.to_thread(node.exit_code)
            answers = [await read for read in reads]
        node.start()
        async with node.client() as client:
            records = await read_partition(client, "orders", 0)

    assert code == 0
    assert [answer.status_code for answer in answers] == [200] * READS
    assert {answer.text for answer in answers} == {
        '{"records":[],"next_offset":0,"log_start_offset":0,"log_end_offset":0}\n'
    }
    assert set(statuses) <= {201, 503}
    values = {record["offset"]: record["value"] for record in records}
    assert {offset: values.get(offset) for offset in acknowledged} == acknowledged
    assert "Traceback" not in node.log
    assert "Cut off" not in node.log
