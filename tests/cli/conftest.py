"""A real server, and commands that use it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import Cli, Serving, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for all tests; each test has its own topics."""
    with serving(tmp_path_factory.mktemp("server"), "--port", "0") as running:
        yield running


@pytest.fixture
def cli(server: Serving, tmp_path: Path) -> Cli:
    return Cli(tmp_path, server.url)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic name that no other test uses."""
    return re.sub(r"[^a-zA-Z0-9._-]", "-", request.node.name)
