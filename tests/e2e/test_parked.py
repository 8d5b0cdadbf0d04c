"""Reads that wait: what they cost when their clients die, and how they end when the server does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx2
import psycopg
import pytest

from tests.e2e.node import Node, create_topic, fetch, parked, produce, read_partition, until, waiting_reads

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

CLIENTS = 1_000
READS = 50
PRODUCERS = 8
CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'millrace'
"""


async def connections(url: str) -> int:
    """Return how many connections the nodes have; 0 where the database is a file."""
    if url.startswith("sqlite"):
        return 0
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(CONNECTIONS)).fetchone()
    assert row is not None
    number: int = row[0]
    return number


async def park_raw(node: Node) -> asyncio.StreamWriter:
    """Send a long poll from a socket of its own."""
    url = httpx2.URL(node.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /v1/topics/orders/partitions/0/records?max_wait_ms=60000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return writer


async def test_a_thousand_clients_killed_while_they_wait_leave_nothing_behind(
    migrated_url: str, tmp_path: Path
) -> None:
    node = Node(migrated_url, tmp_path)
    with node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            path = "/v1/topics/orders/partitions/0/records"
            await asyncio.gather(*[fetch(client, path) for _ in range(READS)])
            before = await connections(migrated_url)
            writers = [await park_raw(node) for _ in range(CLIENTS)]
            await parked(client, CLIENTS)

            assert await waiting_reads(client) == CLIENTS
            assert await connections(migrated_url) == before
            for writer in writers:
                writer.transport.abort()
            await until(lambda: waiting_reads(client), lambda found: found == 0, seconds=1)
            await produce(client, "orders", "still here")
            assert (await client.get("/readyz")).status_code == 200
        node.terminate()
        assert node.exit_code() == 0
    assert "Traceback" not in node.log


async def test_sigterm_answers_parked_reads_keeps_what_was_acknowledged_and_exits_with_0(
    migrated_url: str, tmp_path: Path
) -> None:
    node = Node(migrated_url, tmp_path)
    acknowledged: dict[int, str] = {}
    statuses: Counter[int] = Counter()

    async def send(client: httpx2.AsyncClient, producer: int) -> None:
        with contextlib.suppress(httpx2.TransportError):
            for number in range(1_000_000):
                value = f"{producer}.{number}"
                answer = await client.post("/v1/topics/orders/partitions/0/records", json={"value": value})
                statuses[answer.status_code] += 1
                if answer.status_code == 201:
                    acknowledged[answer.json()["offsets"][0]["offset"]] = value

    with node:
        async with node.client() as client, asyncio.TaskGroup() as group:
            await create_topic(client, "orders", 2)
            waiting = {"offset": "latest", "max_wait_ms": "60000"}
            reads = [
                group.create_task(client.get("/v1/topics/orders/partitions/1/records", params=waiting))
                for _ in range(READS)
            ]
            await parked(client, READS)
            for producer in range(PRODUCERS):
                group.create_task(send(client, producer))
            await until(lambda: asyncio.sleep(0, len(acknowledged)), lambda found: found > 50)
            asked = time.monotonic()
            node.terminate()
            code = await asyncio.to_thread(node.exit_code)
            took = time.monotonic() - asked
            answers = [await read for read in reads]
        node.start()
        async with node.client() as client:
            records = await read_partition(client, "orders", 0)

    assert code == 0
    assert took < 2
    assert [answer.status_code for answer in answers] == [200] * READS
    assert {answer.text for answer in answers} == {
        '{"records":[],"next_offset":0,"log_start_offset":0,"log_end_offset":0}\n'
    }
    assert set(statuses) <= {201, 503}
    values = {record["offset"]: record["value"] for record in records}
    assert {offset: values.get(offset) for offset in acknowledged} == acknowledged
    assert "Traceback" not in node.log
    assert "Cut off" not in node.log
