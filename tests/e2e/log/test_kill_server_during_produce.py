"""The server is killed during concurrent produces and during starts: no acknowledged record is lost or duplicated."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import await_ready, create_topic
from tests.e2e.support.produce_ledger import KINDS, PARTITIONS, TOPIC, ProduceLedger
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import pause

if TYPE_CHECKING:
    from pathlib import Path

LONG = os.environ.get("MILLRACE_TORTURE") == "long"
ROUNDS = [3, pytest.param(100 if LONG else 10, marks=pytest.mark.slow)]
START_S = 1.2
PRODUCERS_OF_A_KIND = 2


async def kill_during_start(node: ServerProcess, rng: random.Random) -> None:
    await asyncio.to_thread(node.spawn)
    await pause(rng.uniform(0, START_S))
    await asyncio.to_thread(node.kill)


async def start(node: ServerProcess, ledger: ProduceLedger) -> None:
    await asyncio.to_thread(node.start)
    ledger.serve_from(node.url)


async def kill_during_produce(node: ServerProcess, ledger: ProduceLedger) -> None:
    await ledger.await_acknowledgements(ledger.rng.randint(1, 60))
    await pause(ledger.rng.uniform(0, 0.02))
    ledger.serving.clear()
    await asyncio.to_thread(node.kill)


@pytest.mark.anyio
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_no_acknowledged_record_is_lost_or_duplicated_by_kill_9(
    migrated_url: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    node, ledger = ServerProcess(migrated_url, tmp_path), ProduceLedger(rng)
    with node:
        ledger.serve_from(node.url)
        async with node.client() as client:
            await create_topic(client, TOPIC, PARTITIONS)
        names = [(kind, f"{kind}-{number}") for kind in KINDS for number in range(PRODUCERS_OF_A_KIND)]
        async with asyncio.TaskGroup() as group:
            for kind, name in names:
                group.create_task(ledger.produce(kind, name))
            for _ in range(rounds):
                await kill_during_produce(node, ledger)
                if rng.random() < 0.5:
                    await kill_during_start(node, rng)
                await start(node, ledger)
            await ledger.await_acknowledgements(20)
            ledger.stopped.set()

        assert await ledger.audit() > 20 * rounds
        async with node.client() as client:
            await await_ready(client)
        assert "Traceback" not in node.log
