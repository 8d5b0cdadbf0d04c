"""Nodes without background tasks, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.broker.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def node(migrated_url: str, anyio_backend: str) -> Iterator[Node]:
    """One node, on each of both databases."""
    each = Node(migrated_url)
    yield each
    each.storage.close()


@pytest.fixture
def nodes(migrated_postgres_url: str, anyio_backend: str) -> Iterator[tuple[Node, Node]]:
    """Two nodes on one PostgreSQL database."""
    first, second = Node(migrated_postgres_url), Node(migrated_postgres_url)
    yield first, second
    first.storage.close()
    second.storage.close()
