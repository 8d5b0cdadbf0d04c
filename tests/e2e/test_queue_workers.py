"""Two nodes on one PostgreSQL, and workers that die at random: each flight is done, and none is held by two."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
import pytest

from tests.e2e.node import Node, client_of, create_topic, until
from tests.e2e.test_flights import flights

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_TORTURE") == "long"
SIZES = [400, pytest.param(20_000 if LONG else 4_000, marks=pytest.mark.slow)]
LOCK_MS = 1_000
PARTITIONS = 4
WORKERS = 6
KILL_EVERY_S = 0.15


class Held(NamedTuple):
    """A delivery that a worker was told of, by the database's clock."""

    partition: int
    offset: int
    key: str
    delivery: int
    from_ms: int
    until_ms: int


class Crew:
    """Workers on both nodes, and what they were told."""

    def __init__(self, urls: Sequence[str], queue: str, rng: random.Random) -> None:
        self._urls = urls
        self._path = f"/v1/queues/{queue}"
        self._rng = rng
        self.held: list[Held] = []
        self.ended: dict[tuple[int, int], int] = {}
        """Deliveries by partition and offset whose end the server has confirmed: the delivery count."""
        self.unknown: set[tuple[int, int, int]] = set()
        """Deliveries whose end was asked for."""
        self.doubled: list[Held] = []

    async def work(self, number: int) -> None:
        """Acquire, think, accept or release, until cancelled: that is how a worker dies here."""
        async with client_of(self._urls[number % len(self._urls)]) as client:
            while True:
                asked = {"max_records": 5, "max_wait_ms": 300}
                answer = await client.post(f"{self._path}/acquire", json=asked)
                assert answer.status_code == 200, answer.text
                mine = [self._note(each) for each in answer.json()["deliveries"]]
                if mine:
                    await asyncio.sleep(self._rng.uniform(0, 0.01))  # the work
                    await self._settle(client, answer.json()["deliveries"])

    def _note(self, delivery: dict[str, Any]) -> Held:
        record, until_ms = delivery["record"], delivery["locked_until_ms"]
        count = delivery["delivery_count"]
        held = Held(record["partition"], record["offset"], record["key"], count, until_ms - LOCK_MS, until_ms)
        self.held.append(held)
        return held

    async def _settle(self, client: httpx2.AsyncClient, deliveries: list[dict[str, Any]]) -> None:
        said = [
            {"delivery_id": each["delivery_id"], "outcome": "accept" if self._rng.random() < 0.9 else "release"}
            for each in deliveries
        ]
        places = [
            (each["record"]["partition"], each["record"]["offset"], each["delivery_count"]) for each in deliveries
        ]
        self.unknown.update(places)
        answer = await client.post(f"{self._path}/acknowledge", json={"acknowledgements": said})
        assert answer.status_code == 200, answer.text
        for place, result in zip(places, answer.json()["results"], strict=True):
            if result["code"] is None and result["outcome"] == "accept":
                assert place[:2] not in self.ended, "accepted twice"
                self.ended[place[:2]] = place[2]

    async def run(self, done: asyncio.Event) -> None:
        """Keep the workers at work, and kill one now and then."""
        tasks = [asyncio.create_task(self.work(number)) for number in range(WORKERS)]
        number = WORKERS
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), self._rng.uniform(0, 2 * KILL_EVERY_S))
            victim = self._rng.randrange(WORKERS)
            if tasks[victim].done():
                tasks[victim].result()
            tasks[victim].cancel()
            number += 1
            tasks[victim] = asyncio.create_task(self.work(number))
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result

    def check(self, *, by_key: bool) -> None:
        """Compare what the workers were told."""
        of_record: dict[tuple[int, int], list[Held]] = defaultdict(list)
        of_key: dict[tuple[int, str], list[Held]] = defaultdict(list)
        for each in self.held:
            of_record[each.partition, each.offset].append(each)
            of_key[each.partition, each.key].append(each)
        for place, deliveries in of_record.items():
            ordered = sorted(deliveries, key=lambda each: each.delivery)
            assert len({each.delivery for each in ordered}) == len(ordered), f"{place} has one delivery twice"
            for earlier, later in pairwise(ordered):
                if (*place, earlier.delivery) not in self.unknown:
                    assert later.from_ms >= earlier.until_ms, f"{place} has two holders"
            if place in self.ended:
                assert self.ended[place] == ordered[-1].delivery, f"{place} was delivered after it was accepted"
        if by_key:
            for key, deliveries in of_key.items():
                offsets = [each.offset for each in sorted(deliveries, key=lambda each: (each.from_ms, each.offset))]
                assert offsets == sorted(offsets), f"{key} is out of order"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_each_flight_is_accepted_and_none_is_held_by_two(
    nodes: tuple[Node, Node], topic: str, ordering: str, size: int, seed: int
) -> None:
    rng = random.Random(seed)
    made = flights(random.Random(seed))[:size]
    async with nodes[0].client() as client:
        await create_topic(client, topic, PARTITIONS)
        settings = {"topic": topic, "lock_duration_ms": LOCK_MS, "max_delivery_count": 100, "ordering": ordering}
        assert (await client.put(f"/v1/queues/{topic}", json=settings)).status_code == 201
        crew, done = Crew([node.url for node in nodes], topic, rng), asyncio.Event()
        running = asyncio.create_task(crew.run(done))
        for start in range(0, size, 200):
            records = [{"key": flight["origin"], "value": flight} for flight in made[start : start + 200]]
            assert (await client.post(f"/v1/topics/{topic}/records", json={"records": records})).status_code == 201

        async def accepted() -> int:
            number: int = (await client.get(f"/v1/queues/{topic}")).json()["counts"]["accepted"]
            return number

        async def still() -> int:
            assert not running.done() or running.result() is None
            return await accepted()

        await until(still, lambda number: number == size, seconds=60 + size / 20)
        done.set()
        await running
        counts = (await client.get(f"/v1/queues/{topic}")).json()["counts"]

    assert counts == {"available": 0, "acquired": 0, "delayed": 0, "accepted": size, "archived": 0, "expired": 0}
    assert len({(each.partition, each.offset) for each in crew.held}) == size
    crew.check(by_key=ordering == "key")
    assert all("Traceback" not in node.log for node in nodes)


async def test_a_release_on_one_node_wakes_a_worker_of_the_other(nodes: tuple[Node, Node], topic: str) -> None:
    async with nodes[0].client() as here, nodes[1].client() as there:
        await create_topic(here, topic, 1)
        assert (await here.put(f"/v1/queues/{topic}", json={"topic": topic})).status_code == 201
        await here.post(f"/v1/topics/{topic}/records", json={"value": 1})
        path = f"/v1/queues/{topic}/acquire"
        (first,) = (await here.post(path, json={})).json()["deliveries"]
        waiting = asyncio.create_task(there.post(path, json={"max_wait_ms": 20_000}))
        await until(lambda: there.get("/metrics"), lambda answer: "millrace_waiting_reads 0.0" not in answer.text)
        await here.post(f"/v1/queues/{topic}/deliveries/{first['delivery_id']}/release")
        async with asyncio.timeout(10):
            (second,) = (await waiting).json()["deliveries"]
        assert second["delivery_count"] == 2
