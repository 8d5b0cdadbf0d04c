"""An outage of the database: what the log has of it, and what clients get."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.e2e.support.api_calls import create_topic, produce, read_partition
from tests.e2e.support.server_process import NOTICES_ONLY, ServerProcess, run_millrace, running
from tests.postgres import PostgresServer
from tests.waiting import pause, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

RECORDS = "/v1/topics/orders/partitions/0/records"


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that no other test uses."""
    with PostgresServer(settings={"fsync": "off"}) as server:
        yield server


async def work(client: httpx2.AsyncClient) -> list[httpx2.Response]:
    """Append, read and describe at once."""
    append = client.post(RECORDS, json={"value": "x"})
    return list(await asyncio.gather(append, client.get(RECORDS), client.get("/v1/topics"), client.get("/readyz")))


async def test_an_outage_is_one_line_when_it_begins_and_one_when_it_ends(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    with own_postgres.fresh_database() as url:
        assert run_millrace("migrate", database_url=url, directory=tmp_path).returncode == 0
        with ServerProcess(url, tmp_path) as node:
            async with node.client() as client:
                await create_topic(client, "orders", 1)
                await produce(client, "orders", "first")
                before = len(node.log.splitlines())

                with own_postgres.stopped("immediate"):
                    for _ in range(20):
                        for answer in await work(client):
                            assert answer.status_code in {503, 504}, answer.text
                        await pause(0.05)
                await until(lambda: work(client), lambda found: all(each.status_code in {200, 201} for each in found))
                await until(lambda: asyncio.to_thread(lambda: node.log), lambda log: "answers again" in log)
                assert (await read_partition(client, "orders", 0))[0]["value"] == "first"
            lines = node.log.splitlines()[before:]
    assert len(lines) == 2, "\n".join(lines)
    assert "the database cannot be reached" in lines[0]
    assert re.search(r"the database answers again after \d+\.\d s", lines[1])


async def test_a_dead_first_host_costs_only_its_connect_limit(own_postgres: PostgresServer, tmp_path: Path) -> None:
    with own_postgres.fresh_database() as url:
        several = url.replace("@", "@127.0.0.1:1,", 1) + "?target_session_attrs=read-write"
        assert run_millrace("migrate", database_url=several, directory=tmp_path).returncode == 0
        with ServerProcess(several, tmp_path) as node:
            async with node.client() as client:
                await create_topic(client, "orders", 1)
                await produce(client, "orders", "first")
                assert (await client.get("/readyz")).status_code == 200
                await asyncio.to_thread(own_postgres.restart, "fast")
                await until(lambda: work(client), lambda found: all(each.status_code in {200, 201} for each in found))


async def test_a_read_only_first_host_is_skipped_by_every_connection(
    postgres: PostgresServer, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    if postgres.socket_directory is None:
        pytest.skip("the server of MILLRACE_TEST_POSTGRES_URL may have another user")
    name = "millrace_two_hosts"
    urls = [server.create_database(name) for server in (postgres, own_postgres)]
    try:
        with psycopg.connect(urls[0], autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        hosts = ",".join(url.rpartition("@")[2].partition("/")[0] for url in urls)
        several = f"postgresql://millrace@{hosts}/{name}?target_session_attrs=read-write"
        assert run_millrace("migrate", database_url=several, directory=tmp_path).returncode == 0
        nodes = [ServerProcess(several, tmp_path, settings=NOTICES_ONLY) for _ in range(2)]
        with running(*nodes):
            async with nodes[0].client() as client, nodes[1].client() as other:
                await create_topic(client, "orders", 1)
                reading = asyncio.create_task(other.get(RECORDS, params={"offset": 0, "max_wait_ms": 20_000}))
                await produce(client, "orders", "first")
                assert [record["value"] for record in (await reading).json()["records"]] == ["first"]
                assert (await client.get("/readyz")).status_code == 200
        with psycopg.connect(urls[0]) as connection:
            assert connection.execute("SELECT to_regclass('records')").fetchone() == (None,)
    finally:
        for server in (postgres, own_postgres):
            server.drop_database(name)
