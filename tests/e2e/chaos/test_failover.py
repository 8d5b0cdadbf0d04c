"""The primary PostgreSQL dies and its synchronous standby takes over under load: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.e2e.support.server_process import ServerProcess, run_millrace
from tests.history.load import Load, longest_outage_s
from tests.postgres import PostgresServer
from tests.waiting import pause

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
ROUNDS = [1, pytest.param(20 if LONG else 5, marks=pytest.mark.slow)]
RESUME_S = 10.0
"""Within this time after the promotion, writes are acknowledged again: a promise, and not only a limit of the test."""


def url_of(*servers: PostgresServer, name: str) -> str:
    """Return a URL with several hosts, of which the one that accepts writes is used."""
    places = ",".join(f"127.0.0.1:{urlsplit(server.url).port}" for server in servers)
    return f"postgresql://millrace@{places}/{name}?target_session_attrs=read-write"


async def fail_over(directory: Path, rng: random.Random) -> float:
    """Run one failover under load, and return how long no write was acknowledged."""
    with ExitStack() as stack:
        primary = stack.enter_context(PostgresServer())
        primary.create_database("log")
        standby = stack.enter_context(PostgresServer(standby_of=primary))
        url = url_of(primary, standby, name="log")
        assert run_millrace("migrate", database_url=url, directory=directory).returncode == 0
        node = stack.enter_context(ServerProcess(url, directory))
        load = Load(rng)
        load.serve_from(node.url)
        await load.create()
        async with asyncio.TaskGroup() as group:
            load.start(group, producers_of_a_kind=1)
            group.create_task(load.consume("member"))
            await load.await_acknowledgements(rng.randint(20, 100))
            await pause(rng.uniform(0, 0.02))
            await asyncio.to_thread(primary.stop, "immediate")
            await asyncio.to_thread(standby.promote)
            await load.await_acknowledgements(3, seconds=RESUME_S)
            await load.await_acknowledgements(30)
            load.stopped.set()
        assert await load.audit(directory / "history.jsonl") > 50
        assert "Traceback" not in node.log
        return longest_outage_s(load)


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_a_failover_to_a_synchronous_standby_loses_nothing_and_writes_resume(
    tmp_path: Path, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    outages = [await fail_over(tmp_path, rng) for _ in range(rounds)]
    print(f"{rounds} failovers; longest time without an acknowledgement: {max(outages):.1f} s")
