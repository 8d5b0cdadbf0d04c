"""The loop of a member: poll, write, commit; and the beats that keep it a member while it writes."""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from app.cli.client import ServerRefused, Unreachable
from app.cli.groups.heartbeats import Heartbeats
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.interruption import Stopped
from app.cli.terminal.output import tell
from app.cli.terminal.stdout_writer import StdoutClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cli.groups.log_ends import LogEnds
    from app.cli.groups.membership import Membership, Page
    from app.cli.groups.page_in_progress import PageInProgress
    from app.cli.terminal.interruption import Interruption
    from app.cli.terminal.stdout_writer import StdoutWriter

T = TypeVar("T")

_PAGE_RECORDS = 500
_CATCHING_UP_WAIT_MS = 1_000
_LOOK_AT_ENDS_S = 1.0
_FIRST_PAUSE_S = 0.1
_LEAVING_S = 3.0
_GONE = {"UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH"}
_ONE_IS_OFF = {"OFFSET_CONFLICT", "UNKNOWN_TOPIC_OR_PARTITION", "OFFSET_OUT_OF_RANGE"}


class GroupConsumer:
    """Reads as a member of a group, each record at least once: commits what has been written, and nothing else.

    Args:
        membership: Of the group.
        work: Where its pages go.
        sink: Where their lines go.
        interruption: Ends it.
        patience_s: How long to try again while the server is away.
    """

    def __init__(
        self,
        membership: Membership,
        work: PageInProgress,
        sink: StdoutWriter,
        interruption: Interruption,
        patience_s: float,
    ) -> None:
        self._membership = membership
        self._work = work
        self._sink = sink
        self._interruption = interruption
        self._patience_s = patience_s
        self._beats = Heartbeats(membership, self)

    def join(self) -> None:
        """Join; a server that was never there is not waited for, one that is busy is.

        Raises:
            CommandFailed: It is no member.
            Stopped: Told to end; it has left.
        """
        try:
            with self._interruption.raising():
                self._membership.join()
        except ServerRefused as error:
            if not error.passing:
                raise
        except Stopped:
            self.leave()
            raise

    def run(self, count: int | None, max_wait_ms: int | None, ends: LogEnds | None) -> None:
        """Consume until told to end.

        Args:
            count: Of records; None for all.
            max_wait_ms: For more, where it is to wait at the end.
            ends: Where it is to end.

        Raises:
            CommandFailed: The server refused, or was away for too long.
        """
        self._beats.start()
        try:
            self._consume(count, max_wait_ms, ends)
            self._insist(self.commit_written, rejoins=False)
        except (Stopped, StdoutClosed):
            pass
        finally:
            self._beats.close(_LEAVING_S)

    def leave(self) -> None:
        """Commit what is written, if that was not done, and leave; a static member keeps its place.

        Does not try for long: what cannot be committed comes again.
        """
        self._patience_s = _LEAVING_S
        self._membership.hurry(_LEAVING_S)
        try:
            self._insist(self.commit_written, rejoins=False, raises=False)
        except CommandFailed as error:
            tell(f"{error}; what was written last is not committed, and comes again")
        if self._membership.is_static:
            return
        try:
            self._insist(self._membership.leave, rejoins=False, raises=False)
        except ServerRefused as error:
            if error.problem.get("code") not in _GONE:
                tell(f"could not leave the group: {error}")
        except Unreachable as error:
            tell(f"could not leave the group, which waits for the session to end: {error}")

    def _consume(self, count: int | None, max_wait_ms: int | None, ends: LogEnds | None) -> None:
        looked_at_s = time.monotonic()
        wait_ms = 0 if max_wait_ms is None else max_wait_ms
        while (count is None or self._work.records < count) and not self._sink.closed:
            size = min(_PAGE_RECORDS if count is None else count - self._work.records, _PAGE_RECORDS)
            page = self._insist(partial(self._poll, size, wait_ms))
            if page.records:
                self._write()
            if ends is None:
                continue
            now_s = time.monotonic()
            if not page.records or now_s - looked_at_s > _LOOK_AT_ENDS_S:
                if self._insist(ends.reached):
                    return
                looked_at_s = now_s
            wait_ms = 0 if page.records else _CATCHING_UP_WAIT_MS

    def _poll(self, max_records: int, max_wait_ms: int) -> Page:
        spans = self._work.spans()
        page = self._membership.poll(spans, max_records, max_wait_ms)
        self._work.begin(page, self._membership.assignment)
        for one in page.skipped:
            tell(
                f"retention has removed offsets {one.from_offset} to {one.to_offset - 1} of {one.topic} {one.partition}"
            )
        return page

    def _write(self) -> None:
        """Write what is in work.

        Raises:
            Stopped: Told to end; a record that is longer than a pipe takes at once may be cut.
            Closed: Nobody reads any more.
        """
        with self._beats.beating():
            while self._work.waiting:
                if not self._sink.ready():
                    if self._interruption.signal_number is not None:
                        raise Stopped
                    continue
                if (lines := self._work.take()) and not self._sink.write(lines):
                    raise Stopped
                self._work.done()
                self._beats.written()
        if self._beats.failure is not None:
            raise self._beats.failure

    def commit_written(self) -> None:
        """Commit what is written."""
        if spans := self._work.spans():
            self._membership.commit(spans)
            self._work.committed(spans)

    def beat(self) -> None:
        """Beat beside the writing: commit, learn what is taken away, and give it back at once."""
        membership, work = self._membership, self._work
        self.commit_written()
        membership.beat(work.owned())
        if work.keep(membership.assignment):
            self._interruption.wake()
            self.commit_written()
            membership.beat(work.owned())

    @property
    def owes(self) -> bool:
        """Whether a record of a partition that was taken away is half written."""
        return not self._work.owned() <= self._membership.assignment

    def recovers(self, error: ServerRefused, *, rejoins: bool = True) -> bool:
        """Draw the conclusion from a refusal. Return whether the next request may succeed by that."""
        code = error.problem.get("code")
        if code in _ONE_IS_OFF:
            return self._drop_one(error)
        if code == "STALE_MEMBER_EPOCH":
            self._membership.beat(self._work.owned())
            self._work.keep(self._membership.assignment)
            self._work.forget(self._work.spans().keys() - self._membership.assignment)
            return True
        if code == "FENCED_INSTANCE_ID":
            self._work.forget_all()
            self._interruption.wake()
        if code not in _GONE:
            return False
        uncommitted = self._work.forget_all()
        self._interruption.wake()
        self._membership.drop()
        tell(
            f"lost the membership ({code})"
            + ("; what was written last is not committed, and comes again" if uncommitted else "")
            + ("; joining again" if rejoins else "")
        )
        return rejoins

    def _drop_one(self, error: ServerRefused) -> bool:
        """Commit no more of what is refused of a commit, unless the group stands within what was written."""
        faults = error.problem.get("errors") or [{}]
        spans = list(self._work.spans().items())
        index = faults[0].get("index")
        if not isinstance(index, int) or index >= len(spans):
            return False
        partition, span = spans[index]
        stands = error.problem.get("committed_offset")
        if isinstance(stands, int) and span.from_offset < stands:  # a commit of ours whose answer was lost
            self._work.stands(partition, stands)
        else:
            tell(f"{partition[0]} {partition[1]} is not committed: {error}")
            self._work.forget([partition])
        return True

    def _insist(self, request: Callable[[], T], *, rejoins: bool = True, raises: bool = True) -> T:
        """Send a request until it is answered.

        Args:
            request: Builds itself anew each time.
            rejoins: Whether to join again where the membership is lost.
            raises: Whether a signal ends it.

        Raises:
            CommandFailed: It was refused for good, or the server was away for too long.
            Stopped: Told to end.
        """
        began_s = time.monotonic()
        for attempt in itertools.count():
            try:
                return self._once(request, raises=raises)
            except ServerRefused as error:
                known = self._recovered(error, rejoins=rejoins, raises=raises)
                if not known and not error.passing:
                    raise
                failure: CommandFailed = error
            except Unreachable as error:
                known, failure = False, error
            if time.monotonic() - began_s > self._patience_s:
                raise failure
            if not known and attempt == 0:
                tell(f"{failure}; trying again")
            if not known or attempt > 0:
                self._pause(attempt, raises=raises)
        raise AssertionError  # pragma: no cover - attempts do not end

    def _once(self, request: Callable[[], T], *, raises: bool) -> T:
        if not raises:
            return request()
        with self._interruption.raising(), self._membership.turn:
            return request()

    def _recovered(self, error: ServerRefused, *, rejoins: bool, raises: bool) -> bool:
        try:
            return self._once(lambda: self.recovers(error, rejoins=rejoins), raises=raises)
        except (ServerRefused, Unreachable):  # of the beat; the request is going to tell
            return False

    def _pause(self, attempt: int, *, raises: bool) -> None:
        pause_s = min(
            _FIRST_PAUSE_S * 2 ** min(attempt, 10), max(_FIRST_PAUSE_S, self._membership.heartbeat_interval_s)
        )
        self._once(lambda: time.sleep(pause_s), raises=raises)
