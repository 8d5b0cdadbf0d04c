"""Errors of SQLite while the server runs: each is caused here, and each is a refusal that names cause and way out."""

from __future__ import annotations

import os
import resource
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.errors.database import OutcomeUnknown, ServiceUnavailable
from app.storage.db import schema
from app.storage.db.faults import ERRORS, Fault
from app.storage.db.opening import open_storage
from app.storage.db.sqlite.result_codes import fault_of, is_rolled_back
from tests.storage.scribe import Row, Scribe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

FILLED_PAGES = 200


@pytest.fixture
def opened(sqlite_url: str) -> Iterator[Storage]:
    """An open SQLite file with current tables."""
    with closing(open_storage(sqlite_url)) as storage:
        yield storage


def write(tx: Tx) -> None:
    tx.connection.exec_driver_sql("INSERT INTO group_ticks VALUES (1)")


def reconnect(storage: Storage) -> None:
    """Let the writer open the file again before the next statement."""

    def leave(tx: Tx) -> None:
        tx.connection.invalidate()
        raise InterruptedError

    with pytest.raises(InterruptedError):
        storage.write_now(leave)


@contextmanager
def replaced_descriptors(path: Path, other: Path, flags: int) -> Iterator[None]:
    """Let the descriptors of a file in this process lead elsewhere."""
    ours = [int(each.name) for each in Path("/proc/self/fd").iterdir() if _leads_to(each, path)]
    assert ours
    kept = [os.dup(descriptor) for descriptor in ours]
    elsewhere = os.open(other, flags)
    try:
        for descriptor in ours:
            os.dup2(elsewhere, descriptor)
        yield
    finally:
        for descriptor, original in zip(ours, kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(elsewhere)


def _leads_to(link: Path, path: Path) -> bool:
    try:
        return link.readlink() == path
    except OSError:
        return False


def test_a_file_that_cannot_be_written_is_named_and_writes_resume_without_a_restart(opened: Storage) -> None:
    def forbid(tx: Tx) -> None:
        tx.connection.exec_driver_sql("PRAGMA query_only = ON")

    opened.write_now(forbid)
    with pytest.raises(ServiceUnavailable, match="the database file cannot be written: its file system is mounted"):
        opened.write_now(write)
    opened.write_now(write)


def test_a_process_without_descriptors_is_told_of_the_limit(opened: Storage) -> None:
    reconnect(opened)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(ServiceUnavailable, match=r"no file descriptor left \(ulimit -n\)") as refused:
            opened.write_now(write)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refused.value.retriable
    opened.write_now(write)


def fill(storage: Storage) -> None:
    """Append records that fill many pages; the end of the storage writes the log back into the file."""
    scribe = Scribe(storage)
    info = scribe.create()
    for _ in range(FILLED_PAGES // 10):
        scribe.append(info, [Row(value=b"x" * 4_000)] * 10)


def count(tx: Tx) -> int:
    return int(tx.connection.exec_driver_sql("SELECT sum(length(value)) FROM records").scalar_one())


def overwrite(path: Path, start: int, pages: int) -> None:
    """Write noise over pages of a file."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * pages * 4_096)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "overwritten": lambda path: overwrite(path, 4_096, FILLED_PAGES // 2),
    "truncated": lambda path: os.truncate(path, FILLED_PAGES // 2 * 4_096),
    "header": lambda path: overwrite(path, 0, 1),
}


@pytest.mark.anyio
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_ends_appends_and_the_way_out_is_said_once(
    sqlite_url: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_storage(sqlite_url)) as storage:
        fill(storage)
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with closing(open_storage(sqlite_url)) as storage:
        DAMAGES[damage](path)
        call = storage.read_now
        if damage == "header":  # which open connections do not read again
            reconnect(storage)
            call = storage.write_now

        with pytest.raises(ServiceUnavailable, match="PRAGMA integrity_check shows the damage"):
            call(count)
        assert isinstance(storage.refusal, ServiceUnavailable)
        await storage.check_files()
        with pytest.raises(ServiceUnavailable, match="reports damaged data"):
            await storage.write(lambda _: None)
        assert storage.read_now(lambda tx: tx.connection.exec_driver_sql("SELECT 1").scalar_one()) == 1
        assert storage.in_outage
        assert len(caplog.messages) == 1


def test_an_error_of_the_disk_is_named(sqlite_url: str, tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not list the descriptors of a process")
    with closing(open_storage(sqlite_url)) as storage:
        fill(storage)
    with closing(open_storage(sqlite_url)) as storage:
        with (
            replaced_descriptors(tmp_path / "millrace.db", tmp_path / "millrace.db", os.O_WRONLY),
            pytest.raises(ServiceUnavailable, match="check the disk and the file system"),
        ):
            storage.read_now(count)
        assert storage.read_now(count) == FILLED_PAGES * 4_000
        assert storage.refusal is None


def test_a_commit_whose_flush_fails_has_an_unknown_outcome(opened: Storage, tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not list the descriptors of a process")
    opened.write_now(write)
    with (
        replaced_descriptors(tmp_path / "millrace.db-wal", Path(os.devnull), os.O_RDWR),
        pytest.raises(OutcomeUnknown, match="did not confirm COMMIT"),
    ):
        opened.write_now(write)
    opened.write_now(write)
    assert opened.read_now(schema.version) == schema.HEAD


def execute(tx: Tx, sql: str) -> None:
    tx.connection.exec_driver_sql(sql)


def test_missing_tables_and_columns_are_named(opened: Storage) -> None:
    for sql in ("SELECT * FROM no_such", "SELECT no_such FROM topics", "INSERT INTO topics (no_such) VALUES (1)"):
        with pytest.raises(ServiceUnavailable, match="run millrace migrate"):
            opened.write_now(execute, sql)


@pytest.mark.parametrize("error", [MemoryError(), sqlite3.OperationalError("out of memory")])
def test_a_lack_of_memory_is_a_refusal(opened: Storage, error: Exception) -> None:
    if isinstance(error, sqlite3.Error):
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_NOMEM

    def fail(_: Tx) -> None:
        raise error

    for call in (opened.read_now, opened.write_now):
        with pytest.raises(ServiceUnavailable, match="lacks memory"):
            call(fail)


CODES = {
    "PERM": Fault.NOT_WRITABLE,
    "BUSY": Fault.BUSY,
    "BUSY_SNAPSHOT": Fault.BUSY,
    "BUSY_RECOVERY": Fault.BUSY,
    "LOCKED": Fault.BUSY,
    "LOCKED_SHAREDCACHE": Fault.BUSY,
    "NOMEM": Fault.NO_RESOURCES,
    "READONLY": Fault.NOT_WRITABLE,
    "READONLY_CANTINIT": Fault.NOT_WRITABLE,
    "READONLY_DBMOVED": Fault.NOT_WRITABLE,
    "READONLY_DIRECTORY": Fault.NOT_WRITABLE,
    "READONLY_RECOVERY": Fault.NOT_WRITABLE,
    "IOERR_READ": Fault.IO_ERROR,
    "IOERR_WRITE": Fault.IO_ERROR,
    "IOERR_LOCK": Fault.IO_ERROR,
    "IOERR_SHMMAP": Fault.IO_ERROR,
    "IOERR_CORRUPTFS": Fault.IO_ERROR,
    "IOERR_SHORT_READ": Fault.CORRUPT,
    "IOERR_DATA": Fault.CORRUPT,
    "IOERR_NOMEM": Fault.NO_RESOURCES,
    "CORRUPT": Fault.CORRUPT,
    "CORRUPT_INDEX": Fault.CORRUPT,
    "NOTADB": Fault.CORRUPT,
    "FULL": Fault.DISK_FULL,
    "CANTOPEN": Fault.CANNOT_OPEN,
    "CANTOPEN_ISDIR": Fault.CANNOT_OPEN,
    "PROTOCOL": Fault.BUSY,
    "SCHEMA": Fault.CONFLICT,
    "NOLFS": Fault.IO_ERROR,
    "AUTH": Fault.NOT_WRITABLE,
    "CONSTRAINT_UNIQUE": Fault.OTHER,
    "MISMATCH": Fault.OTHER,
    "MISUSE": Fault.OTHER,
    "RANGE": Fault.OTHER,
    "TOOBIG": Fault.OTHER,
}


def error_of(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("refused")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
    return error


@pytest.mark.parametrize("name", CODES)
def test_every_result_code_has_its_class(name: str) -> None:
    fault = fault_of(error_of(name), lambda: False, lambda: False)

    assert fault is CODES[name]
    assert (fault in ERRORS) == (fault is not Fault.OTHER)
    assert is_rolled_back(error_of(name))


def test_a_full_or_read_only_disk_is_the_cause_of_an_error_of_input_and_output() -> None:
    for name in ("IOERR_WRITE", "IOERR_FSYNC", "CANTOPEN"):
        assert fault_of(error_of(name), lambda: True, lambda: False) is Fault.DISK_FULL
        assert fault_of(error_of(name), lambda: False, lambda: True) is Fault.NOT_WRITABLE
