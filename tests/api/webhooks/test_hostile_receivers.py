"""A server with a webhook to each receiver that behaves badly, and to some that do not."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.webhooks.receiver import SECRET_KEY
from tests.broker.outbound.certificates import make_authority
from tests.broker.outbound.hostile_receivers import HOSTILE, SLOW
from tests.broker.outbound.receivers import Canaries, Exchange, Server, running, watched
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

NEIGHBOURS = 3
RECORDS = 30


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def canaries(stack: AsyncExitStack) -> Canaries:
    return await stack.enter_async_context(watched())


@pytest.fixture
async def hostile_urls(stack: AsyncExitStack, canaries: Canaries, tmp_path: Path) -> dict[str, str]:
    """The URL of each receiver, by the name of its webhook."""
    authority = make_authority(tmp_path)
    urls = {}
    for number, each in enumerate(HOSTILE):
        tls = each.tls(authority) if each.tls else None
        server = await stack.enter_async_context(running(each.behave, canaries, tls=tls, reads=each.reads))
        urls[f"hostile-{number}"] = f"{'https' if each.is_tls_url else 'http'}://127.0.0.1:{server.port}/hook"
    return urls


async def start(serve: Serve, tmp_path: Path, **settings: Any) -> httpx2.AsyncClient:
    """Start a server that may send to 127.0.0.1, and to no other address of this machine."""
    allowed = {"webhook_allowed_networks": "127.0.0.1/32", "webhook_ca_file": str(tmp_path / "ca.pem")}
    _, client = await serve(secret_key=SECRET_KEY, **allowed, **settings)
    return client


async def create(client: httpx2.AsyncClient, name: str, url: str, topic: str, **settings: Any) -> None:
    answer = await client.put(f"/v1/webhooks/{name}", json={"url": url, "topics": [topic]} | settings)
    assert answer.status_code == 201, answer.text


async def produce(client: httpx2.AsyncClient, topic: str, number: int) -> None:
    records = [{"key": f"key-{each}", "value": "x" * 1_000} for each in range(number)]
    answer = await client.post(f"/v1/topics/{topic}/records", json={"records": records})
    assert answer.status_code == 201, answer.text


async def attempts(client: httpx2.AsyncClient, name: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/webhooks/{name}/attempts")
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def only_attempt(client: httpx2.AsyncClient, name: str) -> dict[str, Any]:
    """Return the attempt of a webhook, which has one, once it is stored."""
    (attempt,) = await until(lambda: attempts(client, name), bool)
    return attempt


async def test_each_attempt_ends_as_the_table_says_and_neighbours_get_all_records(
    serve: Serve,
    sqlite_url: str,
    hostile_urls: dict[str, str],
    canaries: Canaries,
    stack: AsyncExitStack,
    tmp_path: Path,
) -> None:
    client = await start(serve, tmp_path, database_url=sqlite_url)
    for (name, url), each in zip(hostile_urls.items(), HOSTILE, strict=True):
        once = {"retry_delays_ms": [], "timeout_ms": each.timeout_s * 1_000}
        await create(client, name, url, "hostile", **once)
    for number, url in enumerate(canaries.urls):
        await create(client, f"canary-{number}", url, "hostile", retry_delays_ms=[])
    neighbours: list[Server] = []
    for number in range(NEIGHBOURS):
        neighbours.append(await stack.enter_async_context(running(ok)))
        await create(client, f"neighbour-{number}", f"http://127.0.0.1:{neighbours[-1].port}/", "healthy")
    await produce(client, "hostile", 1)
    await produce(client, "healthy", RECORDS)

    async def received() -> list[int]:
        return [len(server.requests) for server in neighbours]

    await until(received, lambda found: found == [RECORDS] * NEIGHBOURS)
    for name, each in zip(hostile_urls, HOSTILE, strict=True):
        attempt = await only_attempt(client, name)
        assert (each.name, attempt["outcome"], attempt["status"]) == (each.name, each.outcome, each.status)
        assert re.search(each.error, attempt["error"] or "") is not None
        assert len(attempt["response_body"] or "") <= 16 * 1024 * 4 // 3 + 10
    for number in range(len(canaries.urls)):
        assert (await only_attempt(client, f"canary-{number}"))["outcome"] == "blocked"
    assert canaries.connections == 0


async def test_receivers_that_hang_do_not_stop_their_neighbours(
    serve: Serve, hostile_urls: dict[str, str], stack: AsyncExitStack, tmp_path: Path
) -> None:
    """More requests hang than may be under way together, and another webhook delivers before one of them ends."""
    client = await start(serve, tmp_path)
    hanging = [name for name, each in zip(hostile_urls, HOSTILE, strict=True) if each in SLOW]
    for name in hanging:
        await create(client, name, hostile_urls[name], "hostile", ordering="none", max_in_flight=64, timeout_ms=30_000)
    neighbour = await stack.enter_async_context(running(ok))
    await create(client, "neighbour", f"http://127.0.0.1:{neighbour.port}/", "healthy")
    await produce(client, "hostile", 64)

    async def in_flight() -> list[int]:
        return [(await client.get(f"/v1/webhooks/{name}")).json()["counts"]["in_flight"] for name in hanging]

    await until(in_flight, lambda found: min(found) >= 40)
    await produce(client, "healthy", RECORDS)

    async def received() -> int:
        return len(neighbour.requests)

    await until(received, lambda found: found == RECORDS)
    assert await attempts(client, hanging[0]) == []
