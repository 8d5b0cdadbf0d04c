"""The files of an SQLite database are moved, deleted or replaced while the server runs."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.storage.db.opening import open_storage
from tests.e2e.support.api_calls import create_topic, produce, read_partition
from tests.e2e.support.server_process import ServerProcess, StartFailed
from tests.serving import running
from tests.waiting import until, until_true

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx2

pytestmark = pytest.mark.anyio

DETAIL = (
    "a file of the database was moved, deleted or replaced while the server runs; nothing was written, and the "
    "server's log says what to do"
)
RECORDS = "/v1/topics/orders/records"
SETTINGS = {"ballast_bytes": 65_536, "retention_interval_ms": 100}


def move(database: Path) -> None:
    database.rename(database.with_name("moved.db"))


def delete(database: Path) -> None:
    database.unlink()


def replace(database: Path) -> None:
    shutil.copyfile(database, database.with_name("copy.db"))
    database.with_name("copy.db").replace(database)


def empty(database: Path) -> None:
    database.write_bytes(b"")


def is_file(path: Path) -> bool:
    return path.exists()


def move_folder(database: Path) -> None:
    database.parent.rename(database.parent.with_name("moved"))


def delete_folder(database: Path) -> None:
    shutil.rmtree(database.parent)


def retarget(database: Path) -> None:
    """Exchange the folder for another one of the same name."""
    move_folder(database)
    database.parent.mkdir()
    database.write_bytes(b"")


def delete_log(database: Path) -> None:
    database.with_name("millrace.db-wal").unlink()


def replace_index(database: Path) -> None:
    index = database.with_name("millrace.db-shm")
    index.unlink()
    index.write_bytes(b"")


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Path:
    """A database in a folder of its own."""
    (tmp_path / "data").mkdir()
    shutil.copyfile(sqlite_template, tmp_path / "data" / "millrace.db")
    return tmp_path / "data" / "millrace.db"


@pytest.fixture
def node(database: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process on the database. An application in this process starts faster."""
    with ServerProcess(f"sqlite:///{database}", tmp_path, settings=SETTINGS) as process:
        yield process


def save_open_files(pid: int, saved: Path) -> None:
    """Copy the deleted database and its log from the descriptors of the server."""
    for suffix in ("", "-wal"):
        name = f"millrace.db{suffix} (deleted)"
        found = [each for each in Path(f"/proc/{pid}/fd").iterdir() if each.readlink().name == name]
        shutil.copyfile(found[0], saved.with_name(saved.name + suffix))


async def refused(client: httpx2.AsyncClient) -> httpx2.Response:
    """Append until an append is refused, and return the answer."""

    async def append() -> httpx2.Response:
        return await client.post(RECORDS, json={"value": "late"})

    return await until(append, lambda answer: answer.status_code != 201)


@pytest.mark.parametrize(
    "change", [move, delete, replace, move_folder, delete_folder, retarget, delete_log, replace_index]
)
async def test_writes_are_refused_once_a_file_is_not_in_place_and_reads_go_on(
    database: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None]
) -> None:
    async with running({"database_url": f"sqlite:///{database}", **SETTINGS}) as (_, client):
        await create_topic(client, "orders", 1)
        await produce(client, "orders", "first")
        change(database)

        answer = await refused(client)

        assert (answer.status_code, answer.json()["detail"], answer.json()["retriable"]) == (503, DETAIL, True)
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["detail"]) == (503, DETAIL)
        assert (await client.put("/v1/topics/new", json={})).status_code == 503
        assert (await read_partition(client, "orders", 0))[0]["value"] == "first"
        await until_true(lambda: "writes are refused" in caplog.text)
    (line,) = [line for line in caplog.messages if "writes are refused" in line]
    assert "millrace.db" in line
    assert "Traceback" not in caplog.text


async def test_writes_resume_when_the_file_is_back(database: Path) -> None:
    async with running({"database_url": f"sqlite:///{database}", **SETTINGS}) as (_, client):
        await create_topic(client, "orders", 1)
        await produce(client, "orders", "first")
        move_folder(database)
        await refused(client)
        database.parent.with_name("moved").rename(database.parent)

        await until(lambda: client.get("/readyz"), lambda answer: answer.status_code == 200)
        assert (await client.post(RECORDS, json={"value": "last"})).status_code == 201
        values = [record["value"] for record in await read_partition(client, "orders", 0)]

    assert (values[0], values[-1]) == ("first", "last")


