"""The program: its commands, its help, and how it ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from app import __version__
from app.cli.consume import consume
from app.cli.groups.groups import groups
from app.cli.log.produce import produce
from app.cli.log.topics import topics
from app.cli.queues.queue_consumer import queue
from app.cli.queues.queues import queues
from app.cli.server.health import health
from app.cli.server.migrate import migrate
from app.cli.server.openapi import openapi
from app.cli.server.serve import serve
from app.cli.terminal import failure

_EPILOG = (
    f"Exit codes: 0 done, {failure.ERROR} error, 2 usage, {failure.NOT_FOUND} not found, "
    f"{failure.REFUSED} refused (4xx), {failure.UNAVAILABLE} server error or unreachable, "
    f"{failure.INTERRUPTED} interrupted."
)

program = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
program.command()(serve)
program.command()(migrate)
program.command()(openapi)
program.command()(health)
program.command()(produce)
program.command()(consume)
program.add_typer(topics, name="topics")
program.add_typer(groups, name="groups")
program.add_typer(queues, name="queues")
program.add_typer(queue, name="queue")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"millrace {__version__}")
        raise typer.Exit


@program.callback()
def millrace(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Kafka's event log over plain HTTP, on SQLite or PostgreSQL."""


def run() -> None:
    """Run the command that `sys.argv` names.

    Raises:
        SystemExit: Always, with the exit code of the epilog.
    """
    try:
        program()
    except failure.CommandFailed as error:
        print(f"millrace: {error}; {error.hint}" if error.hint else f"millrace: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        _let_go_of_a_closed_pipe()


def _let_go_of_a_closed_pipe() -> None:
    """Keep Python from complaining, at exit, of a standard output that nobody reads any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
