"""Fixtures of the server's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.tiny_server_process import TinyServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[TinyServer]:
    """A server with the default limits."""
    with running() as each:
        yield each


@pytest.fixture(scope="module")
def short_timeouts() -> Iterator[TinyServer]:
    """A server with timeouts of 200 ms."""
    with running(header_timeout_ms=200, body_timeout_ms=200, keep_alive_ms=200, linger_ms=200) as each:
        yield each
