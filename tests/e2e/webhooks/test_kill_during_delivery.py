"""Servers are killed while they deliver: nothing is left out, only what was in flight comes twice, keys keep order."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.api.webhooks.receiver import receiving
from tests.e2e.support.server_process import ServerProcess, running
from tests.e2e.webhooks.webhook_ledger import SERVER, WebhookLedger

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
MANY = pytest.param(60 if LONG else 8, marks=pytest.mark.slow)
RECORDS = 150
"""In each round."""

END_LEASES = "UPDATE node_leases SET until_ms = 0"


async def kill(node: ServerProcess, ledger: WebhookLedger) -> None:
    await asyncio.to_thread(node.kill)
    ledger.note_kill()


@pytest.mark.parametrize("rounds", [2, MANY])
async def test_a_server_that_is_killed_delivers_the_rest_after_its_start(
    sqlite_url: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    async with receiving() as receiver:
        ledger, node = WebhookLedger(receiver, rng, 1), ServerProcess(sqlite_url, tmp_path, settings=SERVER)
        with node:
            async with node.client() as client:
                await ledger.create(client)
            for _ in range(rounds):
                async with node.client() as client:
                    await ledger.produce(client, RECORDS)
                await ledger.answered(rng.randint(1, RECORDS // 2))
                await kill(node, ledger)
                await asyncio.to_thread(node.start)
            async with node.client() as client:
                await ledger.finish(client)
        assert "Traceback" not in node.log
    ledger.check()


@pytest.mark.postgres
@pytest.mark.parametrize("rounds", [1, MANY])
async def test_another_node_delivers_what_a_killed_one_left(
    migrated_postgres_url: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    async with receiving() as receiver:
        ledger = WebhookLedger(receiver, rng, 4)
        nodes = [ServerProcess(migrated_postgres_url, tmp_path, settings=SERVER) for _ in range(2)]
        with running(*nodes):
            async with nodes[0].client() as client:
                await ledger.create(client)
            for number in range(rounds):
                victim, other = nodes[number % 2], nodes[1 - number % 2]
                async with other.client() as client:
                    await ledger.produce(client, RECORDS)
                    await ledger.answered(rng.randint(1, RECORDS // 2))
                    await kill(victim, ledger)
                    if not LONG:
                        await end_leases(migrated_postgres_url)
                    await ledger.finish(client)
                await asyncio.to_thread(victim.start)
        assert all("Traceback" not in node.log for node in nodes)
    ledger.check()


async def end_leases(url: str) -> None:
    """End the leases of all nodes, which takes ten seconds else; a node that runs takes a new one at once."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(END_LEASES)
