"""A server that attempts deliveries to receivers that behave badly, again and again: memory, connections and pace."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.broker.outbound.certificates import Authority, make_authority
from tests.broker.outbound.hostile_receivers import HOSTILE
from tests.broker.outbound.receivers import Canaries, Exchange, Server, running, watched
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

IS_LONG = os.environ.get("MILLRACE_CHAOS") == "long"
ROUNDS = 100 if IS_LONG else 10
WARM_UP = 3
RECORDS = 300
PACE = 0.2
"""The part of its own pace that a neighbour keeps at least; the receivers use the same two processors.

Only the long form compares: others may use the processors too. In the short form all records must arrive.
"""
MORE_BYTES = 20_000_000
MORE_FILES = 20


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def rss_bytes(node: ServerProcess) -> int:
    return int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * 4096


def files(node: ServerProcess) -> int:
    return len(list(Path(f"/proc/{node.pid}/fd").iterdir()))


async def create_webhooks(
    stack: AsyncExitStack, client: httpx2.AsyncClient, canaries: Canaries, authority: Authority
) -> None:
    """Run the receivers, with a webhook to each."""
    for number, each in enumerate(HOSTILE):
        tls = each.tls(authority) if each.tls else None
        server = await stack.enter_async_context(running(each.behave, canaries, tls=tls, reads=each.reads))
        url = f"{'https' if each.is_tls_url else 'http'}://127.0.0.1:{server.port}/hook"
        settings = {"url": url, "topics": ["hostile"], "timeout_ms": each.timeout_s * 1_000}
        answer = await client.put(f"/v1/webhooks/hostile-{number}", json=settings)
        assert answer.status_code == 201, answer.text


async def attempt_all(client: httpx2.AsyncClient) -> None:
    """Attempt a delivery to each receiver at the same time; each ends as the table says."""
    names = [f"hostile-{number}" for number in range(len(HOSTILE))]
    answers = await asyncio.gather(*(client.post(f"/v1/webhooks/{name}/test") for name in names))
    for answer, each in zip(answers, HOSTILE, strict=True):
        assert answer.status_code == 200, (each.name, answer.text)
        attempt = answer.json()["attempt"]
        assert (each.name, attempt["outcome"], attempt["status"]) == (each.name, each.outcome, each.status)


async def deliver(client: httpx2.AsyncClient, neighbour: Server) -> float:
    """Deliver records to a receiver that behaves well. Return how many a second."""
    before = len(neighbour.requests)
    began = time.monotonic()
    records = [{"key": f"key-{number}", "value": "x" * 1_000} for number in range(RECORDS)]
    answer = await client.post("/v1/topics/healthy/records", json={"records": records})
    assert answer.status_code == 201, answer.text

    async def received() -> int:
        return len(neighbour.requests) - before

    assert await until(received, lambda found: found >= RECORDS) == RECORDS
    return RECORDS / (time.monotonic() - began)


async def test_hostile_receivers_cost_neither_memory_nor_connections_nor_the_pace_of_others(
    stack: AsyncExitStack, sqlite_url: str, tmp_path: Path
) -> None:
    canaries = await stack.enter_async_context(watched())
    neighbour = await stack.enter_async_context(running(ok))
    authority = make_authority(tmp_path)
    settings = {"webhook_allowed_networks": "127.0.0.1/32", "webhook_ca_file": str(authority.ca_file)}
    node = stack.enter_context(ServerProcess(sqlite_url, tmp_path, settings=settings))
    client = await stack.enter_async_context(node.client())
    await create_webhooks(stack, client, canaries, authority)
    healthy = {"url": f"http://127.0.0.1:{neighbour.port}/", "topics": ["healthy"]}
    assert (await client.put("/v1/webhooks/healthy", json=healthy)).status_code == 201
    for _ in range(WARM_UP):
        await attempt_all(client)
        alone = await deliver(client, neighbour)
    memory, opened = rss_bytes(node), files(node)

    paces = []
    for _ in range(ROUNDS):
        pace, _ = await asyncio.gather(deliver(client, neighbour), attempt_all(client))
        paces.append(pace)

    print(f"alone {alone:.0f}/s, beside hostile receivers {sorted(paces)[ROUNDS // 2]:.0f}/s")
    print(f"{(rss_bytes(node) - memory) / 1e6:.1f} MB and {files(node) - opened} files more")
    assert canaries.connections == 0
    assert len(neighbour.requests) == (WARM_UP + ROUNDS) * RECORDS
    if IS_LONG:
        assert sorted(paces)[ROUNDS // 2] >= PACE * alone
    assert rss_bytes(node) - memory < MORE_BYTES
    assert files(node) - opened < MORE_FILES
    node.terminate()
    assert node.exit_code() == 0
    assert "Traceback" not in node.log
