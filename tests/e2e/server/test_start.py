"""Start on a database that is in use, not migrated or empty, or after kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.e2e.support.api_calls import create_topic, produce, read_partition
from tests.e2e.support.server_process import DEADLINE_S, PROGRAM, ServerProcess, environment, run_millrace, running
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


def serve_refused(database_url: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `serve` where it must refuse to start, to its end."""
    return subprocess.run(
        [*PROGRAM, "serve", "--port", "0"],
        cwd=directory,
        env=environment(database_url, {}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def count_records(url: str) -> int:
    """Count the rows of `records`, past the server."""
    query = "SELECT count(*) FROM records"
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            found = file.execute(query).fetchone()
    else:
        with psycopg.connect(url) as connection:
            found = connection.execute(query).fetchone()
    assert found is not None
    (number,) = found
    return int(number)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_an_emptied_partition_continues_at_its_end_offset_after_a_restart(
    migrated_url: str, tmp_path: Path, how: str
) -> None:
    node = ServerProcess(migrated_url, tmp_path, settings={"retention_interval_ms": 10})
    path = "/v1/topics/orders/partitions/0"
    with node:
        async with node.client() as client:
            await create_topic(client, "orders", 2)
            await produce(client, "orders", *range(5))
            answer = await client.delete(f"{path}/records", params={"before_offset": 5})
            assert (answer.status_code, answer.json()) == (200, {"log_start_offset": 5})
            await until(lambda: asyncio.to_thread(count_records, migrated_url), lambda found: found == 0)
        getattr(node, how)()
        if how == "terminate":
            assert node.exit_code() == 0
        node.start()
        async with node.client() as client:
            bounds = (await client.get(path)).json()
            assert (bounds["log_start_offset"], bounds["log_end_offset"], bounds["size_bytes"]) == (5, 5, 0)
            page = (await client.get(f"{path}/records")).json()
            assert (page["records"], page["next_offset"]) == ([], 5)
            assert (await client.get(f"{path}/records", params={"offset": 4})).status_code == 410
            assert (await client.get(f"{path}/records", params={"offset": 6})).status_code == 416
            assert [one["offset"] for one in await produce(client, "orders", "next")] == [5]
            assert [record["value"] for record in await read_partition(client, "orders", 0)] == ["next"]


@pytest.mark.anyio
async def test_a_second_process_on_the_sqlite_file_is_refused_and_the_first_still_serves(
    sqlite_url: str, tmp_path: Path
) -> None:
    node = ServerProcess(sqlite_url, tmp_path)
    with node:
        async with node.client() as client:
            await produce(client, "orders", "before")
            second = serve_refused(sqlite_url, tmp_path)
            offsets = await produce(client, "orders", "after")
        node.kill()
        node.start()
        async with node.client() as client:
            records = await read_partition(client, "orders", 0)

    assert second.returncode == 1
    assert "another millrace process has" in second.stderr
    assert "--database-url sqlite:///other.db" in second.stderr
    assert "Traceback" not in second.stderr
    assert [one["offset"] for one in offsets] == [1]
    assert [record["value"] for record in records] == ["before", "after"]


@pytest.mark.anyio
async def test_of_two_servers_that_start_at_once_on_a_new_sqlite_file_one_serves(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    nodes = [ServerProcess(url, tmp_path) for _ in range(2)]

    def start(node: ServerProcess) -> str:
        try:
            node.start()
        except Exception as error:  # noqa: BLE001 - the message is tested
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        errors = sorted(pool.map(start, nodes))
    (serving,) = [node for node in nodes if node.url]
    async with serving.client() as client:
        await produce(client, "orders", "hi")
    serving.kill()

    assert errors[0] == ""
    assert errors[1].startswith("exit code 1: ")
    assert "another millrace process has" in errors[1]


@pytest.mark.postgres
def test_a_postgresql_without_tables_is_refused_with_the_command_that_creates_them(
    postgres_url: str, tmp_path: Path
) -> None:
    result = serve_refused(postgres_url, tmp_path)

    assert result.returncode == 1
    assert "millrace migrate" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.postgres
def test_concurrent_migrations_of_an_empty_database_all_succeed_and_one_creates_the_tables(
    postgres_url: str, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(lambda _: run_millrace("migrate", database_url=postgres_url, directory=tmp_path), range(2))
        )

    assert [result.returncode for result in results] == [0, 0], results
    assert sorted(result.stdout.split(":")[0] for result in results) == ["created the tables", "the tables are current"]
    with running(ServerProcess(postgres_url, tmp_path)):
        """The database is complete: a server starts on it."""
