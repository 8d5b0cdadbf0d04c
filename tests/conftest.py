"""Fixtures for every test: a real PostgreSQL, and a fresh database on either engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.postgres import PostgresServer, start_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL, shared by the session."""
    with start_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty PostgreSQL database, dropped afterwards."""
    with postgres.fresh_database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'millrace.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
