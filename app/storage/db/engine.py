"""The border between the event loop and the database: one transaction per call, in a worker thread."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, SelectBase, Table, Update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect as SqlDialect
from sqlalchemy.exc import DBAPIError

from app.domain.log.append import Row
from app.errors.broker_error import BrokerError
from app.errors.database import DiskFull, LockTimeout, OutcomeUnknown, ServiceUnavailable
from app.storage.db.log_ends import LogEnds

P = ParamSpec("P")
T = TypeVar("T")

_ATTEMPTS = 3


class Fault(enum.Enum):
    """What a database error means for the transaction it ended."""

    CONFLICT = "serialization failure, deadlock or stale statement: the same transaction may succeed now"
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
        page_reads: Pages of records that are best read at once.
        compiler: Writes the SQL of a `Query`.
        shared: Whether other processes may use the database at the same time.
        opening: What begins a write, where the driver does not; deferred until the first statement.
    """

    name: str
    readers: int
    writers: int
    lanes: int
    page_reads: int
    shared: bool
    opening: Sequence[Statement]
    read_engine: Engine
    write_engine: Engine
    driver_error: type[Exception]
    compiler: SqlDialect

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return the dialect's INSERT, which knows ON CONFLICT."""

    def fetch(self, tx: Tx, sql: str, parameters: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - the driver's
        """Run a SELECT of `compiler` on the driver's connection and return all rows."""

    def defer(self, tx: Tx, sql: str, parameters: Any) -> None:  # noqa: ANN401 - the driver's
        """Run a statement of `compiler` whose rows nobody wants, at the latest with COMMIT."""

    def append_records(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Insert rows of `records` in bulk."""

    def lock_partitions(self, tx: Tx, partition_ids: Sequence[int]) -> None:
        """Lock partitions, given in ascending order, until the transaction ends."""

    def flush(self, tx: Tx) -> None:
        """Run what was deferred."""

    def commit(self, tx: Tx) -> None:
        """Run what was deferred, and commit."""

    def fault(self, error: Exception) -> Fault:
        """Classify a database error."""

    def tidy(self, connection: Connection) -> None:
        """Give freed space back, in one short step, where the database does not do so itself."""

    def reclaim(self, connection: Connection) -> None:
        """Free what the database itself holds of a full disk, outside any transaction."""

    def cancel(self, connections: Sequence[Connection]) -> None:
        """Cut short what still runs on connections of other threads, where it may hang."""

    def close(self) -> None:
        """Release connections, locks and files."""


class Statement(NamedTuple):
    """SQL and its parameters, by position."""

    sql: str
    parameters: Sequence[int | str | bytes | None] = ()


class Tx:
    """An open transaction and the dialect it speaks.

    Attributes:
        deferred: Statements that go to the database with the next one: they share its round trip.
        log_ends: The ends of partitions that this process has written; None in a read, and where other processes
            append too.
    """

    __slots__ = ("_connection", "deferred", "dialect", "log_ends")

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        opening: Sequence[Statement] = (),
        log_ends: LogEnds | None = None,
    ) -> None:
        self._connection = connection
        self.dialect = dialect
        self.deferred = [*opening]
        self.log_ends = log_ends

    @property
    def connection(self) -> Connection:
        """The connection, once what was deferred has run."""
        if self.deferred:
            self.dialect.flush(self)
        return self._connection

    def driver(self) -> Any:  # noqa: ANN401 - a connection of sqlite3 or psycopg
        """Return the driver's connection, in the same transaction: for hot paths."""
        return self.connection.connection.driver_connection


class Query:
    """A statement for hot paths: compiled once, run on the driver's connection in the same transaction.

    One parameter may be a list (`expanding`). Lists are filled up to the next power of two by repeating their
    last entry, so that there are few statements to prepare.
    """

    def __init__(self, statement: SelectBase | Update, *, expanding: str = "") -> None:
        self._statement = statement
        self._expanding = expanding
        self._compiled: dict[tuple[str, int], _Compiled] = {}

    def rows(self, tx: Tx, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return all rows."""
        return tx.dialect.fetch(tx, *self._prepared(tx, parameters))

    def defer(self, tx: Tx, parameters: dict[str, Any]) -> None:
        """Run a statement without rows, at the latest with COMMIT."""
        tx.dialect.defer(tx, *self._prepared(tx, parameters))

    def _prepared(self, tx: Tx, parameters: dict[str, Any]) -> tuple[str, Any]:
        length = 0
        if self._expanding:
            entries = parameters[self._expanding]
            length = 1 << (len(entries) - 1).bit_length()
        compiled = self._compiled.get((tx.dialect.name, length)) or self._compile(tx, length, parameters)
        if self._expanding:
            filled = (*entries, *(entries[-1:] * (length - len(entries))))
            parameters = parameters | dict(zip(compiled.names, filled, strict=True))
        given: Any = compiled.constants | parameters
        if compiled.order is not None:
            given = [given[name] for name in compiled.order]
        return compiled.sql, given

    def _compile(self, tx: Tx, length: int, parameters: dict[str, Any]) -> _Compiled:
        compiled = self._statement.compile(dialect=tx.dialect.compiler)
        sample = parameters | ({self._expanding: [0] * length} if length else {})
        state = compiled.construct_expanded_state(sample, escape_names=False)
        names = list(state.parameter_expansion.get(self._expanding, ()))
        listed = set(names)
        constants = {name: value for name, value in state.parameters.items() if name not in listed}
        result = _Compiled(state.statement, constants, names, state.positiontup)
        self._compiled[tx.dialect.name, length] = result
        return result


class _Compiled(NamedTuple):
    """SQL of the driver: its constants, the names of the list's entries, and the order where it is by position."""

    sql: str
    constants: dict[str, Any]
    names: list[str]
    order: Sequence[str] | None


class SpaceMonitor(Protocol):
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

    def __init__(self, dialect: Dialect, space: SpaceMonitor | None = None) -> None:
        self.dialect = dialect
        self._space = space
        self._log_ends = None if dialect.shared else LogEnds()
        self._readers = ThreadPoolExecutor(dialect.readers, "millrace-read", self._begin_worker)
        self._writers = ThreadPoolExecutor(dialect.writers, "millrace-write", self._begin_worker)
        self._errors = (DBAPIError, dialect.driver_error)
        self._worker = threading.local()
        self._connections: list[Connection] = []

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
        """Run a read and wait for it, from any thread."""
        if not self._in_worker():
            return self._readers.submit(lambda: self.read_now(query, *args, **kwargs)).result()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                connection = self._connection(self.dialect.read_engine)
                try:
                    connection.begin()
                    return query(Tx(connection, self.dialect), *args, **kwargs)
                finally:
                    self._release(connection)
            except self._errors as error:
                self._refuse(error, last=attempt == _ATTEMPTS)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def write_now(self, query: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a write and wait for it, from any thread; a lost connection or conflict before COMMIT is tried again."""
        if not self._in_worker():
            return self._writers.submit(lambda: self.write_now(query, *args, **kwargs)).result()
        for attempt in range(1, _ATTEMPTS + 1):
            committing = False
            try:
                connection = self._connection(self.dialect.write_engine)
                try:
                    connection.begin()
                    tx = Tx(connection, self.dialect, self.dialect.opening, self._log_ends)
                    result = query(tx, *args, **kwargs)
                    committing = True
                    self.dialect.commit(tx)
                    return result
                except BaseException:
                    if self._log_ends is not None:
                        self._log_ends.clear()
                    if committing:
                        connection.invalidate()
                    raise
                finally:
                    self._release(connection)
            except self._errors as error:
                if committing and self.dialect.fault(error) is Fault.DISCONNECTED:
                    raise OutcomeUnknown(
                        "the connection to the database was lost during COMMIT; repeat the request with the "
                        "same Idempotency-Key or Producer-Sequence",
                        outcome="unknown",
                    ) from error
                self._refuse(error, last=attempt == _ATTEMPTS)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def _in_worker(self) -> bool:
        return hasattr(self._worker, "connections")

    def _connection(self, engine: Engine) -> Connection:
        """Return the connection that this worker thread keeps: to take one from the pool costs as much as a read."""
        kept: dict[Engine, Connection] = self._worker.connections
        if (connection := kept.get(engine)) is None:
            connection = kept[engine] = engine.connect()
            self._connections.append(connection)
        return connection

    def _release(self, connection: Connection) -> None:
        """End the transaction if it is still open; drop a connection that cannot even do that."""
        try:
            if (transaction := connection.get_transaction()) is not None:
                transaction.rollback()
        except self._errors:
            connection.invalidate()

    def _begin_worker(self) -> None:
        self._worker.connections = {}

    @property
    def full(self) -> bool:
        """Whether the disk is full, so that appends are refused."""
        return self._space is not None and self._space.exhausted

    async def look_for_space(self) -> bool:
        """Let appends go on once the disk has space again. Return False: one look is enough."""
        if self._space is not None and self._space.exhausted:
            await asyncio.get_running_loop().run_in_executor(self._writers, self._reclaim, self._space)
        return False

    def _reclaim(self, space: SpaceMonitor) -> None:
        with contextlib.suppress(*self._errors):
            self.dialect.reclaim(self._connection(self.dialect.write_engine))
        space.restore()

    def close(self) -> None:
        """End running queries and release the database."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writers.shutdown(wait=False, cancel_futures=True)
        self.dialect.cancel(self._connections)
        self._readers.shutdown()
        self._writers.shutdown()
        for connection in self._connections:
            connection.close()
        self.dialect.close()

    def _refuse(self, error: Exception, *, last: bool) -> None:
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
