"""Open the database of a URL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError

from app.storage.db.engine import Storage
from app.storage.db.faults import Fault
from app.storage.db.sqlite.ballast import Ballast
from app.storage.db.sqlite.dialect import Sqlite


def open_storage(database_url: str, *, ballast_bytes: int = 0) -> Storage:
    """Open the database without checking its tables.

    The driver of PostgreSQL is imported only for PostgreSQL, so that an embedded database starts faster.

    Args:
        database_url: sqlite:///path, or postgresql://user:password@host/name.
        ballast_bytes: Size of the ballast file beside an SQLite database; see `Ballast`.

    Raises:
        ValueError: The URL has another form.
        DatabaseInUse: Another process has opened the SQLite file.
    """
    if is_postgres(database_url):
        return _open_postgres(database_url)
    dialect = Sqlite(_sqlite_url(database_url), ballast_bytes=ballast_bytes)
    try:
        ballast = Ballast(dialect.path, dialect.ballast_bytes)
    except BaseException:
        dialect.close()
        raise
    return Storage(dialect, ballast, dialect.files)


class Snapshot(NamedTuple):
    """A database at one moment, read by one transaction that cannot write.

    Attributes:
        database: The name of the database.
        location: Where the database is, without password and parameters.
        fault: Classifies an error of a statement.
    """

    connection: Connection
    database: str
    location: str
    fault: Callable[[Exception], Fault]


@contextlib.contextmanager
def open_snapshot(database_url: str) -> Iterator[Snapshot]:
    """Open a database that other processes may use, for one long read.

    It takes no lock for which a server waits, and of SQLite it changes no file. Rows of large results are fetched in
    parts if the statement has the option `yield_per`.

    Raises:
        ValueError: The URL has another form, or leads to no file.
        DatabaseOpened: See `open_reader`.
    """
    if is_postgres(database_url):
        with _postgres_snapshot(database_url) as snapshot:
            yield snapshot
        return
    from app.storage.db.sqlite.reader import begin_read, fault_of_reader, open_reader  # noqa: PLC0415 - a server does not need it

    path = sqlite_path(database_url)
    with open_reader(path) as driver:
        engine = create_engine("sqlite://", creator=lambda: driver, poolclass=NullPool)
        with engine.connect() as connection:
            begin_read(driver, path)  # SQLAlchemy has rolled back after its first statements
            yield Snapshot(connection, Sqlite.name, f"{path} (SQLite)", fault_of_reader)


def is_postgres(database_url: str) -> bool:
    """Return whether a URL leads to PostgreSQL."""
    return database_url.partition("://")[0].partition("+")[0] in {"postgresql", "postgres"}


def sqlite_path(database_url: str) -> Path:
    """Return the file of an SQLite URL.

    Raises:
        ValueError: The URL has another form.
    """
    url = _sqlite_url(database_url)
    if not url.database or url.database == ":memory:":
        raise ValueError("an SQLite database needs a file: sqlite:///millrace.db")
    return Path(url.database).resolve()


def _sqlite_url(database_url: str) -> URL:
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise ValueError("MILLRACE_DATABASE_URL is not a URL: use sqlite:///millrace.db or postgresql://…") from None
    backend = url.get_backend_name()
    if backend != "sqlite":
        raise ValueError(f"the database {backend} is not supported: use sqlite:///millrace.db or postgresql://…")
    _refuse_extra_parts(url, database_url)
    return url


@contextlib.contextmanager
def _postgres_snapshot(database_url: str) -> Iterator[Snapshot]:
    from app.storage.db.postgres.dialect import Postgres  # noqa: PLC0415 - as below
    from app.storage.db.postgres.url import parse_url  # noqa: PLC0415 - as below

    dialect = Postgres(parse_url(database_url))
    try:
        with dialect.read_engine.connect() as connection:
            connection.connection.driver_connection.statement_timeout_s = None  # type: ignore[union-attr] # SQLAlchemy's type is any driver's
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield Snapshot(connection, dialect.name, dialect.location, dialect.fault)
    finally:
        dialect.close()


def _open_postgres(database_url: str) -> Storage:
    from app.storage.db.postgres.dialect import Postgres  # noqa: PLC0415 - the import takes a tenth of an embedded start
    from app.storage.db.postgres.url import parse_url  # noqa: PLC0415 - as above

    return Storage(Postgres(parse_url(database_url)))


def _refuse_extra_parts(url: URL, given: str) -> None:
    """Refuse an SQLite URL with parts that are not the path: without them, another file would be opened."""
    if url.host or url.username or url.password or url.port:
        raise ValueError(
            "an SQLite URL has no host, user or port: write three slashes before a relative path, "
            "sqlite:///folder/millrace.db, and four before an absolute one"
        )
    if url.database and url.database.startswith("file:"):
        raise ValueError(
            "an SQLite URL has a path without file: after the slashes: write sqlite:///folder/millrace.db for a "
            "relative path and sqlite:////folder/millrace.db for an absolute one"
        )
    if "?" in given:  # what follows may be a password, such as ?key=… of an encrypted database
        raise ValueError(
            "an SQLite URL has no parameters, and this one has a ?: remove it with what follows; a file with ? in its "
            "name cannot be used, rename it"
        )
