"""Three nodes on one PostgreSQL work under load, with clocks that are right, a day ahead and a day behind."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.server_process import ServerProcess, running
from tests.e2e.support.wrong_clock import FAKETIME, wrong_clock
from tests.history.load import Load

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.skipif(FAKETIME is None, reason="no faketime on this machine; Debian's package faketime has it"),
]

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
ACKNOWLEDGEMENTS = 20_000 if LONG else 1_000


async def test_clocks_a_day_ahead_and_behind_cause_no_anomaly(
    migrated_postgres_url: str, tmp_path: Path, seed: int
) -> None:
    load = Load(random.Random(seed))
    nodes = [
        ServerProcess(migrated_postgres_url, tmp_path, settings={"retention_interval_ms": 50, **clock})
        for clock in ({}, wrong_clock("+1d"), wrong_clock("-1d"))
    ]
    with running(*nodes):
        load.serve_from(*(node.url for node in nodes))
        await load.create()
        async with asyncio.TaskGroup() as group:
            load.start(group)
            for number in range(3):
                group.create_task(load.consume(f"member-{number}"))
                group.create_task(load.work(f"worker-{number}"))
            await load.await_acknowledgements(ACKNOWLEDGEMENTS, seconds=ACKNOWLEDGEMENTS / 10)
            load.stopped.set()
        records = await load.audit(tmp_path / "history.jsonl")
        assert records >= ACKNOWLEDGEMENTS
    assert all("Traceback" not in node.log for node in nodes)
    print(f"{records} records on nodes with clocks ±1 day, {len(load.recorder.history)} operations")
