"""`millrace queue work`: a command for each record of a queue."""

from __future__ import annotations

import shutil
import signal
from typing import Annotated

import typer

from app.cli.client import Client, Url, Verbose
from app.cli.queues.queues import Queue, queue_path
from app.cli.terminal.failure import INTERRUPTED, CommandFailed
from app.cli.terminal.interruption import Interruption
from app.cli.terminal.output import tell

queue = typer.Typer(no_args_is_help=True, help="Work on the records of a queue.")


@queue.callback()
def _group() -> None:
    """Keep `work` a word of its own, though it is the only one yet."""


@queue.command()
def work(
    name: Queue,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", help="Command and its arguments.")],
    url: Url,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=256, help="Commands at once.")] = 1,
    backoff_ms: Annotated[
        int, typer.Option(min=0, max=3_600_000, help="After exit code 75: first pause, doubled each time.")
    ] = 1_000,
    max_wait_ms: Annotated[int, typer.Option(min=100, max=60_000, help="Wait of a request for records.")] = 20_000,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing is there now.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run a command for each record: its value on standard input, the rest in MILLRACE_… variables.

    Exit code 0 accepts the record, 75 releases it for later, any other releases it at once; after the queue's
    max_delivery_count it is archived. Locks are renewed while commands run; while the server is away, it waits. Ctrl-C
    lets commands finish and gives back what is not begun; a second one ends them (SIGTERM), a third kills them.
    """
    from app.cli.queues.queue_worker import QueueWorker

    if shutil.which(command[0]) is None:
        raise CommandFailed(f"cannot run {command[0]}: there is no such command")
    with Interruption(only_counted=True) as interruption, Client(url, verbose=verbose) as client:
        found = client.send("GET", queue_path(name)).json()
        workshop = QueueWorker(client, found, command, interruption, concurrency=concurrency, backoff_ms=backoff_ms)
        try:
            workshop.run(max_wait_ms=0 if until_empty else max_wait_ms, until_empty=until_empty)
        finally:
            tell(workshop.summary)
    if interruption.signal_number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)
