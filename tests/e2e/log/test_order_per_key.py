"""Keyed records through eight connections: complete, and in order for each key."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.support.api_calls import read_topic
from tests.e2e.support.flights import flights
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BATCH = 500
CONNECTIONS = 8
PARTITIONS = 6
START_MS = 1_700_000_000_000


def lines(batch: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(flight | {"time": START_MS + flight["number"]}).encode() + b"\n" for flight in batch)


async def produce_in_order(node: ServerProcess, route: list[dict[str, Any]], connection: int) -> None:
    """Produce the flights of one connection in order, each batch under its own Idempotency-Key."""
    query = {"lines": "values", "key_from": "/origin", "timestamp_from": "/time"}
    async with node.client() as client:
        for start in range(0, len(route), BATCH):
            answer = await client.post(
                "/v1/topics/flights/records",
                params=query,
                content=lines(route[start : start + BATCH]),
                headers={
                    "Content-Type": "application/json",
                    "Idempotency-Key": f"{connection}.{start}",
                    "Prefer": "return=minimal",
                },
            )
            assert answer.status_code == 201, answer.text
            assert sum(one["count"] for one in answer.json()["partitions"]) == len(route[start : start + BATCH])


async def test_flights_are_read_back_complete_and_in_order_per_airport(
    migrated_url: str, tmp_path: Path, seed: int
) -> None:
    generated = flights(random.Random(seed))
    routes: list[list[dict[str, Any]]] = [[] for _ in range(CONNECTIONS)]
    for flight in generated:
        routes[zlib.crc32(flight["origin"].encode()) % CONNECTIONS].append(flight)
    with (node := ServerProcess(migrated_url, tmp_path)):
        async with node.client() as client:
            topic = {"partitions": PARTITIONS, "config": {"retention_ms": -1}}
            assert (await client.put("/v1/topics/flights", json=topic)).status_code == 201
            await asyncio.gather(*[produce_in_order(node, route, number) for number, route in enumerate(routes)])
            partitions = await read_topic(client, "flights", range(PARTITIONS))

    of_airport: dict[str, list[dict[str, Any]]] = defaultdict(list)
    partitions_of: dict[str, set[int]] = defaultdict(set)
    for partition, records in enumerate(partitions):
        for record in records:
            value = dict(record["value"])
            assert record["timestamp_ms"] == value.pop("time")
            of_airport[record["key"]].append(value)
            partitions_of[record["key"]].add(partition)
    expected: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for flight in generated:
        expected[flight["origin"]].append(flight)
    assert of_airport == expected
    assert {len(found) for found in partitions_of.values()} == {1}
    assert "Traceback" not in node.log
