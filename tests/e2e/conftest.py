"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import hashlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.node import Node, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres import PostgresServer

NO_POLL = {"poll_interval_ms": 60_000}
"""A node that looks by itself so rarely that what wakes its reads within 20 s is a notice."""


@pytest.fixture
def seed() -> int:
    """Give the seed of a test's chances and print it; MILLRACE_SEED repeats them."""
    chosen = int(os.environ.get("MILLRACE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"MILLRACE_SEED={chosen}")
    return chosen


@pytest.fixture(scope="session")
def shared_url(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The database of `nodes`."""
    with postgres.fresh_database(template=postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def nodes(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Two nodes on one PostgreSQL that hear of each other by notices alone; each test takes a topic of its own."""
    directory = tmp_path_factory.mktemp("nodes")
    pair = Node(shared_url, directory, settings=NO_POLL), Node(shared_url, directory, settings=NO_POLL)
    with running(*pair):
        yield pair


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """The name of a topic that no other test has."""
    return "topic-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
