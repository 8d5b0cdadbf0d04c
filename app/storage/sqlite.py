"""SQLite: one file, one process, one connection that writes and checkpoints, several that read."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.engine import Dialect as SqlDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from app.domain.append import PartitionEnd, Row
from app.storage.engine import Fault, Tx

_READERS = 2
_CHECKPOINT_PAGES = 4_000
_PAGE_BYTES = 4_096
_WAL_LIMIT_BYTES = 64 * 1024 * 1024
_TIDY_PAGES = 256
_RECLAIMED_PAGES = 1_000
_SPARE_BYTES = 1024 * 1024

_COLUMNS = "record_id, timestamp_ms, encoding, key, value, headers, start_bytes, max_timestamp_ms"
_APPEND = f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
_APPENDS = [
    (size, _APPEND + ", (?, ?, ?, ?, ?, ?, ?, ?)" * (size - 1))
    for size in (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
]

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class DatabaseInUse(Exception):
    """Another process has the database file."""


class Sqlite:
    """The dialect of SQLite.

    One connection writes and checkpoints: versions before 3.51.3 can corrupt the log when two do. A second
    process is refused by a lock beside the file that the system frees at once when this process ends.
    """

    name = "sqlite"
    readers = _READERS
    writers = 1
    lanes = 1
    page_reads = 1
    """The driver gives the interpreter's lock away for each row: two pages at once take longer than one by one."""
    shared = False
    driver_error: type[Exception] = sqlite3.Error
    compiler: SqlDialect = SQLiteDialect_pysqlite()

    def __init__(self, url: URL, *, ballast_bytes: int = 0) -> None:
        if not url.database or url.database == ":memory:":
            raise ValueError("an SQLite database needs a file: sqlite:///millrace.db")
        self.path = Path(url.database).resolve()
        self.ends: dict[int, PartitionEnd] | None = {}
        self._lock = _lock(self.path)
        self.write_engine = _engine(self.path, _writer_pragmas(ballast_bytes), writes=True)
        self.read_engine = _engine(self.path, _READER_PRAGMAS, writes=False)
        with self.write_engine.connect():
            """The first connection makes the file, so that readers may open it read-only."""

    def insert(self, table: Table) -> Insert:
        """Return SQLite's INSERT, which knows ON CONFLICT."""
        return insert(table)

    def fetch(self, tx: Tx, sql: str, parameters: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - the driver's
        """Run a SELECT on the driver's connection and return all rows."""
        found: list[tuple[Any, ...]] = tx.driver().execute(sql, parameters).fetchall()
        return found

    def append_records(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Insert rows of `records`, many to a statement.

        A statement gives the interpreter's lock away once, so that a busy event loop delays few of them.
        """
        execute, start = tx.driver().execute, 0
        for size, statement in _APPENDS:
            while len(rows) - start >= size:
                execute(statement, tuple(chain.from_iterable(rows[start : start + size])))
                start += size

    def lock_partitions(self, tx: Tx, partition_ids: Sequence[int]) -> None:
        """Do nothing: there is one writer."""

    def flush(self, tx: Tx) -> None:
        """Do nothing: no statement crosses a network, so none is deferred."""

    def commit(self, tx: Tx) -> None:
        """Commit."""
        tx.connection.commit()

    def fault(self, error: Exception) -> Fault:
        """Classify by SQLite's result code."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", 0)
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and self._disk_is_full()):
            return Fault.DISK_FULL
        return Fault.BUSY if primary in _BUSY else Fault.OTHER

    def tidy(self, connection: Connection) -> None:
        """Give some free pages of the file back to the system, one a statement: a step of it frees one."""
        driver: Any = connection.connection.driver_connection
        for _ in range(_TIDY_PAGES):
            driver.execute("PRAGMA incremental_vacuum(1)").close()

    def reclaim(self, connection: Connection) -> None:
        """Give free pages of the file to the disk, and then the log's, which is written back into the file."""
        driver: Any = connection.connection.driver_connection
        driver.executescript(f"PRAGMA incremental_vacuum({_RECLAIMED_PAGES})")
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def cancel(self, connections: Sequence[Connection]) -> None:
        """Do nothing: nobody else has the file."""

    def close(self) -> None:
        """Close the readers, then the writer (which checkpoints), then free the lock."""
        self.read_engine.dispose()
        self.write_engine.dispose()
        os.close(self._lock)

    def _disk_is_full(self) -> bool:
        space = os.statvfs(self.path.parent)
        return space.f_bavail * space.f_frsize < _SPARE_BYTES


_STARTED_MS = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000


def _now_ms() -> int:
    """Return the wall clock as it was at the start plus the time since: a jump of the wall clock moves no deadline."""
    return _STARTED_MS + time.monotonic_ns() // 1_000_000


def _lock(path: Path) -> int:
    lock_path = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ValueError(f"cannot write beside the database file {path}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DatabaseInUse(
            f"another millrace process has {path} open; stop it, give this one another file with "
            "--database-url sqlite:///other.db, or use PostgreSQL for several nodes"
        ) from None
    return descriptor


def _engine(path: Path, pragmas: Sequence[str], *, writes: bool) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=1 if writes else _READERS,
        max_overflow=0,
        pool_reset_on_return="rollback",
        connect_args={"check_same_thread": False, "timeout": 5.0, "cached_statements": 256},
    )

    def set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.create_function("now_ms", 0, _now_ms)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    def begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
    return engine


def _writer_pragmas(ballast_bytes: int) -> Sequence[str]:
    """Return the settings of the writer: its log stays small enough to be written back within the ballast."""
    pages = min(_CHECKPOINT_PAGES, ballast_bytes // (2 * _PAGE_BYTES)) or _CHECKPOINT_PAGES
    return (
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = OFF",
        f"wal_autocheckpoint = {pages}",
        f"journal_size_limit = {_WAL_LIMIT_BYTES}",
        "cache_size = -16384",
    )


_READER_PRAGMAS = ("query_only = ON", "wal_autocheckpoint = 0", "cache_size = -4096")
