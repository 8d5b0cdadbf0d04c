"""Streams over sockets: what cuts them, what they cost, and that nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.node import Node, create_topic, fetch, produce, read_topic, until
from tests.e2e.streams import Subscriber, open_raw
from tests.e2e.test_parked import READS, connections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

pytestmark = pytest.mark.anyio

CLIENTS = 1_000
SLOW = 20
RECORDS = "/v1/topics/orders/records"
PARTITION = "/v1/topics/orders/partitions/0/records"


async def open_streams(client: httpx2.AsyncClient) -> int:
    text = (await client.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("millrace_open_streams ")]
    return int(float(line.split()[1]))


def rss_bytes(node: Node) -> int:
    assert node.process is not None
    return int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]) * 4096


async def test_a_thousand_streams_get_every_record_and_leave_nothing_behind_when_killed(
    migrated_url: str, tmp_path: Path
) -> None:
    with Node(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            await produce(client, "orders", "old")
            await asyncio.gather(*(fetch(client, PARTITION) for _ in range(READS)))
            before = await connections(migrated_url)
            streams = await asyncio.gather(*(open_raw(node, PARTITION) for _ in range(CLIENTS)))
            heads = await asyncio.gather(*(reader.readuntil(b"retry: 1000\n\n\r\n") for reader, _ in streams))
            assert {head[:15] for head in heads} == {b"HTTP/1.1 200 OK"}
            assert await open_streams(client) == CLIENTS
            assert await connections(migrated_url) == before

            for number in range(5):
                await produce(client, "orders", f"new {number}")
            last = [await reader.readuntil(b'"new 4"}\n\n\r\n') for reader, _ in streams]
            assert len(set(last)) == 1
            assert last[0].count(b"data: ") == 5

            for _, writer in streams:
                writer.transport.abort()
            await until(lambda: open_streams(client), lambda found: found == 0, seconds=2)
            text = (await client.get("/metrics")).text
            assert "millrace_waiting_reads 0.0" in text
        node.terminate()
        assert node.exit_code() == 0
    assert "Traceback" not in node.log


async def test_a_client_that_does_not_read_costs_no_more_than_a_page(migrated_url: str, tmp_path: Path) -> None:
    with Node(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            text = "x" * 10_000
            for _ in range(10):
                await produce(client, "orders", *[text] * 200)
            streams = [await open_raw(node, f"{PARTITION}?offset=earliest") for _ in range(SLOW)]
            for _, writer in streams:
                writer.transport.pause_reading()  # type: ignore[attr-defined] # of reading transports
            await until(lambda: open_streams(client), lambda found: found == SLOW)
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


async def test_sigterm_ends_streams_cleanly_within_a_second(migrated_url: str, tmp_path: Path) -> None:
    with Node(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 2)
        streams = [await open_raw(node, path) for path in (RECORDS, PARTITION, f"{RECORDS}?follow=true") for _ in "123"]
        for reader, _ in streams:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"\n\n\r\n")
        asked = time.monotonic()
        node.terminate()
        rest = await asyncio.gather(*(reader.read() for reader, _ in streams))
        assert await asyncio.to_thread(node.exit_code) == 0
        assert time.monotonic() - asked < 2
        assert set(rest) == {b"0\r\n\r\n"}
        for _, writer in streams:
            writer.close()
    assert "Traceback" not in node.log
    assert "Cut off" not in node.log


@contextlib.asynccontextmanager
async def reading(*subscribers: Subscriber) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        assert task.cancelled(), task.exception()


@pytest.mark.parametrize("kill", [False, True])
async def test_a_stream_goes_on_across_a_restart_of_the_server(migrated_url: str, tmp_path: Path, kill: bool) -> None:
    with Node(migrated_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 2)
        subscribers = [Subscriber(lambda: node.url, path) for path in (RECORDS, RECORDS, PARTITION)]
        async with reading(*subscribers):
            for each in subscribers:
                await until(lambda each=each: asyncio.sleep(0, each.last_id), bool)  # type: ignore[misc] # a lambda with a default
            for round_ in range(3):
                async with node.client() as client:
                    await produce(client, "orders", *[f"{round_}.{i}" for i in range(40)])
                    await client.post("/v1/topics/orders/partitions/1/records", json={"value": f"{round_}"})
                    await subscribers[round_].have(1 + 20 * round_)
                if kill:
                    node.kill()
                else:
                    node.terminate()
                    assert await asyncio.to_thread(node.exit_code) == 0
                await asyncio.to_thread(node.start)
            for each, number in zip(subscribers, (123, 123, 120), strict=True):
                await each.have(number)
        async with node.client() as client:
            expected = await read_topic(client, "orders", range(2))
    for each in subscribers:
        each.check(expected if each.path == RECORDS else [expected[0], []])
        assert each.connections > 1
        assert kill or each.ended >= 1


@pytest.mark.postgres
async def test_a_stream_goes_on_at_another_node(nodes: tuple[Node, Node], topic: str, seed: int) -> None:
    rng = random.Random(seed)
    chosen = list(nodes)
    subscriber = Subscriber(lambda: rng.choice(chosen).url, f"/v1/topics/{topic}/records?offset=earliest")
    async with nodes[0].client() as first, nodes[1].client() as second:
        await create_topic(first, topic, 2)
        for number in range(30):
            client = rng.choice([first, second])
            url = f"/v1/topics/{topic}/partitions/{number % 2}/records"
            writing = asyncio.create_task(
                client.post(url, json={"records": [{"value": f"{number}.{i}"} for i in "abc"]})
            )
            # Cut at a random place: the client goes, wherever it is.
            await subscriber.read_for(rng.uniform(0, 0.05))
            assert (await writing).status_code == 201
        async with reading(subscriber):
            await subscriber.have(90)
        expected = await read_topic(first, topic, range(2))
    subscriber.check(expected)
    assert subscriber.connections >= 30
