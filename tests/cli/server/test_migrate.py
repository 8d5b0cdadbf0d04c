"""`millrace migrate`."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from app.storage.db.schema import HEAD

if TYPE_CHECKING:
    from tests.cli.processes import Cli

CREATED = f"created the tables: revision {HEAD}\n".encode()
CURRENT = f"the tables are current: revision {HEAD}\n".encode()


def test_migrate_creates_the_tables_once(alone: Cli) -> None:
    assert alone.ok("migrate", "--database-url", "sqlite:///x.db").out == CREATED
    assert alone.ok("migrate", "--database-url", "sqlite:///x.db").out == CURRENT
    with sqlite3.connect(alone.folder / "x.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
    connection.close()


@pytest.mark.postgres
def test_migrate_creates_the_tables_of_postgresql_once(postgres_url: str, alone: Cli) -> None:
    assert alone.ok("migrate", "--database-url", postgres_url).out == CREATED
    assert alone.ok("migrate", "--database-url", postgres_url).out == CURRENT
