"""A server with HTTPS that needs keys, and commands that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.broker.outbound.certificates import Authority, make_authority
from tests.cli.processes import Cli, Serving, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADMIN_KEY = "an admin's key, of 32 characters".replace(" ", "-")


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="package")
def secure_server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Serving]:
    options = ("--port", "0", "--tls-cert", str(authority.certificate_file()))
    with serving(tmp_path_factory.mktemp("server"), *options, MILLRACE_ADMIN_KEY=ADMIN_KEY) as running:
        yield running


@pytest.fixture
def admin(secure_server: Serving, authority: Authority, tmp_path: Path) -> Cli:
    """Commands with the key of an admin."""
    variables = {"MILLRACE_CA_FILE": str(authority.ca_file), "MILLRACE_API_KEY": ADMIN_KEY}
    return Cli(tmp_path, secure_server.url, variables)
