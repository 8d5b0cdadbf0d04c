"""Commands without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import Cli, free_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def alone(tmp_path: Path) -> Cli:
    """Commands in an empty folder, with the URL of a port that no server listens on."""
    return Cli(tmp_path, f"http://127.0.0.1:{free_port()}")
