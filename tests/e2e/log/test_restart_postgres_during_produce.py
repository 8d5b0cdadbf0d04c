"""PostgreSQL restarts under load: requests are refused cleanly, no record is lost, and the server recovers."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import await_ready, create_topic, read_topic
from tests.e2e.support.event_stream_client import EventStreamClient
from tests.e2e.support.produce_ledger import KINDS, PARTITIONS, TOPIC, ProduceLedger
from tests.e2e.support.server_process import ServerProcess, run_millrace
from tests.postgres import PostgresServer, ShutdownMode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

LONG = os.environ.get("MILLRACE_TORTURE") == "long"
ROUNDS = [1, pytest.param(20 if LONG else 4, marks=pytest.mark.slow)]
MODES: tuple[ShutdownMode, ...] = ("fast", "immediate")
PRODUCERS_OF_A_KIND = 2


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that no other test uses."""
    with PostgresServer() as server:
        yield server


async def fetch_until_stopped(ledger: ProduceLedger, client: httpx2.AsyncClient) -> None:
    """Fetch until the ledger is stopped; a fetch may be refused as retriable, with no other failure."""
    while not ledger.stopped.is_set():
        answer = await client.get(f"/v1/topics/{TOPIC}/partitions/0/records", params={"offset": -1, "max_wait_ms": 50})
        if answer.status_code != 200 and (answer.status_code != 503 or not answer.json()["retriable"]):
            ledger.faults.append(f"fetch: {answer.text}")


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_a_restart_of_postgresql_loses_and_duplicates_no_record(
    own_postgres: PostgresServer, tmp_path: Path, rounds: int, seed: int
) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(own_postgres.fresh_database())
        assert run_millrace("migrate", database_url=url, directory=tmp_path).returncode == 0
        node, ledger = ServerProcess(url, tmp_path), ProduceLedger(random.Random(seed))
        stack.enter_context(node)
        ledger.serve_from(node.url)
        async with node.client() as client:
            await create_topic(client, TOPIC, PARTITIONS)
            stream = EventStreamClient(lambda: node.url, f"/v1/topics/{TOPIC}/records?offset=earliest")
            streaming = asyncio.create_task(stream.run())
            async with asyncio.TaskGroup() as group:
                group.create_task(fetch_until_stopped(ledger, client))
                for kind in KINDS:
                    for number in range(PRODUCERS_OF_A_KIND):
                        group.create_task(ledger.produce(kind, f"{kind}-{number}"))
                for mode in MODES * rounds:
                    await ledger.await_acknowledgements(ledger.rng.randint(10, 60))
                    await asyncio.to_thread(own_postgres.restart, mode)
                await ledger.await_acknowledgements(30)
                ledger.stopped.set()

            await await_ready(client)
            number = await ledger.audit()
            assert number > 50
            await stream.await_records(number)
            stream.assert_each_once_and_in_order(await read_topic(client, TOPIC, range(PARTITIONS)))
            streaming.cancel()
            await asyncio.wait([streaming])
    assert stream.connections == 1, "the stream was closed by the restart"
    assert set(ledger.statuses) <= {200, 201, 409, 503, 504}
    assert "an append failed" not in node.log
    assert "UNKNOWN_SERVER_ERROR" not in node.log
    assert "app.api.http.call: request" not in node.log
