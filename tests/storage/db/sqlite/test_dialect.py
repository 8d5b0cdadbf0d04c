"""SQLite: one process per file, and a full disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from app.errors.database import DatabaseMisplaced, DiskFull
from app.storage.db.opening import open_storage
from app.storage.db.sqlite.files import DatabaseInUse
from app.storage.log.appends import append_all
from tests.storage.scribe import Row, Scribe, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

BALLAST_BYTES = 65_536


@pytest.fixture
def opened(sqlite_url: str) -> Iterator[Storage]:
    """An open SQLite file with current tables and a ballast."""
    each = open_storage(sqlite_url, ballast_bytes=BALLAST_BYTES)
    yield each
    each.close()


def limit_pages(storage: Storage, pages: int) -> None:
    """Limit the file to some pages more than it has, as a full disk does."""

    def limit(tx: Tx) -> None:
        present = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {present + pages}").scalar_one()

    storage.write_now(limit)


def fill(scribe: Scribe, storage: Storage) -> int:
    """Append to a topic until the disk is full, and return the number of acknowledged records."""
    info = scribe.create()
    limit_pages(storage, 40)
    acknowledged = 0

    def forever() -> None:
        nonlocal acknowledged
        while True:
            acknowledged += len(scribe.append(info, [Row(value=b"x" * 4000)] * 3))

    with pytest.raises(DiskFull):
        forever()
    return acknowledged


def test_a_second_process_is_refused_with_an_explanation(opened: Storage, sqlite_url: str) -> None:
    with pytest.raises(DatabaseInUse) as error:
        open_storage(sqlite_url)

    assert str(error.value) == (
        f"another millrace process has {sqlite_url.removeprefix('sqlite:///')} open; stop it, give this one another "
        "file with --database-url sqlite:///other.db, or use PostgreSQL for several nodes"
    )


def test_a_link_to_the_file_is_refused_as_the_same_file(opened: Storage, sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(sqlite_url.removeprefix("sqlite:///"))

    with pytest.raises(DatabaseInUse):
        open_storage(f"sqlite:///{tmp_path / 'link.db'}")


def test_the_lock_is_released_when_the_storage_is_closed(sqlite_url: str) -> None:
    for _ in range(3):
        open_storage(sqlite_url).close()


def test_the_lock_is_released_at_once_after_kill_9(sqlite_url: str) -> None:
    program = (
        "import sys; from app.storage.db.opening import open_storage\n"
        "storage = open_storage(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, sqlite_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(DatabaseInUse):
            open_storage(sqlite_url)
        process.kill()
        process.wait()

        open_storage(sqlite_url).close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "an SQLite database needs a file: sqlite:///millrace.db"),
        ("sqlite:///:memory:", "an SQLite database needs a file: sqlite:///millrace.db"),
        ("sqlite:////no/such/folder/millrace.db", "the folder /no/such/folder of the database file"),
        ("mysql://localhost/millrace", "the database mysql is not supported"),
        ("millrace.db", "MILLRACE_DATABASE_URL is not a URL"),
    ],
)
def test_an_unusable_url_is_refused_with_an_explanation(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_storage(url)


@pytest.mark.parametrize(
    "rest", ["?x.db", "?mode=ro", "?key=secret&uri=true", "?", "?cache=shared#fragment"], ids=lambda rest: rest[1:]
)
def test_a_url_with_parameters_is_refused_and_no_file_is_created(tmp_path: Path, rest: str) -> None:
    with pytest.raises(ValueError, match="an SQLite URL has no parameters") as error:
        open_storage(f"sqlite:///{tmp_path / 'q'}{rest}")

    assert str(error.value) == (
        "an SQLite URL has no parameters, and this one has a ?: remove it with what follows; a file with ? in its "
        "name cannot be used, rename it"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["sqlite://data/q.db", "sqlite://user:password@/q.db", "sqlite://:8/q.db"])
def test_a_url_with_too_few_slashes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ValueError, match="an SQLite URL has no host, user or port: write three slashes") as error:
        open_storage(url)

    assert "password" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database")

    with pytest.raises(ValueError, match=r"notes\.txt is not an SQLite database; give another file"):
        open_storage(f"sqlite:///{path}")

    assert path.read_bytes() == b"not a database"


@pytest.mark.parametrize("table", ["albums", "alembic_version"])
def test_the_database_of_another_program_is_refused_and_not_changed(tmp_path: Path, table: str) -> None:
    path = tmp_path / "music.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE {table} (name TEXT)")
    before = path.read_bytes()

    with pytest.raises(ValueError, match=r"music\.db is the SQLite database of another program; give another file"):
        open_storage(f"sqlite:///{path}")

    assert path.read_bytes() == before


def test_a_damaged_database_is_refused_with_the_error_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "millrace.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(4_080))

    with pytest.raises(ValueError, match=r"the database .*millrace\.db cannot be used: "):
        open_storage(f"sqlite:///{path}")


def test_a_hard_link_is_refused_under_each_name(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "link.db").hardlink_to(tmp_path / "millrace.db")

    for name in ("millrace.db", "link.db"):
        with pytest.raises(ValueError, match=rf"{name} has 2 names \(hard links\).*copy the file and open the copy"):
            open_storage(f"sqlite:///{tmp_path / name}")

    (tmp_path / "link.db").unlink()
    open_storage(sqlite_url).close()


def test_a_folder_or_a_pipe_is_refused_as_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match=f"{path.name} is not a file; give the path of a file"):
            open_storage(f"sqlite:///{path}")


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_a_write_ahead_log_without_its_database_is_refused_and_kept(tmp_path: Path, content: bytes | None) -> None:
    log = tmp_path / "millrace.db-wal"
    log.write_bytes(b"records")
    if content is not None:
        (tmp_path / "millrace.db").write_bytes(content)

    with pytest.raises(ValueError, match=r"millrace\.db-wal has 7 bytes of records, and its database"):
        open_storage(f"sqlite:///{tmp_path / 'millrace.db'}")

    assert log.read_bytes() == b"records"


def test_readers_cannot_write(opened: Storage) -> None:
    with opened.dialect.read_engine.connect() as connection, pytest.raises(Exception, match="readonly database"):
        connection.exec_driver_sql("DELETE FROM topics")


@pytest.mark.anyio
async def test_all_readers_read_a_file_that_was_deleted_before_their_first_read(
    opened: Storage, tmp_path: Path
) -> None:
    (tmp_path / "millrace.db").unlink()
    both = threading.Barrier(2)

    def names(tx: Tx) -> set[str]:
        both.wait(timeout=30)
        return set(tx.connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())

    for found in await asyncio.gather(opened.read(names), opened.read(names)):
        assert "records" in found
    assert not (tmp_path / "millrace.db").exists()


def test_no_connection_is_opened_to_another_file_at_the_same_path(opened: Storage, tmp_path: Path) -> None:
    database = tmp_path / "millrace.db"

    def replace(tx: Tx) -> None:
        database.rename(tmp_path / "moved.db")
        tx.connection.invalidate()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        opened.write_now(replace)
    with pytest.raises(DatabaseMisplaced):
        opened.write_now(lambda tx: tx.connection.exec_driver_sql("SELECT 1"))
    assert not database.exists()


def test_commits_are_flushed_to_the_disk(opened: Storage) -> None:
    found = opened.write_now(
        lambda tx: [
            tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("synchronous", "journal_mode")
        ]
    )

    assert found == [2, "wal"]


def test_a_full_disk_refuses_appends_and_loses_nothing(opened: Storage, tmp_path: Path) -> None:
    scribe = Scribe(opened)
    ballast = tmp_path / "millrace.db.ballast"
    assert ballast.stat().st_size == BALLAST_BYTES

    acknowledged = fill(scribe, opened)

    assert opened.full
    assert not ballast.exists()
    info = scribe.find("orders")
    assert acknowledged > 0
    assert list(scribe.values(info)) == list(range(acknowledged))


def test_deletions_work_on_a_full_disk_and_free_space(opened: Storage) -> None:
    scribe = Scribe(opened)
    acknowledged = fill(scribe, opened)
    info = scribe.find("orders")

    scribe.delete_before(info, acknowledged - 1)
    scribe.purge(limit=10)

    assert scribe.append(info, [Row(value=b"x" * 4000)]) == [acknowledged]
    assert list(scribe.values(info)) == [acknowledged - 1, acknowledged]


def test_a_topic_can_be_deleted_on_a_full_disk(opened: Storage) -> None:
    scribe = Scribe(opened)
    fill(scribe, opened)

    scribe.delete(scribe.find("orders"))
    scribe.purge()

    assert scribe.count("records") == 0


@pytest.mark.anyio
async def test_appends_and_the_ballast_return_once_there_is_space(opened: Storage, tmp_path: Path) -> None:
    scribe = Scribe(opened)
    acknowledged = fill(scribe, opened)
    limit_pages(opened, 100_000)

    await opened.check_space()

    assert not opened.full
    assert (tmp_path / "millrace.db.ballast").stat().st_size == BALLAST_BYTES
    info = scribe.find("orders")
    await opened.write(append_all, [request(info, [Row(value=b"x" * 4000)])], scribe.now_ms)
    assert list(scribe.values(info)) == list(range(acknowledged + 1))


def test_a_batch_that_does_not_fit_writes_nothing(opened: Storage) -> None:
    scribe = Scribe(opened)
    info = scribe.create()
    limit_pages(opened, 40)

    with pytest.raises(DiskFull):
        scribe.apply(request(info, [Row(value=b"small")]), request(info, [Row(value=b"x" * 4000)] * 100))

    assert scribe.extent(info)[1:] == (0, 0, 0)


def test_the_file_shrinks_after_records_are_deleted(opened: Storage, tmp_path: Path) -> None:
    scribe = Scribe(opened)
    info = scribe.create()
    scribe.append(info, [Row(value=b"x" * 4000)] * 500)

    scribe.delete_before(info, 500)
    scribe.purge(limit=50)

    assert opened.write_now(lambda tx: tx.connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()) < 300
    assert scribe.append(info, [Row()]) == [500]


def test_a_crashed_writer_leaves_a_consistent_database(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    program = (
        "import os, sys; from app.storage.db.opening import open_storage\n"
        "from tests.storage.scribe import Row, Scribe\n"
        "scribe = Scribe(open_storage(sys.argv[1])); info = scribe.create()\n"
        "scribe.append(info, [Row(value=b'kept')])\n"
        "os.kill(os.getpid(), 9)"
    )

    finished = subprocess.run([sys.executable, "-c", program, sqlite_url], check=False)

    assert finished.returncode == -9
    storage = open_storage(sqlite_url)
    scribe = Scribe(storage)
    assert scribe.values(scribe.find("orders")) == {0: b"kept"}
    storage.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("count", [1, 16, 17, 500, 2_048, 2_049, 5_000])
def test_an_append_of_any_number_of_rows_is_written_once_and_in_order(opened: Storage, count: int) -> None:
    scribe = Scribe(opened)
    info = scribe.create()

    assert scribe.append(info, [Row(value=b"%d" % number) for number in range(count)]) == list(range(count))
    assert scribe.append_values(info, b"last") == [count]
    assert scribe.count("records") == count + 1
    assert [record.value for record in scribe.page(info, count - 1, 2)] == [b"%d" % (count - 1), b"last"]


def test_an_append_with_one_refused_row_writes_nothing(opened: Storage) -> None:
    scribe = Scribe(opened)
    info = scribe.create()

    def occupy(tx: Tx) -> None:
        sql = "INSERT INTO records SELECT (partition_id << 42) + 2100, 0, 0, NULL, NULL, NULL, 0, 0 FROM partitions"
        tx.connection.exec_driver_sql(sql)

    assert scribe.append_values(info, b"first") == [0]
    opened.write_now(occupy)
    with pytest.raises(sqlite3.IntegrityError):
        scribe.append(info, [Row(value=b"x")] * 2_200)

    assert scribe.count("records") == 2
