"""PostgreSQL is frozen: requests end, the node is not ready, stops, and recovers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.api_calls import await_ready, create_topic, produce
from tests.e2e.support.server_process import DEADLINE_S, ServerProcess, run_millrace
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

RECORD = {"records": [{"value": 1}]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[ServerProcess, PostgresServer]]:
    """A node on a PostgreSQL that no other test uses."""
    with PostgresServer() as server:
        url = server.create_database()
        assert run_millrace("migrate", database_url=url, directory=tmp_path).returncode == 0
        with ServerProcess(url, tmp_path) as process:
            yield process, server


async def test_requests_end_while_postgresql_is_frozen_and_work_again_afterwards(
    node: tuple[ServerProcess, PostgresServer],
) -> None:
    process, server = node
    async with process.client() as client:
        await create_topic(client, "orders", 2)
        await produce(client, "orders", 1)
        page = "/v1/topics/orders/partitions/0/records?offset=0&max_wait_ms=0"
        with server.frozen():
            async with asyncio.timeout(DEADLINE_S):
                answers = await asyncio.gather(
                    *(client.post("/v1/topics/orders/records", json=RECORD) for _ in range(10)),
                    *(client.get(page) for _ in range(20)),
                    *(client.post("/v1/groups/g/members", json={"topics": ["orders"]}) for _ in range(10)),
                )
            async with asyncio.timeout(DEADLINE_S):
                assert (await client.get("/readyz")).status_code == 503
        assert {answer.status_code for answer in answers} <= {503, 504}
        await await_ready(client)
        await produce(client, "orders", 2)


async def test_a_node_stops_while_postgresql_is_frozen(node: tuple[ServerProcess, PostgresServer]) -> None:
    process, server = node
    async with process.client() as client:
        await create_topic(client, "orders", 2)
        with server.frozen():
            requests = [asyncio.create_task(client.post("/v1/topics/orders/records", json=RECORD)) for _ in range(4)]
            await asyncio.wait(requests, timeout=0.5)
            process.terminate()
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.to_thread(process.exit_code)
        await asyncio.gather(*requests, return_exceptions=True)
