"""All connections to PostgreSQL are terminated again and again under load: nothing is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.e2e.support.server_process import ServerProcess, running
from tests.history.load import Load
from tests.waiting import pause

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
ROUNDS = [4, pytest.param(1_000 if LONG else 100, marks=pytest.mark.slow)]
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'millrace'
"""


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_terminated_connections_lose_and_duplicate_no_record(
    migrated_postgres_url: str, tmp_path: Path, rounds: int, seed: int
) -> None:
    load, terminated = Load(random.Random(seed)), 0
    nodes = [ServerProcess(migrated_postgres_url, tmp_path) for _ in range(2)]
    with running(*nodes):
        load.serve_from(*(node.url for node in nodes))
        await load.create()
        async with asyncio.TaskGroup() as group:
            load.start(group, producers_of_a_kind=1)
            for number in range(2):
                group.create_task(load.consume(f"member-{number}"))
                group.create_task(load.work(f"worker-{number}"))
            async with await psycopg.AsyncConnection.connect(migrated_postgres_url, autocommit=True) as connection:
                for _ in range(rounds):
                    await load.await_acknowledgements(load.rng.randint(1, 15))
                    await pause(load.rng.uniform(0, 0.02))
                    row = await (await connection.execute(TERMINATE)).fetchone()
                    terminated += 0 if row is None else row[0]
            await load.await_acknowledgements(20)
            load.stopped.set()
        assert await load.audit(tmp_path / "history.jsonl") > rounds
    assert terminated > rounds
    assert all("Traceback" not in node.log for node in nodes)
    print(f"{terminated} connections terminated in {rounds} rounds")
