"""PostgreSQL restarts under load: requests are refused cleanly, no record is lost, and the server recovers."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import await_ready, read_topic
from tests.e2e.support.event_stream_client import EventStreamClient
from tests.e2e.support.server_process import ServerProcess, run_millrace
from tests.history.load import PARTITIONS, TOPIC, Load
from tests.postgres import PostgresServer, ShutdownMode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
ROUNDS = [1, pytest.param(20 if LONG else 4, marks=pytest.mark.slow)]
MODES: tuple[ShutdownMode, ...] = ("fast", "immediate")


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that no other test uses."""
    with PostgresServer() as server:
        yield server


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_a_restart_of_postgresql_loses_and_duplicates_no_record(
    own_postgres: PostgresServer, tmp_path: Path, rounds: int, seed: int
) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(own_postgres.fresh_database())
        assert run_millrace("migrate", database_url=url, directory=tmp_path).returncode == 0
        node, load = ServerProcess(url, tmp_path), Load(random.Random(seed))
        stack.enter_context(node)
        load.serve_from(node.url)
        await load.create()
        async with node.client() as client:
            stream = EventStreamClient(lambda: node.url, f"/v1/topics/{TOPIC}/records?offset=earliest")
            streaming = asyncio.create_task(stream.run())
            async with asyncio.TaskGroup() as group:
                load.start(group)
                for mode in MODES * rounds:
                    await load.await_acknowledgements(load.rng.randint(10, 60))
                    await asyncio.to_thread(own_postgres.restart, mode)
                await load.await_acknowledgements(30)
                load.stopped.set()

            await await_ready(client)
            number = await load.audit(tmp_path / "history.jsonl")
            assert number > 50
            await stream.await_records(number)
            stream.assert_each_once_and_in_order(await read_topic(client, TOPIC, range(PARTITIONS)))
            streaming.cancel()
            await asyncio.wait([streaming])
    assert stream.connections == 1, "the stream was closed by the restart"
    assert set(load.statuses) <= {200, 201, 409, 503, 504}
    assert "an append failed" not in node.log
    assert "UNKNOWN_SERVER_ERROR" not in node.log
    assert "app.api.http.call: request" not in node.log
    print(f"{2 * rounds} restarts, {number} records, {len(load.recorder.history)} operations")
