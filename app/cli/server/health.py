"""`millrace health`: whether a server is ready, for scripts and container health checks."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.client import Client, ServerRefused, Unreachable, Url, Verbose
from app.cli.terminal.failure import CommandFailed


def health(
    url: Url,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 2.0,
    verbose: Verbose = False,
) -> None:
    """Ask a server whether it is ready: exit code 0 if it is, else 1."""
    with Client(url, verbose=verbose, timeout_s=timeout) as client:
        try:
            client.send("GET", "/readyz")
        except (ServerRefused, Unreachable) as error:
            raise CommandFailed(str(error)) from error
    print("ready")
