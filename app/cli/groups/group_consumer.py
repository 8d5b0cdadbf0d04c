"""The consumer loop of a group member: poll, write, commit; a second thread sends heartbeats during writes."""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from app.cli.client import RequestFailed, ServerRefused, Unreachable
from app.cli.groups.heartbeats import Heartbeats
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import print_message
from app.cli.terminal.shutdown_signals import ShutdownRequested
from app.cli.terminal.stdout_writer import StdoutClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cli.groups.log_ends import LogEnds
    from app.cli.groups.membership import Membership, Page
    from app.cli.groups.page_in_progress import PageInProgress
    from app.cli.terminal.shutdown_signals import ShutdownSignals
    from app.cli.terminal.stdout_writer import StdoutWriter

T = TypeVar("T")

_PAGE_RECORDS = 500
_WAIT_FOR_OTHERS_MS = 1_000
"""Longest wait of a poll without `--follow`, while other members have yet to commit."""
_LOG_ENDS_INTERVAL_S = 1.0
_RETRY_BACKOFF_S = 0.1
_LEAVE_TIMEOUT_S = 3.0
_MEMBER_REMOVED_CODES = {"UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH"}
_OFFSET_REFUSED_CODES = {"OFFSET_CONFLICT", "UNKNOWN_TOPIC_OR_PARTITION", "OFFSET_OUT_OF_RANGE"}
_UNCOMMITTED = "the last written records are not committed, and will be delivered again"


