"""SQLite: one file, one process, one connection that writes and checkpoints, several that read."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Sequence
from functools import cache
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

from app.domain.log.append import Row
from app.storage.db.engine import Fault, Statement, Tx

_READERS = 2
_CHECKPOINT_PAGES = 4_000
_PAGE_BYTES = 4_096
_WAL_LIMIT_BYTES = 64 * 1024 * 1024
_TIDY_PAGES = 256
_RECLAIMED_PAGES = 1_000
_SPARE_BYTES = 1024 * 1024

_COLUMNS = "record_id, timestamp_ms, encoding, key, value, headers, start_bytes, max_timestamp_ms"
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?)"
_NO_ROW: Row = (None,) * 8  # type: ignore[assignment] # whose id is NULL
_MOST_ROWS = 2_048
"""In one statement: 16,384 parameters, of 32,766 that SQLite takes."""

_BEGIN = Statement("BEGIN IMMEDIATE")

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
    opening: Sequence[Statement] = (_BEGIN,)
    driver_error: type[Exception] = sqlite3.Error
    compiler: SqlDialect = SQLiteDialect_pysqlite()

    def __init__(self, url: URL, *, ballast_bytes: int = 0) -> None:
        if not url.database or url.database == ":memory:":
            raise ValueError("an SQLite database needs a file: sqlite:///millrace.db")
        self.path = Path(url.database).resolve()
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

    def defer(self, tx: Tx, sql: str, parameters: Any) -> None:  # noqa: ANN401 - the driver's
        """Run a statement on the driver's connection at once."""
        tx.driver().execute(sql, parameters)

    def append_records(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Insert rows of `records`, as many to a statement as can be."""
        for start in range(0, len(rows), _MOST_ROWS):
            tx.deferred.append(_append(rows[start : start + _MOST_ROWS]))

    def lock_partitions(self, tx: Tx, partition_ids: Sequence[int]) -> None:
        """Do nothing: there is one writer."""

    def flush(self, tx: Tx) -> None:
        """Begin, where that has not been done, and run what was deferred."""
        statements, tx.deferred = tx.deferred, []
        execute = tx.driver().execute
        for statement in statements:
            execute(*statement)

    def commit(self, tx: Tx) -> None:
        """Run what was deferred, and commit.

        A statement that is all of a transaction commits itself. It gives the interpreter's lock away once, for
        which a busy event loop lets this thread wait; BEGIN, INSERT and COMMIT do so three times. And it needs
        no journal of its own, for which SQLite would make a file.
        """
        if len(tx.deferred) == 2 and tx.deferred[0] is _BEGIN:
            del tx.deferred[0]
        if tx.deferred != [_BEGIN]:
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


def _append(rows: Sequence[Row]) -> Statement:
    """Return the INSERT of some rows, filled up so that there are few statements to prepare: eight to an octave."""
    step = 1 << max(len(rows).bit_length() - 4, 0)
    missing = -len(rows) % step
    values = tuple(chain.from_iterable((*rows, *(missing * [_NO_ROW]))))
    return Statement(_insert_of(len(rows) + missing), values)


@cache
def _insert_of(size: int) -> str:
    values = ", ".join([_ROW] * size)
    return (
        f"WITH given ({_COLUMNS}) AS (VALUES {values})"  # noqa: S608 - constants
        f" INSERT INTO records ({_COLUMNS}) SELECT * FROM given WHERE record_id IS NOT NULL"
    )


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
        driver.execute("BEGIN")

    event.listen(engine, "connect", set_up)
    if not writes:
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
        "temp_store = MEMORY",
        f"wal_autocheckpoint = {pages}",
        f"journal_size_limit = {_WAL_LIMIT_BYTES}",
        "cache_size = -16384",
    )


_READER_PRAGMAS = ("query_only = ON", "wal_autocheckpoint = 0", "cache_size = -4096")
