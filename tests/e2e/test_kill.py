"""kill -9 in the middle of concurrent produces, and of starts: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.load import KINDS, PARTITIONS, TOPIC, Ledger
from tests.e2e.node import Node, create_topic, until

if TYPE_CHECKING:
    from pathlib import Path

LONG = os.environ.get("MILLRACE_TORTURE") == "long"
ROUNDS = [3, pytest.param(100 if LONG else 10, marks=pytest.mark.slow)]
START_S = 1.2
PRODUCERS_OF_A_KIND = 2


async def random_moment(rng: random.Random, seconds: float) -> None:
    """Let a random time pass: the moment of a kill, not a wait for something."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(rng.uniform(0, seconds)):
            await asyncio.Event().wait()


async def killed_while_starting(node: Node, rng: random.Random) -> None:
    await asyncio.to_thread(node.spawn)
    await random_moment(rng, START_S)
    await asyncio.to_thread(node.kill)


async def started(node: Node, ledger: Ledger) -> None:
    await asyncio.to_thread(node.start)
    ledger.url = node.url
    ledger.serving.set()


async def killed_in_the_middle(node: Node, ledger: Ledger) -> None:
    await ledger.acknowledge(ledger.rng.randint(1, 60))
    await random_moment(ledger.rng, 0.02)
    ledger.serving.clear()
    await asyncio.to_thread(node.kill)


@pytest.mark.anyio
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(
    migrated_url: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    node, ledger = Node(migrated_url, tmp_path), Ledger(rng)
    with node:
        ledger.url = node.url
        ledger.serving.set()
        async with node.client() as client:
            await create_topic(client, TOPIC, PARTITIONS)
        names = [(kind, f"{kind}-{number}") for kind in KINDS for number in range(PRODUCERS_OF_A_KIND)]
        async with asyncio.TaskGroup() as group:
            for kind, name in names:
                group.create_task(ledger.run(kind, name))
            for _ in range(rounds):
                await killed_in_the_middle(node, ledger)
                if rng.random() < 0.5:
                    await killed_while_starting(node, rng)
                await started(node, ledger)
            await ledger.acknowledge(20)
            ledger.stopped.set()

        assert await ledger.audit() > 20 * rounds
        async with node.client() as client:
            await until(lambda: client.get("/readyz"), lambda answer: answer.status_code == 200)
        assert "Traceback" not in node.log
