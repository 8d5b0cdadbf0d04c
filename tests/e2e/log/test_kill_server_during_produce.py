"""The server is killed during concurrent produces and during starts: no acknowledged record is lost or duplicated."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import await_ready
from tests.e2e.support.server_process import ServerProcess
from tests.history.load import Load
from tests.waiting import pause

if TYPE_CHECKING:
    from pathlib import Path

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
ROUNDS = [3, pytest.param(100 if LONG else 10, marks=pytest.mark.slow)]
START_S = 1.2


async def kill_during_start(node: ServerProcess, rng: random.Random) -> None:
    await asyncio.to_thread(node.spawn)
    await pause(rng.uniform(0, START_S))
    await asyncio.to_thread(node.kill)


async def start(node: ServerProcess, load: Load) -> None:
    await asyncio.to_thread(node.start)
    load.serve_from(node.url)


async def kill_during_produce(node: ServerProcess, load: Load) -> None:
    await load.await_acknowledgements(load.rng.randint(1, 60))
    await pause(load.rng.uniform(0, 0.02))
    load.serve_from()
    await asyncio.to_thread(node.kill)


@pytest.mark.anyio
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_no_acknowledged_record_is_lost_or_duplicated_by_kill_9(
    migrated_url: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    node, load = ServerProcess(migrated_url, tmp_path), Load(rng)
    with node:
        load.serve_from(node.url)
        await load.create()
        async with asyncio.TaskGroup() as group:
            load.start(group)
            for number in range(2):
                group.create_task(load.consume(f"member-{number}"))
                group.create_task(load.work(f"worker-{number}"))
            for _ in range(rounds):
                await kill_during_produce(node, load)
                if rng.random() < 0.5:
                    await kill_during_start(node, rng)
                await start(node, load)
            await load.await_acknowledgements(20)
            load.stopped.set()

        records = await load.audit(tmp_path / "history.jsonl")
        assert records > 20 * rounds
        async with node.client() as client:
            await await_ready(client)
        assert "Traceback" not in node.log
    print(f"{rounds} kills while serving, {records} records, {len(load.recorder.history)} operations")
