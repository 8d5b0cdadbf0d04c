"""The border between the event loop and the database: one transaction per call, in a worker thread."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from app.errors import BrokerError, DiskFull, LockTimeout, OutcomeUnknown, ServiceUnavailable

P = ParamSpec("P")
T = TypeVar("T")

RecordRow = tuple[int, int, int, bytes | None, bytes | None, bytes | None, int, int]
"""A row of `records` in the order of its columns."""

_ATTEMPTS = 3


class Fault(enum.Enum):
    """What a database error means for the transaction it ended."""

    CONFLICT = "serialization failure or deadlock: the same transaction may succeed now"
    BUSY = "a lock was not to be had in time"
    DISK_FULL = "no space left"
    DISCONNECTED = "the connection is lost"
    OTHER = "a fault of ours"


class Dialect(Protocol):
    """What SQLite and PostgreSQL do differently. Nothing else may ask which one it is.

    Attributes:
        name: Its name for people.
        readers: Threads and connections that read.
        writers: Threads and connections that write.
        lanes: Group commits that may run at once.
        shared: Whether other processes may use the database at the same time.
    """

    name: str
    readers: int
    writers: int
    lanes: int
    shared: bool
    read_engine: Engine
    write_engine: Engine

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return the dialect's INSERT, which knows ON CONFLICT."""

    def append_records(self, connection: Connection, rows: Sequence[RecordRow]) -> None:
        """Insert rows of `records` in bulk."""

    def lock_partitions(self, connection: Connection, partition_ids: Sequence[int]) -> None:
        """Lock partitions, given in ascending order, until the transaction ends."""

    def fault(self, error: DBAPIError) -> Fault:
        """Classify a database error."""

    def tidy(self, connection: Connection) -> None:
        """Give freed space back, in one short step, where the database does not do so itself."""

    def close(self) -> None:
        """Release connections, locks and files."""


class Tx:
    """An open transaction and the dialect it speaks."""

    __slots__ = ("connection", "dialect")

    def __init__(self, connection: Connection, dialect: Dialect) -> None:
        self.connection = connection
        self.dialect = dialect


class Space(Protocol):
    """Watches the space of an embedded database."""

    @property
    def exhausted(self) -> bool:
        """Whether appends are refused until space returns."""

    def exhaust(self) -> None:
        """Note that the disk is full and make room for deletions."""

    def restore(self) -> bool:
        """Look whether space has returned. Return whether appends may go on."""


class Storage:
    """Runs queries `f(tx, ...)` in worker threads, one transaction each.

    Reads see one snapshot for all their statements. Writes commit before they return.
    """

    def __init__(self, dialect: Dialect, space: Space | None = None) -> None:
        self.dialect = dialect
        self._space = space
        self._readers = ThreadPoolExecutor(dialect.readers, "millrace-read")
        self._writers = ThreadPoolExecutor(dialect.writers, "millrace-write")

    async def read(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `query(tx, ...)` on one snapshot.

        Raises:
            ServiceUnavailable: The database did not answer in time.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, lambda: self.read_now(query, *args, **kwargs)
        )

    async def write(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `query(tx, ...)` in a transaction; commit when it returns, roll back when it raises.

        Raises:
            ServiceUnavailable: A lock or the connection was not to be had; nothing is written.
            DiskFull: Nothing is written.
            OutcomeUnknown: The connection was lost during COMMIT.
        """
        return await self.submit(query, *args, **kwargs)

    def submit(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start a write and return its future, for callers that are not coroutines."""
        return asyncio.get_running_loop().run_in_executor(self._writers, lambda: self.write_now(query, *args, **kwargs))

    def read_now(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read in this thread."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self.dialect.read_engine.connect() as connection:
                    return query(Tx(connection, self.dialect), *args, **kwargs)
            except DBAPIError as error:
                self._refuse(error, last=attempt == _ATTEMPTS)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def write_now(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a write in this thread; a lost connection or conflict before COMMIT is tried again."""
        for attempt in range(1, _ATTEMPTS + 1):
            committing = False
            try:
                with self.dialect.write_engine.connect() as connection, connection.begin() as transaction:
                    result = query(Tx(connection, self.dialect), *args, **kwargs)
                    committing = True
                    transaction.commit()
                return result
            except DBAPIError as error:
                if committing and self.dialect.fault(error) is Fault.DISCONNECTED:
                    raise OutcomeUnknown(
                        "the connection to the database was lost during COMMIT; repeat the request with the "
                        "same Idempotency-Key or Producer-Sequence",
                        outcome="unknown",
                    ) from error
                self._refuse(error, last=attempt == _ATTEMPTS)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    @property
    def full(self) -> bool:
        """Whether the disk is full, so that appends are refused."""
        return self._space is not None and self._space.exhausted

    async def look_for_space(self) -> bool:
        """Let appends go on once the disk has space again. Return False: one look is enough."""
        if self._space is not None and self._space.exhausted:
            await asyncio.get_running_loop().run_in_executor(self._writers, self._space.restore)
        return False

    def close(self) -> None:
        """Wait for running queries and release the database."""
        self._readers.shutdown()
        self._writers.shutdown()
        self.dialect.close()

    def _refuse(self, error: DBAPIError, *, last: bool) -> None:
        """Raise what the error means, or return if the transaction is worth another attempt."""
        fault = self.dialect.fault(error)
        if fault in {Fault.CONFLICT, Fault.DISCONNECTED} and not last:
            return
        if fault is Fault.DISK_FULL and self._space is not None:
            self._space.exhaust()
        if (refusal := _REFUSALS.get(fault)) is None:
            raise error
        raise refusal[0](refusal[1]) from error


_REFUSALS: dict[Fault, tuple[type[BrokerError], str]] = {
    Fault.CONFLICT: (ServiceUnavailable, "the database is busy with conflicting requests; try again"),
    Fault.BUSY: (LockTimeout, "a lock in the database was not to be had in time; try again"),
    Fault.DISCONNECTED: (ServiceUnavailable, "the database cannot be reached; try again"),
    Fault.DISK_FULL: (DiskFull, "the database has no space left; nothing was written"),
}
