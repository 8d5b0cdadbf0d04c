"""A day's flights through eight connections: complete, and in order for each airport."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.node import Node, read_topic

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FLIGHTS = 20_000
AIRPORTS = 300
BATCH = 500
CONNECTIONS = 8
PARTITIONS = 6
START_MS = 1_700_000_000_000


def flights(rng: random.Random) -> list[dict[str, Any]]:
    """Make up flights of airports of very different sizes, in order of departure."""
    airports = [f"A{number:03}" for number in range(AIRPORTS)]
    weights = [1 / (number + 1) for number in range(AIRPORTS)]
    return [
        {
            "number": number,
            "origin": rng.choices(airports, weights)[0],
            "dest": rng.choice(airports),
            "delay": rng.choice([None, rng.randint(-20, 300)]),
            "distance": round(rng.uniform(80, 4_900), 1),
        }
        for number in range(FLIGHTS)
    ]


def lines(batch: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(flight | {"time": START_MS + flight["number"]}).encode() + b"\n" for flight in batch)


async def send(node: Node, mine: list[dict[str, Any]], connection: int) -> None:
    """Send one connection's flights in order, each batch under a key of its own."""
    query = {"lines": "values", "key_from": "/origin", "timestamp_from": "/time"}
    async with node.client() as client:
        for start in range(0, len(mine), BATCH):
            answer = await client.post(
                "/v1/topics/flights/records",
                params=query,
                content=lines(mine[start : start + BATCH]),
                headers={
                    "Content-Type": "application/json",
                    "Idempotency-Key": f"{connection}.{start}",
                    "Prefer": "return=minimal",
                },
            )
            assert answer.status_code == 201, answer.text
            assert sum(place["count"] for place in answer.json()["partitions"]) == len(mine[start : start + BATCH])


async def test_flights_come_back_complete_and_in_order_per_airport(
    migrated_url: str, tmp_path: Path, seed: int
) -> None:
    made = flights(random.Random(seed))
    routes: list[list[dict[str, Any]]] = [[] for _ in range(CONNECTIONS)]
    for flight in made:
        routes[zlib.crc32(flight["origin"].encode()) % CONNECTIONS].append(flight)
    with (node := Node(migrated_url, tmp_path)):
        async with node.client() as client:
            topic = {"partitions": PARTITIONS, "config": {"retention_ms": -1}}
            assert (await client.put("/v1/topics/flights", json=topic)).status_code == 201
            await asyncio.gather(*[send(node, route, number) for number, route in enumerate(routes)])
            partitions = await read_topic(client, "flights", range(PARTITIONS))

    of_airport: dict[str, list[dict[str, Any]]] = defaultdict(list)
    home: dict[str, set[int]] = defaultdict(set)
    for partition, records in enumerate(partitions):
        for record in records:
            value = dict(record["value"])
            assert record["timestamp_ms"] == value.pop("time")
            of_airport[record["key"]].append(value)
            home[record["key"]].add(partition)
    expected: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for flight in made:
        expected[flight["origin"]].append(flight)
    assert of_airport == expected
    assert {len(places) for places in home.values()} == {1}
    assert "Traceback" not in node.log
