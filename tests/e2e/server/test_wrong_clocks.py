"""Servers whose clocks are wrong, by Debian's `faketime`: nothing is lost, and nothing is stored twice."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.support.api_calls import create_topic, fetch, produce
from tests.e2e.support.server_process import ServerProcess, running
from tests.e2e.support.wrong_clock import FAKETIME, wrong_clock
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(FAKETIME is None, reason="no faketime on this machine; Debian's package faketime has it"),
]

DAY_MS = 24 * 3_600_000


async def produce_once(client: httpx2.AsyncClient, value: str) -> None:
    """Append a value to `orders`, always with the same Idempotency-Key."""
    body, headers = {"records": [{"value": value}]}, {"Idempotency-Key": "k"}
    answer = await client.post("/v1/topics/orders/partitions/0/records", json=body, headers=headers)
    assert answer.status_code in {200, 201}, answer.text


async def await_retention(client: httpx2.AsyncClient) -> None:
    """Wait until retention by size has passed over all topics that exist."""
    answer = await client.put("/v1/topics/passed", json={"partitions": 1, "config": {"retention_bytes": 1}})
    assert answer.status_code in {200, 201}, answer.text
    _, record = await produce(client, "passed", "x", "x")
    await until(lambda: log_start(client, "passed"), lambda start: start == record["offset"])


async def log_start(client: httpx2.AsyncClient, topic: str) -> int:
    answer = await client.get(f"/v1/topics/{topic}/partitions/0")
    start: int = answer.json()["log_start_offset"]
    return start


async def records_of(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """Read the topic `orders` from the start of its log."""
    page = await fetch(client, "/v1/topics/orders/partitions/0/records")
    found: list[dict[str, Any]] = page["records"]
    return found


async def readiness(client: httpx2.AsyncClient) -> dict[str, Any]:
    """Return the answer of `/readyz`, which a busy machine may repeat until it is 200."""
    answer = await until(lambda: client.get("/readyz"), lambda answer: answer.status_code == 200)
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.postgres
async def test_nodes_with_wrong_clocks_delete_nothing_and_store_nothing_twice(
    migrated_postgres_url: str, tmp_path: Path
) -> None:
    nodes = [
        ServerProcess(migrated_postgres_url, tmp_path, settings={"retention_interval_ms": 20, **clock})
        for clock in (wrong_clock("+8d"), wrong_clock("-8d"), {})
    ]
    async with AsyncExitStack() as stack:
        stack.enter_context(running(*nodes))
        clients = [await stack.enter_async_context(node.client()) for node in nodes]
        await create_topic(clients[0], "orders", 1)
        for client in clients:
            await produce_once(client, "once")
            await produce(client, "orders", "each")
        for client in clients:
            await await_retention(client)
        for client in clients:
            records = await records_of(client)
            assert [record["value"] for record in records] == ["once", "each", "each", "each"]
            assert all(abs(record["timestamp_ms"] - time.time_ns() // 1_000_000) < 600_000 for record in records)
            assert "deletion_by_time" not in await readiness(client)


async def test_a_start_with_a_clock_days_ahead_deletes_nothing_until_the_grace_is_over(
    sqlite_url: str, tmp_path: Path
) -> None:
    settings: dict[str, object] = {"retention_interval_ms": 20}
    with ServerProcess(sqlite_url, tmp_path, settings=settings) as server:
        async with server.client() as client:
            await create_topic(client, "orders", 1)
            await produce_once(client, "kept")

    with ServerProcess(sqlite_url, tmp_path, settings=settings | wrong_clock("+8d")) as server:
        async with server.client() as client:
            await await_retention(client)
            await until(lambda: readiness(client), lambda found: found.get("deletion_by_time") == "paused")
            await produce_once(client, "kept")
            records = await records_of(client)
            assert [record["value"] for record in records] == ["kept"]
        assert server.log.count("deletion by time is paused until") == 1

    with ServerProcess(
        sqlite_url, tmp_path, settings=settings | {"clock_grace_ms": 100} | wrong_clock("+8d")
    ) as server:
        async with server.client() as client:
            await until(lambda: log_start(client, "orders"), lambda start: start == 1)


async def test_a_clock_that_jumps_ahead_while_the_server_runs_deletes_nothing(sqlite_url: str, tmp_path: Path) -> None:
    (offset := tmp_path / "offset").write_text("+0")
    clock = wrong_clock("+0") | {"FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1"}
    del clock["FAKETIME"]
    with ServerProcess(sqlite_url, tmp_path, settings={"retention_interval_ms": 20, **clock}) as server:
        async with server.client() as client:
            await create_topic(client, "orders", 1)
            await produce(client, "orders", "kept")
            await await_retention(client)

            offset.write_text("+8d")
            await await_retention(client)
            await until(lambda: readiness(client), lambda found: found.get("deletion_by_time") == "paused")
            await await_retention(client)
            assert [record["value"] for record in await records_of(client)] == ["kept"]

            offset.write_text("+0")
            await until(lambda: readiness(client), lambda found: "deletion_by_time" not in found)
            assert [record["value"] for record in await records_of(client)] == ["kept"]
