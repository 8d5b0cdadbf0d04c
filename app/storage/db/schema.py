"""The revision of the tables, and their upgrade by Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from app.storage.db.transaction import Tx

HEAD = "0011"
"""The newest revision of the migrations; a test compares them."""

_NO_TIMEOUT = text("SET LOCAL lock_timeout = 0")
_LOCK = text("SELECT pg_advisory_xact_lock(19794, 0)")
_WRITE = text("DELETE FROM topics WHERE topic_id < 0")
_VERSION = text("SELECT version_num FROM alembic_version")


class SchemaNotCurrent(Exception):
    """The tables have another revision than this release needs."""


def version(tx: Tx) -> str | None:
    """Return the revision of the tables, or None in an empty database."""
    if not inspect(tx.connection).has_table("alembic_version"):
        return None
    return tx.connection.execute(_VERSION).scalar_one_or_none()


def check_writable(tx: Tx) -> None:
    """Run a write that changes no row. It fails if the database is read-only."""
    tx.connection.execute(_WRITE)


def check(tx: Tx) -> None:
    """Refuse tables that are not at the newest revision.

    Raises:
        SchemaNotCurrent: With the command that upgrades them.
    """
    if (found := version(tx)) != HEAD:
        raise SchemaNotCurrent(
            f"the database is at revision {found or 'none'} and this release needs {HEAD}; "
            "run millrace migrate with the same database URL"
        )


def upgrade(tx: Tx) -> bool:
    """Upgrade the tables to the newest revision, in one process at a time. Return whether they were changed.

    Alembic is imported only if there is an upgrade: the import takes a third of a second.
    """
    with tx.dialect.slow_statements(tx, None):
        if tx.dialect.shared:
            tx.connection.execute(_NO_TIMEOUT)
            tx.connection.execute(_LOCK)
        if version(tx) == HEAD:
            return False
        _run_alembic(tx.connection)
        return True


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - not imported for current tables
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def migrations_path() -> Path:
    """Return the folder of the migrations: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
