"""Open the database of a URL."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.storage.db.engine import Storage
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
    scheme = database_url.partition("://")[0].partition("+")[0]
    if scheme in {"postgresql", "postgres"}:
        return _open_postgres(database_url)
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise ValueError("MILLRACE_DATABASE_URL is not a URL: use sqlite:///millrace.db or postgresql://…") from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        _refuse_extra_parts(url, database_url)
        dialect = Sqlite(url, ballast_bytes=ballast_bytes)
        try:
            ballast = Ballast(dialect.path, dialect.ballast_bytes)
        except BaseException:
            dialect.close()
            raise
        return Storage(dialect, ballast, dialect.files)
    raise ValueError(f"the database {backend} is not supported: use sqlite:///millrace.db or postgresql://…")


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