class GroupConsumer:
    """Writes the records of a group member, each at least once: commits only offsets of written records.

    Args:
        membership: Membership of the member.
        page: Holds the page that is being written.
        stdout: Where the lines are written.
        shutdown: Ends the consumer.
        retry_timeout_s: How long to repeat requests while the server is unavailable.
    """

    def __init__(
        self,
        membership: Membership,
        page: PageInProgress,
        stdout: StdoutWriter,
        shutdown: ShutdownSignals,
        retry_timeout_s: float,
    ) -> None:
        self._membership = membership
        self._page = page
        self._stdout = stdout
        self._shutdown = shutdown
        self._retry_timeout_s = retry_timeout_s
        self._heartbeats = Heartbeats(membership, self)

    def join(self) -> None:
        """Join the group. An unreachable server is a failure; after a retriable error the first poll joins.

        Raises:
            CommandFailed: The server refused, or is unreachable.
            ShutdownRequested: By a signal; the member has left.
        """
        try:
            with self._shutdown.raising():
                self._membership.join()
        except ServerRefused as error:
            if not error.is_retriable:
                raise
        except ShutdownRequested:
            self.leave()
            raise

    def run(self, count: int | None, max_wait_ms: int | None, ends: LogEnds | None) -> None:
        """Consume until the count, the log ends, a signal, or the end of the reader.

        Args:
            count: Most records to write; None for all.
            max_wait_ms: Longest wait of a poll; None with `ends`.
            ends: Log ends to stop at; None to continue.

        Raises:
            CommandFailed: The server refused, or was unavailable for too long.
        """
        self._heartbeats.start()
        try:
            self._consume(count, max_wait_ms, ends)
            self._retry(self.commit_written, rejoins=False)
        except (ShutdownRequested, StdoutClosed):
            pass
        finally:
            self._heartbeats.close(_LEAVE_TIMEOUT_S)

    def leave(self) -> None:
        """Commit the written records and leave the group; a static member does not leave.

        Retries for a few seconds only: uncommitted records will be delivered again.
        """
        self._retry_timeout_s = _LEAVE_TIMEOUT_S
        self._membership.limit_request_timeout(_LEAVE_TIMEOUT_S)
        try:
            self._retry(self.commit_written, rejoins=False, interruptible=False)
        except CommandFailed as error:
            print_message(f"{error}; {_UNCOMMITTED}")
        if self._membership.is_static:
            return
        try:
            self._retry(self._membership.leave, rejoins=False, interruptible=False)
        except ServerRefused as error:
            if error.code not in _MEMBER_REMOVED_CODES:
                print_message(f"could not leave the group: {error}")
        except Unreachable as error:
            print_message(f"could not leave the group; the membership ends with its session: {error}")

    def _consume(self, count: int | None, max_wait_ms: int | None, ends: LogEnds | None) -> None:
        ends_checked_at_s = time.monotonic()
        wait_ms = 0 if max_wait_ms is None else max_wait_ms
        while (count is None or self._page.records < count) and not self._stdout.is_closed:
            size = min(_PAGE_RECORDS if count is None else count - self._page.records, _PAGE_RECORDS)
            page = self._retry(partial(self._poll, size, wait_ms))
            if page.records:
                self._write()
            if ends is None:
                continue
            now_s = time.monotonic()
            if not page.records or now_s - ends_checked_at_s > _LOG_ENDS_INTERVAL_S:
                if self._retry(ends.are_committed):
                    return
                ends_checked_at_s = now_s
            wait_ms = 0 if page.records else _WAIT_FOR_OTHERS_MS

    def _poll(self, max_records: int, max_wait_ms: int) -> Page:
        page = self._membership.poll(self._page.uncommitted(), max_records, max_wait_ms)
        self._page.start(page, self._membership.assignment)
        for skipped in page.skipped:
            print_message(
                f"retention has deleted offsets {skipped.from_offset} to {skipped.to_offset - 1} of "
                f"{skipped.topic} {skipped.partition}"
            )
        return page

    def _write(self) -> None:
        """Write the page.

        Raises:
            ShutdownRequested: By a signal; a record longer than one atomic write may be cut off.
            StdoutClosed: The reader has closed the pipe.
        """
        with self._heartbeats.while_writing():
            while self._page.has_unwritten:
                if not self._stdout.wait_writable():
                    if self._shutdown.signal_number is not None:
                        raise ShutdownRequested
                    continue
                if (lines := self._page.take_lines()) and not self._stdout.write(lines):
                    raise ShutdownRequested
                self._page.mark_written()
                self._heartbeats.lines_written()
        if self._heartbeats.failure is not None:
            raise self._heartbeats.failure

    def commit_written(self) -> None:
        """Commit the offsets of the written records."""
        if offsets := self._page.uncommitted():
            self._membership.commit(offsets)
            self._page.mark_committed(offsets)

    def heartbeat(self) -> None:
        """Commit and send a heartbeat; if partitions are revoked, commit and give them up at once."""
        self.commit_written()
        self._membership.heartbeat(self._page.owned())
        if self._page.update_assignment(self._membership.assignment):
            self._shutdown.wake()
            self.commit_written()
            self._membership.heartbeat(self._page.owned())

    @property
    def is_revoking(self) -> bool:
        """Whether a line of a revoked partition is being written."""
        return not self._page.owned() <= self._membership.assignment

    def recover(self, error: ServerRefused, *, rejoins: bool = True) -> bool:
        """Handle an error of the server. Return whether the repeated request may succeed because of that."""
        if error.code in _OFFSET_REFUSED_CODES:
            return self._recover_offset(error)
        if error.code == "STALE_MEMBER_EPOCH":
            self._membership.heartbeat(self._page.owned())
            self._page.update_assignment(self._membership.assignment)
            self._page.discard_offsets(self._page.uncommitted().keys() - self._membership.assignment)
            return True
        if error.code == "FENCED_INSTANCE_ID":
            self._page.discard()
            self._shutdown.wake()
        if error.code not in _MEMBER_REMOVED_CODES:
            return False
        has_uncommitted = self._page.discard()
        self._shutdown.wake()
        self._membership.request_rejoin()
        parts = [f"lost the membership ({error.code})"]
        parts += [_UNCOMMITTED] if has_uncommitted else []
        parts += ["rejoining"] if rejoins else []
        print_message("; ".join(parts))
        return rejoins

    def _recover_offset(self, error: ServerRefused) -> bool:
        """Discard the refused offset, or take over the committed offset if it is one of ours."""
        faults = error.problem.get("errors") or [{}]
        offsets = list(self._page.uncommitted().items())
        index = faults[0].get("index")
        if not isinstance(index, int) or index >= len(offsets):
            return False
        partition, offset_range = offsets[index]
        committed_offset = error.problem.get("committed_offset")
        if isinstance(committed_offset, int) and offset_range.from_offset < committed_offset:
            self._page.set_committed_offset(partition, committed_offset)  # the answer to our commit was lost
        else:
            print_message(f"{partition[0]} {partition[1]} is not committed: {error}")
            self._page.discard_offsets([partition])
        return True

    def _retry(self, request: Callable[[], T], *, rejoins: bool = True, interruptible: bool = True) -> T:
        """Send a request, and repeat it until it succeeds.

        Args:
            request: Builds the request anew for each attempt.
            rejoins: Whether to rejoin if the server has removed the member.
            interruptible: Whether a signal ends the attempts.

        Raises:
            CommandFailed: The error is final, or the server was unavailable for too long.
            ShutdownRequested: By a signal.
        """
        began_s = time.monotonic()
        for attempt in itertools.count():
            try:
                return self._attempt(request, interruptible=interruptible)
            except RequestFailed as error:
                recovered = self._try_recover(error, rejoins=rejoins, interruptible=interruptible)
                if not recovered and not error.is_retriable:
                    raise
                if time.monotonic() - began_s > self._retry_timeout_s:
                    raise
                if not recovered and attempt == 0:
                    print_message(f"{error}; trying again")
            if not recovered or attempt > 0:
                self._back_off(attempt, interruptible=interruptible)
        raise AssertionError  # pragma: no cover - attempts do not end

    def _attempt(self, request: Callable[[], T], *, interruptible: bool) -> T:
        if not interruptible:
            return request()
        with self._shutdown.raising(), self._membership.lock:
            return request()

    def _try_recover(self, error: RequestFailed, *, rejoins: bool, interruptible: bool) -> bool:
        if not isinstance(error, ServerRefused):
            return False
        try:
            return self._attempt(lambda: self.recover(error, rejoins=rejoins), interruptible=interruptible)
        except RequestFailed:  # of the recovery's heartbeat; the repeated request reports the problem
            return False

    def _back_off(self, attempt: int, *, interruptible: bool) -> None:
        longest_s = max(_RETRY_BACKOFF_S, self._membership.heartbeat_interval_s)
        pause_s = min(_RETRY_BACKOFF_S * 2 ** min(attempt, 10), longest_s)
        self._attempt(lambda: time.sleep(pause_s), interruptible=interruptible)
