"""The boundary of the event loop and the database: each call runs one transaction in a worker thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar

from sqlalchemy.exc import DBAPIError

from app.errors.broker_error import BrokerError
from app.errors.database import STOPPING, DatabaseMisplaced, DiskFull, OutcomeUnknown, ServiceUnavailable
from app.storage.db.dialect import Dialect
from app.storage.db.faults import ERRORS, MISPLACED, RECONNECTED, RETRIED, Fault
from app.storage.db.log_ends import LogEnds
from app.storage.db.outages import LOGGED, Outages
from app.storage.db.transaction import Tx
from app.storage.db.workers import Workers

P = ParamSpec("P")
T = TypeVar("T")

_ATTEMPTS = 3
_OTHER_WRITES = 2
"""Writes besides group commits that run or wait for a worker thread: the next one begins without a pause."""

_log = logging.getLogger(__name__)


class SpaceMonitor(Protocol):
    """Watches the space of an embedded database."""

    @property
    def exhausted(self) -> bool:
        """Whether appends are refused until space returns."""

    @property
    def missing_bytes(self) -> int:
        """How many bytes must be freed on the disk before appends are accepted again."""

    def exhaust(self) -> None:
        """Refuse appends, and free space for deletions."""

    def keep(self) -> None:
        """Reserve the space for deletions again if another program took it."""

    def restore(self) -> bool:
        """Accept appends again if the disk has space. Return whether they are accepted."""


class FileWatch(Protocol):
    """Watches the files of an embedded database."""

    def misplaced(self) -> str | None:
        """Return which file was moved, deleted or replaced, and what to do. None if all files are in place."""


after_write: ContextVar[Callable[[Tx], None] | None] = ContextVar("after_write", default=None)
"""Runs at the end of each transaction that `Storage.write` runs in this context."""


class Storage:
    """Runs functions `f(tx, ...)` in worker threads, one transaction each.

    All statements of a read see one snapshot. A write commits before it returns.
    """

    def __init__(self, dialect: Dialect, space: SpaceMonitor | None = None, files: FileWatch | None = None) -> None:
        self.dialect = dialect
        self._space = space
        self._files = files
        self._refusal: Callable[[], BrokerError] | None = None
        self._outages = Outages()
        self._log_ends = None if dialect.shared else LogEnds()
        self._workers = Workers(dialect)
        self._other_writes = asyncio.Semaphore(max(_OTHER_WRITES, dialect.writers - dialect.lanes))
        self._errors = (DBAPIError, dialect.driver_error, MemoryError)
        self._damaged = False
        self._read_only = False

    async def read(self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(tx, ...)` on one snapshot.

        Raises:
            ServiceUnavailable: The database did not answer in time, or it was closed.
        """
        self._refuse_after_close()
        future = asyncio.get_running_loop().run_in_executor(
            self._workers.readers, lambda: self.read_now(function, *args, **kwargs)
        )
        try:
            return await future
        except asyncio.CancelledError:
            self._refuse_dropped(future)
            raise

    async def write(self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(tx, ...)` in a transaction; commit when it returns, roll back when it raises.

        Writes wait for each other before the worker threads, so that a group commit (`submit`) waits for few.

        Raises:
            ServiceUnavailable: A lock timed out, the connection failed, or the database was closed; nothing is written.
            DiskFull: The disk is full; nothing is written.
            OutcomeUnknown: The connection was lost during COMMIT.
        """
        if (hook := after_write.get()) is not None:
            function = _followed_by(function, hook)
        async with self._other_writes:
            future = self.submit(function, *args, **kwargs)
            try:
                return await future
            except asyncio.CancelledError:
                self._refuse_dropped(future)
                raise

    async def write_freeing(self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a write that frees space. On a disk that has just become full it uses the space of the ballast."""
        try:
            return await self.write(function, *args, **kwargs)
        except DiskFull:
            return await self.write(function, *args, **kwargs)

    def submit(self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start a write and return its future, for a caller that is not a coroutine.

        Raises:
            ServiceUnavailable: The database was closed.
        """
        self._refuse_after_close()
        return asyncio.get_running_loop().run_in_executor(
            self._workers.writers, lambda: self.write_now(function, *args, **kwargs)
        )

    def read_now(self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read, and block until it ends. Any thread may call this."""
        if not self._workers.is_current():
            self._refuse_after_close()
            return self._workers.readers.submit(lambda: self.read_now(function, *args, **kwargs)).result()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                connection = self._workers.connection(self.dialect.read_engine)
                try:
                    connection.begin()
                    found = function(Tx(connection, self.dialect), *args, **kwargs)
                finally:
                    self._workers.release(connection)
            except self._errors as error:
                self._refuse(error, "read", last=attempt == _ATTEMPTS)
            else:
                if self._outages.open:
                    self._outages.end("read")
                return found
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def write_now(self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a write, and block until it ends. Any thread may call this.

        After a conflict or a lost connection before COMMIT the write is retried.
        """
        if not self._workers.is_current():
            self._refuse_after_close()
            return self._workers.writers.submit(lambda: self.write_now(function, *args, **kwargs)).result()
        if self._refusal is not None or self._damaged:
            self._refuse_write()
        for attempt in range(1, _ATTEMPTS + 1):
            committing = False
            try:
                connection = self._workers.connection(self.dialect.write_engine)
                try:
                    connection.begin()
                    tx = Tx(connection, self.dialect, self.dialect.begin_statements, self._log_ends)
                    result = function(tx, *args, **kwargs)
                    committing = True
                    self.dialect.commit(tx)
                    self._note_write()
                    return result
                except BaseException:
                    if self._log_ends is not None:
                        self._log_ends.clear()
                    if committing:
                        connection.invalidate()
                    raise
                finally:
                    self._workers.release(connection)
            except self._errors as error:
                if committing and not self.dialect.is_rolled_back(error):
                    raise self._outcome_unknown(error) from error
                self._refuse(error, "write", last=attempt == _ATTEMPTS)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def _refuse_write(self) -> None:
        if (refusal := self.refusal) is not None:
            raise refusal

    def _refuse_after_close(self) -> None:
        if self._workers.closing:
            raise ServiceUnavailable(STOPPING)

    def _refuse_dropped(self, future: asyncio.Future[T]) -> None:
        """Refuse a call that `close` took from the queue. A call whose task was cancelled is no such call."""
        task = asyncio.current_task()
        if self._workers.closing and future.cancelled() and task is not None and not task.cancelling():
            raise ServiceUnavailable(STOPPING) from None

    def _note_write(self) -> None:
        if self._read_only:
            self._read_only = False
            self._workers.renew()  # readers may be connected to the former primary
        if self._outages.open:
            self._outages.end("write")

    @property
    def full(self) -> bool:
        """Whether appends are refused because the disk is full."""
        return self._space is not None and self._space.exhausted

    def disk_full(self) -> DiskFull:
        """Return the error of an append that the full disk refuses."""
        if self._space is None or not (missing := self._space.missing_bytes):
            return DiskFull(ERRORS[Fault.DISK_FULL][1])
        return DiskFull(
            f"the disk of the database is full; nothing was written: free {missing:,} bytes on it, or delete records, "
            "and appends resume within a second",
            missing_bytes=missing,
        )

    async def check_space(self) -> bool:
        """Accept appends again once the disk has space. Return False: there is no more to do now."""
        if self._space is not None and self.refusal is None:
            await asyncio.get_running_loop().run_in_executor(self._workers.writers, self._check_space, self._space)
        return False

    @property
    def refusal(self) -> BrokerError | None:
        """Why all writes are refused, or None: a file was moved or is damaged, or a pooler shares the sessions."""
        if self._refusal is not None:
            return self._refusal()
        return ServiceUnavailable(ERRORS[Fault.CORRUPT][1]) if self._damaged else None

    @property
    def in_outage(self) -> bool:
        """Whether the database fails, which the log has said."""
        return self._outages.open

    def busy(self, kind: Literal["read", "write"]) -> int:
        """Return how many connections of a kind run a transaction now."""
        return self._workers.busy(kind)

    def require_sessions(self) -> None:
        """Refuse a pooler that gives one session to several connections.

        Raises:
            ValueError: With the way out.
            ServiceUnavailable: The server cannot be reached.
        """
        try:
            shared = self.dialect.sessions_shared()
        except self._errors as error:
            self._refuse(error, "read", last=True, log=False)
        else:
            if shared is not None:
                raise ValueError(shared)

    async def check_sessions(self) -> bool:
        """Refuse writes while a pooler shares the sessions. Return False: there is no more to do now."""
        try:
            shared = await asyncio.to_thread(self.dialect.sessions_shared)
        except self._errors:
            return False
        if shared is not None and self._refusal is None:
            _log.error("writes are refused: %s", shared)
            self._refusal = lambda: ServiceUnavailable(shared)
        elif shared is None and self._refusal is not None:
            _log.warning("each connection has its own session again; writes are accepted")
            self._refusal = None
        return False

    async def check_files(self) -> bool:
        """Refuse writes while a file of the database is not in place. Return False: there is no more to do now."""
        if self._files is not None:
            found = await asyncio.to_thread(self._files.misplaced)
            before, self._refusal = self._refusal, None if found is None else lambda: DatabaseMisplaced(MISPLACED)
            if found is not None and before is None:
                _log.error("%s", found)
                await asyncio.get_running_loop().run_in_executor(self._workers.writers, self._save_log)
            elif found is None and before is not None:
                _log.warning("the files of the database are in place again; writes are accepted")
        return False

    def _save_log(self) -> None:
        with contextlib.suppress(*self._errors, BrokerError):
            connection = self._workers.connection(self.dialect.write_engine)
            self.dialect.save_log(connection)
            self._workers.release(connection)

    def _check_space(self, space: SpaceMonitor) -> None:
        if not space.exhausted:
            space.keep()
            return
        with contextlib.suppress(*self._errors, BrokerError):
            connection = self._workers.connection(self.dialect.write_engine)
            self.dialect.free_disk(connection, space.missing_bytes)
            self._workers.release(connection)
        space.restore()

    def close(self) -> None:
        """Cancel running statements and close the database. A second call does nothing."""
        if self._workers.close():
            self.dialect.close()

    def _leave_server(self) -> None:
        """Reconnect before the next statements: the URL may lead to another server that accepts writes.

        Connections for reads are opened again only when writes begin to fail, and when they succeed again: a former
        primary answers with old records, but a server that stays read-only can be read.
        """
        self._workers.leave_server(everywhere=not self._read_only)
        self._read_only = True

    def _outcome_unknown(self, error: Exception) -> OutcomeUnknown:
        """Return the error of a write whose COMMIT was not confirmed."""
        fault = self.dialect.fault(error)
        if fault is Fault.SILENT:
            self._workers.leave_silent_server()
        self._outages.begin("write", ERRORS[fault][1] if fault in ERRORS else "COMMIT was not confirmed", error)
        return OutcomeUnknown(
            "the database did not confirm COMMIT, because the connection was lost or the server failed; repeat the "
            "request with the same Idempotency-Key or Producer-Sequence",
            outcome="unknown",
        )

    def _refuse(self, error: Exception, kind: str, *, last: bool, log: bool = True) -> None:
        """Raise the error for the client, or return if the transaction is to be retried."""
        fault = self.dialect.fault(error)
        if fault is Fault.SILENT:
            self._workers.leave_silent_server()
        if fault is Fault.READ_ONLY:
            self._leave_server()
        elif fault in RECONNECTED:
            self._workers.leave_server(everywhere=False)
        elif fault is Fault.CORRUPT and self._files is not None:
            self._damaged = True
            kind = "write"  # the outage lasts until a restart, also if other data can be read
        if fault in RETRIED and not last:
            return
        if fault is Fault.DISK_FULL and self._space is not None:
            self._space.exhaust()
            raise self.disk_full() from error
        if (answer := ERRORS.get(fault)) is None:
            raise error
        if log and fault in LOGGED:
            self._outages.begin(kind, answer[1], error)
        raise answer[0](answer[1]) from error


def _followed_by(
    function: Callable[Concatenate[Tx, P], T], hook: Callable[[Tx], None]
) -> Callable[Concatenate[Tx, P], T]:
    def run(tx: Tx, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = function(tx, *args, **kwargs)
        hook(tx)
        return result

    return run
