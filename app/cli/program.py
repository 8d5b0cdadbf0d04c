"""The `millrace` program: its commands, its help and its exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from app import __version__
from app.cli.access.acls import acls
from app.cli.access.keys import keys
from app.cli.consume import consume
from app.cli.credentials import CA_FILE
from app.cli.groups.groups import groups
from app.cli.log.produce import produce
from app.cli.log.topics import topics
from app.cli.queues.queue_consumer import queue
from app.cli.queues.queues import queues
from app.cli.server.backup import backup, restore
from app.cli.server.health import health
from app.cli.server.migrate import migrate
from app.cli.server.nodes import nodes
from app.cli.server.openapi import openapi
from app.cli.server.secrets import secrets
from app.cli.server.serve import serve
from app.cli.server.verify import verify
from app.cli.sources.sources import sources
from app.cli.terminal import failure
from app.cli.terminal.output import discard_stdout, print_message
from app.cli.usage_hints import ProgramGroup
from app.cli.webhooks.listen import listen
from app.cli.webhooks.records import records
from app.cli.webhooks.webhooks import webhooks

_EPILOG = (
    f"Exit codes: 0 done, {failure.ERROR} error, 2 usage, {failure.NOT_FOUND} not found, "
    f"{failure.REFUSED} refused (4xx), {failure.UNAVAILABLE} server error or unreachable, "
    f"{failure.INTERRUPTED} interrupted."
)

program = typer.Typer(
    cls=ProgramGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
program.command()(serve)
program.command()(migrate)
program.command()(openapi)
program.command()(health)
program.command()(verify)
program.command()(backup)
program.command()(restore)
program.command()(nodes)
program.command()(produce)
program.command()(consume)
program.command()(listen)
program.add_typer(topics, name="topics", cls=ProgramGroup)
program.add_typer(groups, name="groups", cls=ProgramGroup)
program.add_typer(queues, name="queues", cls=ProgramGroup)
program.add_typer(queue, name="queue", cls=ProgramGroup)
program.add_typer(sources, name="sources", cls=ProgramGroup)
webhooks.add_typer(records)
program.add_typer(webhooks, name="webhooks", cls=ProgramGroup)
program.add_typer(keys, name="keys", cls=ProgramGroup)
program.add_typer(acls, name="acls", cls=ProgramGroup)
program.add_typer(secrets, name="secrets", cls=ProgramGroup)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"millrace {__version__}")
        raise typer.Exit


def _set_ca_file(path: str | None) -> None:
    if path is not None:
        os.environ[CA_FILE] = path  # also for the commands that `queue work` runs


@program.callback()
def millrace(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    ca_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", callback=_set_ca_file, help="CA certificates of servers with HTTPS (MILLRACE_CA_FILE)."
        ),
    ] = None,
) -> None:
    """Kafka's event log over plain HTTP, on SQLite or PostgreSQL.

    Client commands send the key or token in MILLRACE_API_KEY.
    """


def run() -> None:
    """Run the command in `sys.argv`.

    Raises:
        SystemExit: Always, with one of the exit codes in the epilog.
    """
    try:
        program()
    except failure.CommandFailed as error:
        print_message(f"{error}; {error.hint}" if error.hint else str(error))
        sys.exit(error.exit_code)
    finally:
        _flush_stdout()


def _flush_stdout() -> None:
    """Flush standard output, so that the flush at exit cannot fail on a closed pipe."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
