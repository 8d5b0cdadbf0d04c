"""Fixtures for every test: a real PostgreSQL, a database on either engine, and the application on it."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from app.storage.db import schema
from app.storage.db.opening import open_storage
from tests.postgres import PostgresServer, start_postgres
from tests.serving import Serve, running
from tests.storage.reused_databases import ReusedDatabases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import httpx2

    from app.main import Application
    from app.storage.db.engine import Storage

ENGINES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]

hypothesis.settings.register_profile("millrace", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("millrace")

# Programs under test start a quarter faster from the byte code of the program before them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell without job control starts background jobs with SIGINT ignored, and nohup ignores SIGHUP. Programs under test
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run `@pytest.mark.anyio` tests on asyncio, with one loop for the session."""
    return "asyncio"


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


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'millrace.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with current tables, to copy."""
    path = tmp_path_factory.mktemp("template") / "millrace.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> Iterator[str]:
    """The name of a PostgreSQL database with current tables, to copy."""
    url = postgres.create_database()
    _migrate(url)
    yield url.rpartition("/")[2]
    postgres.drop_database(url)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """An SQLite file with current tables."""
    shutil.copyfile(sqlite_template, tmp_path / "millrace.db")
    return f"sqlite:///{tmp_path / 'millrace.db'}"


@pytest.fixture(scope="session")
def postgres_databases(postgres: PostgresServer, postgres_template: str) -> Iterator[ReusedDatabases]:
    """PostgreSQL databases with current tables that tests use one after the other."""
    databases = ReusedDatabases(postgres, postgres_template)
    yield databases
    databases.close()


@pytest.fixture
def migrated_postgres_url(postgres_databases: ReusedDatabases) -> Iterator[str]:
    """A PostgreSQL database with current tables and no records, emptied afterwards."""
    with postgres_databases.borrow() as url:
        yield url


@pytest.fixture(params=ENGINES)
def migrated_url(request: pytest.FixtureRequest) -> str:
    """A database with current tables: the test runs once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "migrated_postgres_url")
    return url


@pytest.fixture
def storage(migrated_url: str) -> Iterator[Storage]:
    """An open database with current tables, on either engine."""
    opened = open_storage(migrated_url)
    yield opened
    opened.close()


@pytest.fixture
async def serve(sqlite_url: str, anyio_backend: str) -> AsyncIterator[Serve]:
    """Return a function that starts an application, by default on SQLite, until the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> tuple[Application, httpx2.AsyncClient]:
            return await stack.enter_async_context(running({"database_url": sqlite_url} | settings))

        yield start


@pytest.fixture
async def client(migrated_url: str, serve: Serve) -> httpx2.AsyncClient:
    """A client of an application on an empty log, on either engine."""
    _, client = await serve(database_url=migrated_url)
    return client


@pytest.fixture
async def sqlite_client(serve: Serve) -> httpx2.AsyncClient:
    """A client of an application on an empty log on SQLite, for behaviour that no database can change."""
    _, client = await serve()
    return client


def _migrate(url: str) -> None:
    opened = open_storage(url)
    opened.write_now(schema.upgrade)
    opened.close()
