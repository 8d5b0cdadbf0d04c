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
from app.cli.groups.partitions import by_topic, in_words
from app.cli.terminal.failure import INTERRUPTED, REFUSED, CommandFailed
from app.cli.terminal.interruption import Interruption, Stopped
from app.cli.terminal.output import tell
from app.cli.terminal.stdout_writer import StdoutWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from app.cli.client import Client
    from app.cli.groups.partitions import Partition

_NOT_OF_A_NAME = re.compile(r"[^a-zA-Z0-9._-]")


def own_name() -> str:
    """Return a name for a member that no other has, and that tells people where it runs."""
    host = _NOT_OF_A_NAME.sub("-", socket.gethostname())[:64]
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def consume_group(
    client: Client,
    group: str,
    wish: JoinOptions,
    render: Callable[[bytes], bytes],
    *,
    count: int | None,
    max_wait_ms: int | None,
    verbose: bool,
) -> None:
    """Write the records of a group's topics to standard output as one of its members.

    Args:
        client: Of the server.
        group: Its name.
        wish: Of the member.
        render: Returns what is written for a record.
        count: How many records; None for all.
        max_wait_ms: For more records; None to end where the logs end now.
        verbose: Whether to say what was assigned and revoked even if nobody seems to look.

    Raises:
        CommandFailed: With the exit code.
        Exit: Ended by Ctrl-C; by another signal it ends as when it is through.
    """
    ends = None if max_wait_ms is not None else LogEnds(client, group, wish)
    patience_s = float("inf") if ends is None else wish.session_timeout_ms / 1000
    on_change = _say if verbose or sys.stderr.isatty() else _say_nothing
    sys.stdout.flush()
    with Interruption() as interruption:
        membership = Membership(client, group, wish, on_change)
        work, sink = PageInProgress(render), StdoutWriter(sys.stdout.fileno(), interruption)
        consumer = GroupConsumer(membership, work, sink, interruption, patience_s)
        with suppress(Stopped), _with_cure(group):
            consumer.join()
            try:
                consumer.run(count, max_wait_ms, ends)
            finally:
                consumer.leave()
    if interruption.signal_number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _with_cure(group: str) -> Iterator[None]:
    """Tell what to do where the server cannot know it."""
    try:
        yield
    except ServerRefused as error:
        if error.problem.get("code") != "NO_OFFSET_FOR_PARTITION":
            raise
        reset = f"millrace groups reset {group} {error.problem.get('topic')} --to earliest --execute"
        raise CommandFailed(f"{error}; say where to begin: {reset}", REFUSED) from error


def _say(gained: Collection[Partition], lost: Collection[Partition]) -> None:
    for word, partitions in (("revoked", lost), ("assigned", gained)):
        if partitions:
            tell(f"{word} {in_words(by_topic(partitions))}")


def _say_nothing(_gained: Collection[Partition], _lost: Collection[Partition]) -> None:
    pass
