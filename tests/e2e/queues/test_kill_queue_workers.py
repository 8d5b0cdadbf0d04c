"""Queue workers on two nodes are killed at random: each record is accepted, and none has two holders."""

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

from tests.e2e.support.api_calls import client_of, create_topic
from tests.e2e.support.flights import flights
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import pause, until

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_TORTURE") == "long"
SIZES = [400, pytest.param(20_000 if LONG else 4_000, marks=pytest.mark.slow)]
LOCK_MS = 1_000
PARTITIONS = 4
WORKERS = 6
KILL_EVERY_S = 0.15
WORK_S = 0.01


class Delivery(NamedTuple):
    """A delivery as a worker got it; times by the database's clock."""

    partition: int
    offset: int
    key: str
    delivery_count: int
    from_ms: int
    until_ms: int


class Workers:
    """Workers on both nodes, and the deliveries that they got.

    Attributes:
        deliveries: All deliveries.
        accepted: By partition and offset, the delivery count whose accept the server has confirmed.
        acknowledged: Partition, offset and delivery count of each delivery whose accept or release was sent.
    """

    def __init__(self, urls: Sequence[str], queue: str, rng: random.Random) -> None:
        self._urls = urls
        self._path = f"/v1/queues/{queue}"
        self._rng = rng
        self.deliveries: list[Delivery] = []
        self.accepted: dict[tuple[int, int], int] = {}
        self.acknowledged: set[tuple[int, int, int]] = set()

    async def work(self, number: int) -> None:
        """Acquire records, work, accept or release them, until cancelled: a cancelled worker is a killed one."""
        async with client_of(self._urls[number % len(self._urls)]) as client:
            while True:
                answer = await client.post(f"{self._path}/acquire", json={"max_records": 5, "max_wait_ms": 300})
                assert answer.status_code == 200, answer.text
                deliveries = answer.json()["deliveries"]
                self._note(deliveries)
                if deliveries:
                    await pause(self._rng.uniform(0, WORK_S))
                    await self._acknowledge(client, deliveries)

    def _note(self, deliveries: list[dict[str, Any]]) -> None:
        for each in deliveries:
            record, until_ms, count = each["record"], each["locked_until_ms"], each["delivery_count"]
            self.deliveries.append(
                Delivery(record["partition"], record["offset"], record["key"], count, until_ms - LOCK_MS, until_ms)
            )

    async def _acknowledge(self, client: httpx2.AsyncClient, deliveries: list[dict[str, Any]]) -> None:
        acknowledgements = [
            {"delivery_id": each["delivery_id"], "outcome": "accept" if self._rng.random() < 0.9 else "release"}
            for each in deliveries
        ]
        ids = [(each["record"]["partition"], each["record"]["offset"], each["delivery_count"]) for each in deliveries]
        self.acknowledged.update(ids)
        answer = await client.post(f"{self._path}/acknowledge", json={"acknowledgements": acknowledgements})
        assert answer.status_code == 200, answer.text
        for (partition, offset, count), result in zip(ids, answer.json()["results"], strict=True):
            if result["code"] is None and result["outcome"] == "accept":
                assert (partition, offset) not in self.accepted, "accepted twice"
                self.accepted[partition, offset] = count

    async def run(self, done: asyncio.Event) -> None:
        """Run the workers, and kill and replace one at random times."""
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
        """Assert that the deliveries of a record do not overlap, and with `by_key` that those of a key are in order."""
        of_record: dict[tuple[int, int], list[Delivery]] = defaultdict(list)
        of_key: dict[tuple[int, str], list[Delivery]] = defaultdict(list)
        for each in self.deliveries:
            of_record[each.partition, each.offset].append(each)
            of_key[each.partition, each.key].append(each)
        for record, deliveries in of_record.items():
            ordered = sorted(deliveries, key=lambda each: each.delivery_count)
            assert len({each.delivery_count for each in ordered}) == len(ordered), f"{record} has one delivery twice"
            for earlier, later in pairwise(ordered):
                if (*record, earlier.delivery_count) not in self.acknowledged:
                    assert later.from_ms >= earlier.until_ms, f"{record} has two holders"
            if record in self.accepted:
                assert self.accepted[record] == ordered[-1].delivery_count, f"{record} was delivered after its accept"
        if by_key:
            for key, deliveries in of_key.items():
                offsets = [each.offset for each in sorted(deliveries, key=lambda each: (each.from_ms, each.offset))]
                assert offsets == sorted(offsets), f"{key} is out of order"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ordering", ["none", "key", "partition"])
async def test_each_record_is_accepted_and_none_has_two_holders(
    nodes: tuple[ServerProcess, ServerProcess], topic: str, ordering: str, size: int, seed: int
) -> None:
    rng = random.Random(seed)
    generated = flights(random.Random(seed))[:size]
    async with nodes[0].client() as client:
        await create_topic(client, topic, PARTITIONS)
        settings = {"topic": topic, "lock_duration_ms": LOCK_MS, "max_delivery_count": 100, "ordering": ordering}
        assert (await client.put(f"/v1/queues/{topic}", json=settings)).status_code == 201
        workers, done = Workers([node.url for node in nodes], topic, rng), asyncio.Event()
        running = asyncio.create_task(workers.run(done))
        for start in range(0, size, 200):
            records = [{"key": flight["origin"], "value": flight} for flight in generated[start : start + 200]]
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
    assert len({(each.partition, each.offset) for each in workers.deliveries}) == size
    workers.check(by_key=ordering != "none")
    assert all("Traceback" not in node.log for node in nodes)


async def test_a_release_on_one_node_wakes_a_worker_of_the_other(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
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
