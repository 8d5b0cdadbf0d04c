"""`millrace consume --group`: reads as a member of a group."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from app.cli.client import ServerRefused
from app.cli.groups.group_consumer import GroupConsumer
from app.cli.groups.log_ends import LogEnds
from app.cli.groups.membership import JoinOptions, Membership
from app.cli.groups.page_in_progress import PageInProgress
from app.cli.groups.partitions import by_topic, format_partitions
from app.cli.terminal.failure import INTERRUPTED, REFUSED, CommandFailed
from app.cli.terminal.output import print_message
from app.cli.terminal.shutdown_signals import ShutdownRequested, ShutdownSignals
from app.cli.terminal.stdout_writer import StdoutWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from app.cli.client import Client
    from app.cli.groups.partitions import Partition

_INVALID_IN_NAME = re.compile(r"[^a-zA-Z0-9._-]")


def unique_member_id() -> str:
    """Return a unique member id that contains the host name and the process id."""
    host = _INVALID_IN_NAME.sub("-", socket.gethostname())[:64]
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def consume_group(
    client: Client,
    group: str,
    options: JoinOptions,
    render: Callable[[bytes], bytes],
    *,
    count: int | None,
    max_wait_ms: int | None,
    verbose: bool,
) -> None:
    """Write the records of a group's topics to standard output, as one of its members.

    Args:
        client: HTTP client.
        group: Name of the group.
        options: Fields of the join request.
        render: Returns the line of a record.
        count: Most records to write; None for all.
        max_wait_ms: Longest wait of a poll; None to end at the log ends of the start.
        verbose: Whether to print rebalances even if standard error is not a terminal.

    Raises:
        CommandFailed: The member cannot continue.
        Exit: SIGINT ended the command; other signals end it with exit code 0.
    """
    ends = None if max_wait_ms is not None else LogEnds(client, group, options)
    retry_timeout_s = float("inf") if ends is None else options.session_timeout_ms / 1000
    on_rebalance = _print_rebalance if verbose or sys.stderr.isatty() else _ignore_rebalance
    sys.stdout.flush()
    with ShutdownSignals() as shutdown:
        membership = Membership(client, group, options, on_rebalance)
        stdout = StdoutWriter(sys.stdout.fileno(), shutdown)
        consumer = GroupConsumer(membership, PageInProgress(render), stdout, shutdown, retry_timeout_s)
        with suppress(ShutdownRequested), _reset_hint(group):
            consumer.join()
            try:
                consumer.run(count, max_wait_ms, ends)
            finally:
                consumer.leave()
    if shutdown.signal_number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _reset_hint(group: str) -> Iterator[None]:
    """Add the command that sets a missing committed offset to the failure."""
    try:
        yield
    except ServerRefused as error:
        if error.code != "NO_OFFSET_FOR_PARTITION":
            raise
        command = f"millrace groups reset {group} {error.problem.get('topic')} --to earliest --execute"
        raise CommandFailed(f"{error}; set the offsets to start at: {command}", REFUSED) from error


def _print_rebalance(assigned: Collection[Partition], revoked: Collection[Partition]) -> None:
    for action, partitions in (("revoked", revoked), ("assigned", assigned)):
        if partitions:
            print_message(f"{action} {format_partitions(by_topic(partitions))}")


def _ignore_rebalance(_assigned: Collection[Partition], _revoked: Collection[Partition]) -> None:
    pass
