"""A server that may post to this machine, commands that use it, and receivers."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.cli.processes import Cli, Serving, await_line, serving

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class Listening(Protocol):
    """A function that runs `millrace listen` with these options; gives its process and its URL."""

    def __call__(self, *options: str) -> AbstractContextManager[tuple[subprocess.Popen[bytes], str]]: ...


@pytest.fixture(scope="package")
def posting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, "--port", "0", MILLRACE_WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8") as running:
        yield running


@pytest.fixture
def posting(posting_server: Serving, tmp_path: Path) -> Cli:
    """Commands that use a server with webhooks to this machine."""
    return Cli(tmp_path, posting_server.url)


@pytest.fixture
def listening(posting: Cli) -> Listening:
    @contextmanager
    def run(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        with posting.started("listen", *options) as process:
            line = await_line(process, containing="listening on")
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found is not None
            yield process, found[0]

    return run
