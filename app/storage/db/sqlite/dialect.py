"""SQLite: one file and one process, one connection for writes and checkpoints, several for reads."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Sequence
from functools import cache
from itertools import chain
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Executable, Table, create_engine, event
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.engine import Dialect as SqlDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from app.domain.log.append import KeyId, KeyRow, Row
from app.storage.db.dialect import Gauge
from app.storage.db.faults import Fault
from app.storage.db.sqlite.ballast import ballast_size
from app.storage.db.sqlite.files import DatabaseFiles
from app.storage.db.sqlite.result_codes import fault_of, is_rolled_back
from app.storage.db.transaction import Statement, Tx

_READERS = 2
_CHECKPOINT_PAGES = 4_000
_PAGE_BYTES = 4_096
_WAL_LIMIT_BYTES = 64 * 1024 * 1024
_VACUUM_PAGES = 256
_FREED_PAGES = 1_000
_SPARE_BYTES = 1024 * 1024

_COLUMNS = "record_id, timestamp_ms, encoding, key, value, headers, start_bytes, max_timestamp_ms"
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?)"
_NO_ROW: Row = (None,) * 8  # type: ignore[assignment] # the INSERT skips a row whose id is NULL
_MOST_ROWS = 2_048
"""Rows of one statement: 16,384 parameters, of at most 32,766."""

_INCREMENTAL = 2
"""The value of `auto_vacuum`. It is set only once, because setting it writes a page, which a full disk refuses."""
_INDEX_BYTES = 32_768
_INDEX_FRAMES = 4_062
_FRAME_BYTES = 24 + _PAGE_BYTES
"""The index of the write-ahead log has so many bytes for each so many frames of the log. SQLite builds it at start."""

_FIND_KEY = """
SELECT topic_id, key_hash, fingerprint, result, created_at_ms FROM idempotency_keys
WHERE topic_id = ? AND key_hash = ? AND result IS NOT NULL
"""
_SAVE_KEY = """
INSERT OR REPLACE INTO idempotency_keys (topic_id, key_hash, fingerprint, result, created_at_ms) VALUES (?, ?, ?, ?, ?)
"""

_BEGIN = Statement("BEGIN IMMEDIATE")

_OWN_TABLES = {"alembic_version", "topics"}


class Sqlite:
    """The dialect of SQLite.

    A single connection writes and checkpoints: with two, versions before 3.51.3 can corrupt the write-ahead log. A lock
    file beside the database refuses a second process; the system releases the lock when this process ends.
    """

    name = "sqlite"
    readers = _READERS
    writers = 1
    lanes = 1
    page_reads = 1
    """The driver releases the interpreter's lock for each row: two reads at once take longer than one by one."""
    shared = False
    begin_statements: Sequence[Statement] = (_BEGIN,)
    driver_error: type[Exception] = sqlite3.Error
    compiler: SqlDialect = SQLiteDialect_pysqlite()

    def __init__(self, url: URL, *, ballast_bytes: int = 0) -> None:
        if not url.database or url.database == ":memory:":
            raise ValueError("an SQLite database needs a file: sqlite:///millrace.db")
        self.files = DatabaseFiles(url.database)
        self.path = self.files.path
        self.location = f"{self.path} (SQLite)"
        with contextlib.ExitStack() as opened:
            opened.callback(self.files.close)
            self.ballast_bytes = ballast_size(self.path, ballast_bytes)
            self.write_engine = _engine(self.files, _writer_pragmas(self.ballast_bytes), writes=True)
            opened.callback(self.write_engine.dispose)
            self.read_engine = _engine(self.files, _READER_PRAGMAS, writes=False)
            self._guard = self._connect_guard()
            opened.callback(self._guard.close)
            opened.callback(self.read_engine.dispose)
            self._refuse_unreadable()
            self._open_writer()
            self._guard.execute("SELECT * FROM sqlite_master").fetchall()
            self._open_readers()
            self.files.watch_logs()
            self._opened = opened.pop_all()

    def insert(self, table: Table) -> Insert:
        """Return the INSERT of SQLite, which has ON CONFLICT."""
        return insert(table)

    def upsert(self, table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Executable:
        """Return the statement that inserts rows, and sets columns of rows that exist; it is built once."""
        return _upsert(table, keys, columns)

    def fetch(self, tx: Tx, sql: str, parameters: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - the driver's
        """Run a SELECT on the driver's connection and return all rows."""
        found: list[tuple[Any, ...]] = tx.driver().execute(sql, parameters).fetchall()
        return found

    def defer(self, tx: Tx, sql: str, parameters: Any) -> None:  # noqa: ANN401 - the driver's
        """Run a statement at once on the driver's connection."""
        tx.driver().execute(sql, parameters)

    def append_records(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Insert rows of `records`, with as many rows per statement as SQLite allows."""
        for start in range(0, len(rows), _MOST_ROWS):
            tx.deferred.append(_append(rows[start : start + _MOST_ROWS]))

    def lock_keys(self, tx: Tx, ids: Sequence[KeyId], now_ms: int) -> list[KeyRow]:  # noqa: ARG002 - PostgreSQL's
        """Return the rows of the keys that have a result: there is one writer, and no row to lock."""
        execute = tx.driver().execute
        return [row for key_id in ids for row in execute(_FIND_KEY, key_id)]

    def save_keys(self, tx: Tx, rows: Sequence[KeyRow]) -> None:
        """Write the rows at once."""
        tx.driver().executemany(_SAVE_KEY, rows)

    def lock_partitions(self, tx: Tx, partition_ids: Sequence[int]) -> None:
        """Do nothing: there is one writer."""

    def flush(self, tx: Tx) -> None:
        """Run the deferred statements, of which the first may be BEGIN."""
        statements, tx.deferred = tx.deferred, []
        execute = tx.driver().execute
        for statement in statements:
            execute(*statement)

    def commit(self, tx: Tx) -> None:
        """Run the deferred statements, and commit.

        The only statement of a transaction runs without BEGIN and COMMIT. Each statement releases the interpreter's
        lock, and this thread waits for a busy event loop to get it back. Without BEGIN, SQLite also creates no file
        for a statement journal.
        """
        if len(tx.deferred) == 2 and tx.deferred[0] is _BEGIN:
            del tx.deferred[0]
        if tx.deferred != [_BEGIN]:
            tx.connection.commit()

    def fault(self, error: Exception) -> Fault:
        """Classify an error by the result code of SQLite."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        return fault_of(cause, self._disk_is_full, self._disk_is_read_only)

    def is_rolled_back(self, error: Exception) -> bool:
        """Return whether an error of COMMIT says that nothing was written."""
        return is_rolled_back(error.orig if isinstance(error, DBAPIError) else error)

    def slow_statements(self, tx: Tx, seconds: float | None) -> contextlib.nullcontext[None]:
        """Do nothing: statements have no time limit."""
        _ = tx, seconds
        return contextlib.nullcontext()

    def vacuum(self, connection: Connection) -> None:
        """Return some free pages of the file to the file system, one per statement: each step frees one page."""
        driver: Any = connection.connection.driver_connection
        for _ in range(_VACUUM_PAGES):
            driver.execute("PRAGMA incremental_vacuum(1)").close()

    def free_disk(self, connection: Connection, missing_bytes: int) -> None:
        """Write the log back into the file, and return free pages of the file to the disk.

        The log is truncated if that ends the lack of space. Otherwise it keeps its space for deletions, because other
        programs could take it.
        """
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        with contextlib.suppress(sqlite3.OperationalError):
            driver.executescript(f"PRAGMA incremental_vacuum({_FREED_PAGES})")
        mode = "TRUNCATE" if self._log_bytes() >= missing_bytes else "RESTART"
        driver.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def gauges(self, tx: Tx) -> Sequence[Gauge]:  # noqa: ARG002 - PostgreSQL's
        """Return the sizes of the file and of the write-ahead log."""
        return (
            Gauge("sqlite_file_bytes", "Size of the database file.", _size_of(str(self.path))),
            Gauge("sqlite_wal_bytes", "Size of the write-ahead log.", _size_of(f"{self.path}-wal")),
        )

    def save_log(self, connection: Connection) -> None:
        """Write the log back into the file that is open, if that is of use after the file was moved."""
        if self.files.set_log_aside():
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def sessions_shared(self) -> str | None:
        """Return None: the connections are those of this process."""
        return None

    def cancel(self, connections: Sequence[Connection]) -> None:
        """Do nothing: no other process has the file."""

    def close(self) -> None:
        """Close the readers, then the writer, which checkpoints, and release the lock."""
        self._opened.close()

    def _connect_guard(self) -> sqlite3.Connection:
        """Open an idle connection: SQLite keeps the write-ahead log while a connection is open."""
        try:
            return sqlite3.connect(self.path, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def _unusable(self, error: BaseException | None) -> ValueError:
        primary = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if primary == sqlite3.SQLITE_READONLY:
            return ValueError(
                f"the database {self.path} cannot be written: {error}; give this user the right to write the file, its "
                "-wal and -shm, and its folder"
            )
        if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return ValueError(
                f"the database {self.path} cannot be used: {error}; copy its files, and restore a backup or repair the "
                "copy (PRAGMA integrity_check shows the damage)"
            )
        return ValueError(f"the database {self.path} cannot be used: {error}")

    def _open_writer(self) -> None:
        """Create the write-ahead log, so that readers can open it, and refuse a file that cannot be written."""
        try:
            with self.write_engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
        except DBAPIError as error:
            raise self._unusable(error.orig) from None

    def _open_readers(self) -> None:
        """Fill the pool: once the file is moved, no connection can be opened, and the open ones still read."""
        with contextlib.ExitStack() as open_readers:
            for _ in range(_READERS):
                open_readers.enter_context(self.read_engine.connect())

    def _refuse_unreadable(self) -> None:
        """Refuse the database of another program before a setting changes it, and one that cannot be read."""
        try:
            tables = {name for (name,) in self._guard.execute("SELECT name FROM sqlite_master")}
        except sqlite3.Error as error:
            if self.fault(error) is Fault.DISK_FULL:
                raise ValueError(
                    f"the disk of {self.path} is full: SQLite needs {self._missing_bytes()} bytes more to read the "
                    "write-ahead log; free them and start again"
                ) from None
            raise self._unusable(error) from None
        if tables and not tables >= _OWN_TABLES:
            raise ValueError(
                f"{self.path} is the SQLite database of another program; give another file with --database-url"
            )

    def _log_bytes(self) -> int:
        log = self.path.with_name(self.path.name + "-wal")
        return log.stat().st_size if log.exists() else 0

    def _missing_bytes(self) -> int:
        """Return how many bytes the index of the write-ahead log lacks."""
        log, index = (self.path.with_name(self.path.name + suffix) for suffix in ("-wal", "-shm"))
        needed = _INDEX_BYTES * (log.stat().st_size // _FRAME_BYTES // _INDEX_FRAMES + 1)
        allocated = index.stat().st_blocks * 512 if index.exists() else 0
        space = os.statvfs(self.path.parent)
        return max(needed - allocated - space.f_bavail * space.f_frsize, _PAGE_BYTES)

    def _disk_is_full(self) -> bool:
        """Return whether the disk lacks space, or a quota or a limit of the size of files refuses more."""
        try:
            space = os.statvfs(self.path.parent)
            if space.f_bavail * space.f_frsize < _SPARE_BYTES:
                return True
            with TemporaryFile(dir=self.path.parent) as probe:
                os.posix_fallocate(probe.fileno(), max(self.path.stat().st_size, self._log_bytes()), _SPARE_BYTES)
        except OSError as error:
            return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        return False

    def _disk_is_read_only(self) -> bool:
        """Return whether the file system is read-only now, as after an error of the disk."""
        try:
            return bool(os.statvfs(self.path.parent).f_flag & os.ST_RDONLY)
        except OSError:
            return False


def _size_of(path: str) -> int:
    """Return the size of a file, 0 if it does not exist."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - the path is a string with a suffix
    except OSError:
        return 0


def _append(rows: Sequence[Row]) -> Statement:
    """Return the INSERT of some rows.

    It is filled up with empty rows, which keeps the number of prepared statements small: eight per power of two.
    """
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
    """Return the wall clock at the start plus the time since: a jump of the wall clock does not change deadlines."""
    return _STARTED_MS + time.monotonic_ns() // 1_000_000


def _engine(files: DatabaseFiles, pragmas: Sequence[str], *, writes: bool) -> Engine:
    def connect() -> sqlite3.Connection:
        """Open the file, and never create one at the path of a file that was moved or deleted."""
        files.refuse_other_database()
        uri = f"file:{quote(os.fsencode(files.path))}?mode=rw"
        return sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=5.0, cached_statements=256)

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=1 if writes else _READERS,
        max_overflow=0,
        pool_reset_on_return="rollback",
    )

    def set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.create_function("now_ms", 0, _now_ms)
        if writes and connection.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL").close()
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
    """Return the settings of the writer. A checkpoint starts while the log still fits into the ballast."""
    pages = min(_CHECKPOINT_PAGES, ballast_bytes // (2 * _PAGE_BYTES)) or _CHECKPOINT_PAGES
    return (
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = OFF",
        "temp_store = MEMORY",
        f"wal_autocheckpoint = {pages}",
        f"journal_size_limit = {_WAL_LIMIT_BYTES}",
        "cache_size = -16384",
    )


_READER_PRAGMAS = ("query_only = ON", "wal_autocheckpoint = 0", "cache_size = -4096")


@cache
def _upsert(table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Insert:
    statement = insert(table)
    values = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=list(keys), set_=values)
