"""Queue workers on two nodes are killed at random: each record is accepted, and none has two holders."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import client_of, create_topic
from tests.e2e.support.flights import flights
from tests.e2e.support.server_process import ServerProcess
from tests.history.checker import assert_sound
from tests.history.events import Acquire
from tests.history.group_clients import Worker
from tests.history.recorder import Recorder, calls_of
from tests.waiting import pause, until

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
SIZES = [400, pytest.param(20_000 if LONG else 4_000, marks=pytest.mark.slow)]
LOCK_MS = 1_000
PARTITIONS = 4
WORKERS = 6
KILL_EVERY_S = 0.15
WORK_S = 0.01


class Workers:
    """Workers on both nodes, which are killed at random times."""

    def __init__(self, urls: Sequence[str], topic: str, ordering: str, rng: random.Random) -> None:
        self.recorder = Recorder()
        self._urls = urls
        self._topic = topic
        self._ordering = "" if ordering == "none" else ordering
        self._rng = rng

    async def work(self, number: int) -> None:
        """Acquire records, work, accept or release them, until cancelled: a cancelled worker is a killed one."""
        async with client_of(self._urls[number % len(self._urls)]) as client:
            worker = Worker(self.recorder, calls_of(client), f"worker-{number}", self._topic, self._topic, LOCK_MS)
            worker.ordering = self._ordering
            while True:
                deliveries = await worker.acquire(5, 300)
                if deliveries:
                    await pause(self._rng.uniform(0, WORK_S))
                    outcomes = ["accept" if self._rng.random() < 0.9 else "release" for _ in deliveries]
                    await worker.acknowledge(deliveries, outcomes)

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
        workers, done = Workers([node.url for node in nodes], topic, ordering, rng), asyncio.Event()
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
    acquires = [event for event in workers.recorder.history if isinstance(event, Acquire)]
    assert all(event.outcome == "ok" for event in acquires)
    assert len({(one.partition, one.offset) for event in acquires for one in event.deliveries}) == size
    assert_sound(workers.recorder.history)
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
