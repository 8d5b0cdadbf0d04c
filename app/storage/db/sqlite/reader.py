"""Read an SQLite database from another process than its server, without writing to any of its files.

A connection with `mode=ro` cannot checkpoint or delete the write-ahead log, not even when it is the last one that is
closed: SQLite needs an exclusive lock for that, which a file opened for reading does not give.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.exc import DBAPIError

from app.storage.db.faults import Fault
from app.storage.db.sqlite.result_codes import fault_of

_BUSY_S = 5.0


class DatabaseOpened(Exception):
    """A server has opened the database while it was read without locks."""


@contextlib.contextmanager
def open_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection that only reads, with an open read transaction.

    Without a write-ahead log no process has the file open, and it is read as immutable: otherwise SQLite would create
    the log and its index beside it, also beside a backup.

    Raises:
        ValueError: There is no such file, or it cannot be read.
        DatabaseOpened: A server was started meanwhile on a file without a write-ahead log; read it again.
    """
    if not path.is_file():
        raise ValueError(f"there is no database at {path}; give its place with --database-url sqlite:///path")
    immutable = not any(_beside(path, suffix).exists() for suffix in ("-wal", "-journal"))
    before = _state(path)
    uri = f"file:{quote(os.fsencode(path))}?mode=ro" + ("&immutable=1" if immutable else "")
    try:
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=_BUSY_S, isolation_level=None)
    except sqlite3.Error as error:
        raise ValueError(f"cannot read the database {path}: {error}") from None
    try:
        begin_read(connection, path)
        yield connection
    finally:
        connection.close()
    if immutable and (_beside(path, "-wal").exists() or _state(path) != before):
        raise DatabaseOpened(f"a server has opened {path} meanwhile, so that the result is not valid; run it again")


def begin_read(connection: sqlite3.Connection, path: Path) -> None:
    """Begin the read transaction, unless it has begun.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        connection.execute("PRAGMA query_only = ON").close()
        if not connection.in_transaction:
            connection.execute("BEGIN").close()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # the read transaction begins here
    except sqlite3.Error as error:
        raise ValueError(f"cannot read the database {path}: {error}") from None


def fault_of_reader(error: Exception) -> Fault:
    """Classify an error of a statement that reads."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return fault_of(cause, disk_is_full=bool, disk_is_read_only=bool)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
