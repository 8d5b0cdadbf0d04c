"""A real server, and the command line run as a process against it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.running import Cli, Serving, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for all tests: each uses topics of its own."""
    with serving(tmp_path_factory.mktemp("server"), "--port", "0") as running:
        yield running


@pytest.fixture
def cli(server: Serving, tmp_path: Path) -> Cli:
    return Cli(tmp_path, server.url)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return re.sub(r"[^a-zA-Z0-9._-]", "-", request.node.name)
