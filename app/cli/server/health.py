"""`millrace health`: readiness check for scripts and containers."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.client import Client, ServerRefused, Unreachable, Verbose
from app.cli.server_url import Url
from app.cli.terminal.failure import CommandFailed


def health(
    url: Url,
    timeout: Annotated[float, typer.Option(min=0.1, help="Longest wait for the answer, in seconds.")] = 2.0,
    verbose: Verbose = False,
) -> None:
    """Check whether a server is ready: exit code 0 if it is, otherwise 1."""
    with Client(url, verbose=verbose, timeout_s=timeout) as client:
        try:
            client.send("GET", "/readyz")
        except (ServerRefused, Unreachable) as error:
            raise CommandFailed(str(error), hint=error.hint) from error
    print("ready")