async def test_a_moved_file_has_every_acknowledged_record_and_the_old_place_starts_empty(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running({"database_url": f"sqlite:///{database}", **SETTINGS}) as (_, client):
        await create_topic(client, "orders", 1)
        await produce(client, "orders", *range(100))
        move(database)
        await refused(client)
        acknowledged = await read_partition(client, "orders", 0)
        await until_true(lambda: "writes are refused" in caplog.text)

    async with running({"database_url": f"sqlite:///{database.with_name('moved.db')}"}) as (_, client):
        assert await read_partition(client, "orders", 0) == acknowledged
    async with running({"database_url": f"sqlite:///{database}"}) as (_, client):
        assert (await client.get("/v1/topics/orders")).status_code == 404


async def test_the_log_of_a_replaced_file_is_not_applied_to_its_replacement(
    node: ServerProcess, database: Path, tmp_path: Path
) -> None:
    async with node.client() as client:
        await create_topic(client, "orders", 1)
        await produce(client, "orders", "first")
        replace(database)
        await refused(client)
        await until(lambda: asyncio.to_thread(lambda: node.log), lambda log: "writes are refused" in log)
    await asyncio.to_thread(node.kill)
    assert database.with_name("millrace.db-wal.replaced").stat().st_size > 0

    node.start()
    async with node.client() as client:
        assert (await client.get("/v1/topics/orders")).status_code == 404


async def test_the_log_of_a_deleted_file_survives_and_the_next_start_is_refused(database: Path) -> None:
    async with running({"database_url": f"sqlite:///{database}", **SETTINGS}) as (_, client):
        await create_topic(client, "orders", 1)
        await produce(client, "orders", "first")
        delete(database)
        await refused(client)
    log = database.with_name("millrace.db-wal")
    size_bytes = log.stat().st_size
    assert size_bytes > 0

    with pytest.raises(ValueError, match="and its database") as refusal:
        open_storage(f"sqlite:///{database}")

    assert f"{log} has {size_bytes} bytes of records, and its database {database} is missing or empty" in str(
        refusal.value
    )
    assert log.stat().st_size == size_bytes
    assert not is_file(database)


async def test_writes_to_an_emptied_file_are_refused(database: Path) -> None:
    async with running({"database_url": f"sqlite:///{database}", **SETTINGS}) as (_, client):
        await create_topic(client, "orders", 1)
        await produce(client, "orders", "first")
        empty(database)

        await until(lambda: client.get("/readyz"), lambda answer: answer.json().get("detail") == DETAIL)
        assert (await client.post(RECORDS, json={"value": "late"})).json()["detail"] == DETAIL


@pytest.mark.skipif(sys.platform != "linux", reason="/proc has the open files of a process on Linux only")
async def test_a_deleted_file_is_saved_from_the_running_server(
    node: ServerProcess, database: Path, tmp_path: Path
) -> None:
    async with node.client() as client:
        await create_topic(client, "orders", 1)
        await produce(client, "orders", *range(10))
        delete_folder(database)
        await refused(client)
        acknowledged = await read_partition(client, "orders", 0)
        saved = tmp_path / "saved.db"
        await asyncio.to_thread(save_open_files, node.pid, saved)

    with ServerProcess(f"sqlite:///{saved}", tmp_path) as restored:
        async with restored.client() as client:
            assert await read_partition(client, "orders", 0) == acknowledged


@pytest.mark.skipif(sys.platform != "linux", reason="the database file itself is locked on Linux only")
async def test_a_second_process_does_not_start_when_the_lock_file_was_deleted(
    node: ServerProcess, database: Path, tmp_path: Path
) -> None:
    lock = database.with_name("millrace.db.lock")
    async with node.client() as client:
        await create_topic(client, "orders", 1)
        await produce(client, "orders", "first")
        lock.unlink()

        with pytest.raises(StartFailed, match=f"another millrace process has {database} open"):
            await asyncio.to_thread(ServerProcess(f"sqlite:///{database}", tmp_path).start)

        await produce(client, "orders", "second")
        lock.unlink(missing_ok=True)
        await until(lambda: asyncio.to_thread(lock.exists), bool)
        assert (await client.get("/readyz")).status_code == 200
