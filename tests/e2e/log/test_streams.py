"""Streams over sockets: lost connections and restarts lose and repeat no record; what open streams hold."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import create_topic, fetch, open_streams, produce, read_topic, waiting_reads
from tests.e2e.support.database import MOST_CONNECTIONS, open_connections
from tests.e2e.support.event_stream_client import EventStreamClient
from tests.e2e.support.raw_http import open_get, open_stream
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.anyio

CLIENTS = 1_000
SLOW_CLIENTS = 20
UNREAD_STREAMS = 60
UNREAD_PAGES = 36
"""At most so many pages fit into the part of a budget of 32 MiB for unread pages of streams."""
READS = 50
RECORDS = "/v1/topics/orders/records"
PARTITION = "/v1/topics/orders/partitions/0/records"


def rss_bytes(node: ServerProcess) -> int:
    return int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * 4096


async def test_a_thousand_streams_get_every_record_and_leave_nothing_behind_when_killed(
    migrated_url: str, tmp_path: Path
) -> None:
    with ServerProcess(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            await produce(client, "orders", "old")
            await asyncio.gather(*(fetch(client, PARTITION) for _ in range(READS)))
            streams = await asyncio.gather(*(open_stream(node.url, PARTITION) for _ in range(CLIENTS)))
            heads = await asyncio.gather(*(reader.readuntil(b"retry: 1000\n\n\r\n") for reader, _ in streams))
            assert {head[:15] for head in heads} == {b"HTTP/1.1 200 OK"}
            assert await open_streams(client) == CLIENTS
            assert await open_connections(migrated_url) <= MOST_CONNECTIONS

            for number in range(5):
                await produce(client, "orders", f"new {number}")
            last = [await reader.readuntil(b'"new 4"}\n\n\r\n') for reader, _ in streams]
            assert len(set(last)) == 1
            assert last[0].count(b"data: ") == 5

            for _, writer in streams:
                writer.transport.abort()
            await until(lambda: open_streams(client), lambda found: found == 0)
            await until(lambda: waiting_reads(client), lambda found: found == 0)
        node.terminate()
        assert node.exit_code() == 0
    assert "Traceback" not in node.log


async def test_a_client_that_does_not_read_holds_no_more_memory_than_a_page(migrated_url: str, tmp_path: Path) -> None:
    with ServerProcess(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            text = "x" * 10_000
            for _ in range(10):
                await produce(client, "orders", *[text] * 200)
            streams = [await open_stream(node.url, f"{PARTITION}?offset=earliest") for _ in range(SLOW_CLIENTS)]
            for _, writer in streams:
                writer.transport.pause_reading()  # type: ignore[attr-defined] # of reading transports
            await until(lambda: open_streams(client), lambda found: found == SLOW_CLIENTS)
            before = rss_bytes(node)
            for _ in range(10):
                await produce(client, "orders", *[text] * 200)
            assert rss_bytes(node) - before < 30_000_000

            reader, writer = streams[0]
            writer.transport.resume_reading()  # type: ignore[attr-defined] # of reading transports
            found = 0
            while found < 4_000:
                found += (await reader.readline()).startswith(b"data: ")
            for _, writer in streams:
                writer.transport.abort()
            await until(lambda: open_streams(client), lambda found: found == 0)


async def test_sigterm_ends_streams_completely(migrated_url: str, tmp_path: Path) -> None:
    with ServerProcess(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 2)
        streams = [
            await open_stream(node.url, path) for path in (RECORDS, PARTITION, f"{RECORDS}?follow=true") for _ in "123"
        ]
        for reader, _ in streams:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"\n\n\r\n")
        node.terminate()
        rest = await asyncio.gather(*(reader.read() for reader, _ in streams))
        assert await asyncio.to_thread(node.exit_code) == 0
        assert set(rest) == {b"0\r\n\r\n"}
        for _, writer in streams:
            writer.close()
    assert "Traceback" not in node.log
    assert "Cut off" not in node.log


@contextlib.asynccontextmanager
async def reading(*clients: EventStreamClient) -> AsyncIterator[None]:
    """Run clients until the end of the block."""
    tasks = [asyncio.create_task(each.run()) for each in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        assert task.cancelled(), task.exception()


async def test_a_stream_resumes_after_a_stop_and_after_a_kill_of_the_server(migrated_url: str, tmp_path: Path) -> None:
    with ServerProcess(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 2)
        clients = [EventStreamClient(lambda: node.url, path) for path in (RECORDS, RECORDS, PARTITION)]
        async with reading(*clients):
            for each in clients:
                await each.await_event_id()
            for round_, kill in enumerate((False, True, False)):
                async with node.client() as client:
                    await produce(client, "orders", *[f"{round_}.{i}" for i in range(40)])
                    await client.post("/v1/topics/orders/partitions/1/records", json={"value": f"{round_}"})
                    await clients[round_].await_records(1 + 20 * round_)
                if kill:
                    node.kill()
                else:
                    node.terminate()
                    assert await asyncio.to_thread(node.exit_code) == 0
                await asyncio.to_thread(node.start)
            for each, number in zip(clients, (123, 123, 120), strict=True):
                await each.await_records(number)
        async with node.client() as client:
            expected = await read_topic(client, "orders", range(2))
    for each in clients:
        each.assert_each_once_and_in_order(expected if each.path == RECORDS else [expected[0], []])
        assert each.connections > 1
        assert each.ended >= 1


@pytest.mark.postgres
async def test_a_stream_resumes_on_another_node(
    nodes: tuple[ServerProcess, ServerProcess], topic: str, seed: int
) -> None:
    rng = random.Random(seed)
    chosen = list(nodes)
    stream = EventStreamClient(lambda: rng.choice(chosen).url, f"/v1/topics/{topic}/records?offset=earliest")
    async with nodes[0].client() as first, nodes[1].client() as second:
        await create_topic(first, topic, 2)
        for number in range(30):
            client = rng.choice([first, second])
            url = f"/v1/topics/{topic}/partitions/{number % 2}/records"
            writing = asyncio.create_task(
                client.post(url, json={"records": [{"value": f"{number}.{i}"} for i in "abc"]})
            )
            # The connection breaks at a random point of the stream.
            await stream.read_for(rng.uniform(0, 0.05))
            assert (await writing).status_code == 201
        async with reading(stream):
            await stream.await_records(90)
        expected = await read_topic(first, topic, range(2))
    stream.assert_each_once_and_in_order(expected)
    assert stream.connections >= 30


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_streams_that_do_not_read_end_with_an_error_when_others_need_their_memory(
    sqlite_url: str, tmp_path: Path, accept: str
) -> None:
    settings = {"memory_budget_bytes": 32 * 1024 * 1024}
    with ServerProcess(sqlite_url, tmp_path, settings=settings) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            for number in range(20):
                await produce(client, "orders", *(f"{number}" + "x" * 30_000 for _ in range(20)))
            query = f"{PARTITION}?offset=earliest&follow=true"
            streams = [await open_unread(node.url, query, accept) for _ in range(UNREAD_STREAMS)]
            await until(lambda: open_streams(client), lambda number: number <= UNREAD_PAGES)
            await produce(client, "orders", "healthy")
            assert len((await fetch(client, PARTITION, offset=-1))["records"]) == 1

            ended = await asyncio.gather(*map(read_to_end, streams))
            assert UNREAD_STREAMS - UNREAD_PAGES <= sum(ended) < UNREAD_STREAMS
            for _, writer in streams:
                writer.transport.abort()
            await until(lambda: open_streams(client), lambda number: number == 0)


async def open_unread(url: str, path: str, accept: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a stream on a connection with a small receive buffer, and read no more than the head of the answer."""
    reader, writer = await open_get(url, path, accept, receive_bytes=4_096)
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined] # of reading transports
    return reader, writer


async def read_to_end(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    """Read a stream up to its last record. Return whether it ended with an error before."""
    reader, writer = stream
    writer.transport.resume_reading()  # type: ignore[attr-defined] # of reading transports
    problem, seen = b"/problems/service-unavailable", b""
    while b"healthy" not in seen:
        part = await reader.read(65_536)
        seen = seen[-4_096:] + part
        if problem in seen:
            assert b'"retriable":true' in seen
            return True
        assert part, "the stream ended without an error"
    return False
