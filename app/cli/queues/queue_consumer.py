"""`millrace queue work`: runs a command for each record of a queue."""

from __future__ import annotations

import shutil
import signal
from typing import Annotated

import typer

from app.cli.client import Client, Verbose
from app.cli.queues.queues import Queue, queue_path
from app.cli.server_url import Url
from app.cli.terminal.failure import INTERRUPTED, CommandFailed
from app.cli.terminal.output import print_message
from app.cli.terminal.shutdown_signals import ShutdownSignals

queue = typer.Typer(no_args_is_help=True, help="Process the records of a queue.")


@queue.callback()
def _group() -> None:
    """Keep `work` a subcommand: Typer runs the only command of a group without its name."""


@queue.command()
def work(
    name: Queue,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", help="Command and its arguments.")],
    url: Url,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=256, help="Most commands at once.")] = 1,
    backoff_ms: Annotated[
        int,
        typer.Option(min=0, max=3_600_000, help="Delay after the first exit code 75 of a record; doubled each time."),
    ] = 1_000,
    max_wait_ms: Annotated[
        int, typer.Option(min=100, max=60_000, help="Longest wait of each request for records.")
    ] = 20_000,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="Exit when no record is available.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run a command for each record: its value on standard input, the rest in MILLRACE_… variables.

    Exit code 0 accepts the record, 75 releases it with a delay, any other code releases it at once; after the queue's
    max_delivery_count it is archived. Locks are renewed while commands run. While the server is unavailable, requests
    are repeated. Ctrl-C lets commands finish and releases the other records; a second Ctrl-C ends the commands
    (SIGTERM), a third kills them.
    """
    from app.cli.queues.queue_worker import QueueWorker

    if shutil.which(command[0]) is None:
        raise CommandFailed(f"cannot run {command[0]}: there is no such command")
    with ShutdownSignals(raise_second=False) as shutdown, Client(url, verbose=verbose) as client:
        description = client.send("GET", queue_path(name)).json()
        worker = QueueWorker(client, description, command, shutdown, concurrency=concurrency, backoff_ms=backoff_ms)
        try:
            worker.run(max_wait_ms=0 if until_empty else max_wait_ms, until_empty=until_empty)
        finally:
            print_message(worker.summary)
    if shutdown.signal_number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)
