"""Whether the tables are current, and bringing them there by Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from app.storage.db.engine import Tx

HEAD = "0005"
"""Newest revision of the migrations; a test holds it against them."""

_NO_TIMEOUT = text("SET LOCAL lock_timeout = 0")
_LOCK = text("SELECT pg_advisory_xact_lock(19794, 0)")
_VERSION = text("SELECT version_num FROM alembic_version")


class SchemaNotCurrent(Exception):
    """The tables are older or newer than this release."""


def version(tx: Tx) -> str | None:
    """Return the revision of the tables, or None in an empty database."""
    if not inspect(tx.connection).has_table("alembic_version"):
        return None
    return tx.connection.execute(_VERSION).scalar_one_or_none()


def check(tx: Tx) -> None:
    """Refuse tables that are not at the newest revision.

    Raises:
        SchemaNotCurrent: With the command that brings them there.
    """
    if (found := version(tx)) != HEAD:
        raise SchemaNotCurrent(
            f"the database is at revision {found or 'none'} and this release needs {HEAD}; "
            "run millrace migrate with the same database URL"
        )


def upgrade(tx: Tx) -> bool:
    """Bring the tables to the newest revision, one process at a time. Return whether anything was done.

    Alembic is imported only when it is needed: it costs a third of a second at start.
    """
    if tx.dialect.shared:
        tx.connection.execute(_NO_TIMEOUT)
        tx.connection.execute(_LOCK)
    if version(tx) == HEAD:
        return False
    _run_alembic(tx.connection)
    return True


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - a database that is up to date starts without it
    from alembic.config import Config  # noqa: PLC0415 - likewise

    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def migrations_path() -> Path:
    """Return the folder of the migrations: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
