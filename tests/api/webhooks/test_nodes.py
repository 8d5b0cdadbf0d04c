"""The list of the nodes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from app import __version__
from app.storage.db.tables import nodes
from tests.serving import running
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from app.storage.db.transaction import Tx
    from tests.serving import Serve

pytestmark = pytest.mark.anyio


async def listed(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/v1/nodes")
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def addresses(client: httpx2.AsyncClient) -> set[str]:
    return {node["address"] for node in await listed(client)}


async def test_a_node_says_what_it_is_and_what_it_serves(serve: Serve, migrated_url: str) -> None:
    application, client = await serve(database_url=migrated_url, port=8401)

    (node,) = await listed(client)

    assert (node["version"], node["address"], node["alive"]) == (__version__, "127.0.0.1:8401", True)
    assert node["node_id"] == application.services.dispatcher.node_id
    assert node["started_at_ms"] <= node["last_seen_at_ms"]
    assert {"retention", "rebalance", "webhooks"} <= set(node["tasks"])
    assert (node["tasks_down"], node["webhooks"]) == ([], 0)


@pytest.mark.postgres
async def test_nodes_see_each_other_until_one_stops(serve: Serve, migrated_postgres_url: str) -> None:
    _, client = await serve(database_url=migrated_postgres_url, port=8401)
    async with running({"database_url": migrated_postgres_url, "port": 8402}) as (_, other):
        for each in (client, other):
            await until(partial(addresses, each), lambda found: found == {"127.0.0.1:8401", "127.0.0.1:8402"})

    assert await addresses(client) == {"127.0.0.1:8401"}


@pytest.mark.postgres
async def test_a_lost_node_is_not_alive_and_is_forgotten_after_an_hour(
    serve: Serve, migrated_postgres_url: str
) -> None:
    application, client = await serve(database_url=migrated_postgres_url)
    storage, services = application.services.storage, application.services
    (node,) = await until(lambda: listed(client), lambda found: len(found) == 1)

    def lose(tx: Tx, age_ms: int) -> None:
        details = '{"host":"h","address":"a:1","version":"0"}'
        seen = services.clock() - age_ms
        statement = tx.dialect.insert(nodes).values(node_id="lost", details=details, started_at_ms=1, seen_at_ms=seen)
        tx.connection.execute(statement.on_conflict_do_update(index_elements=["node_id"], set_={"seen_at_ms": seen}))

    await storage.write(lose, 20_000)
    assert [(each["node_id"], each["alive"]) for each in await listed(client)] == [
        ("lost", False),
        (node["node_id"], True),
    ]

    await storage.write(lose, 3_700_000)
    await services.nodes.beat()
    assert [each["node_id"] for each in await listed(client)] == [node["node_id"]]
