"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import hashlib
import inspect
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.raw_http import close_connections
from tests.e2e.support.server_process import NOTICES_ONLY, ServerProcess, running
from tests.history.load import close_loads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.postgres import PostgresServer


@pytest.fixture(autouse=True)
def _connections_end(request: pytest.FixtureRequest) -> None:
    """End the connections of a test, also of one that failed: the next tests would get warnings of them."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_closed_connections")


@pytest.fixture
async def _closed_connections(anyio_backend: str) -> AsyncIterator[None]:
    yield
    await close_connections()
    await close_loads()


@pytest.fixture
def seed() -> int:
    """The seed of a test's random numbers, printed; MILLRACE_SEED repeats it."""
    chosen = int(os.environ.get("MILLRACE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"MILLRACE_SEED={chosen}")
    return chosen


@pytest.fixture(scope="session")
def shared_url(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The database of `nodes`."""
    with postgres.fresh_database(template=postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def nodes(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two nodes on one PostgreSQL that wake each other by notices only; each test takes a topic of its own."""
    directory = tmp_path_factory.mktemp("nodes")
    pair = (
        ServerProcess(shared_url, directory, settings=NOTICES_ONLY),
        ServerProcess(shared_url, directory, settings=NOTICES_ONLY),
    )
    with running(*pair):
        yield pair


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """The name of a topic that no other test has."""
    return "topic-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
