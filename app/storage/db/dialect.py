"""The differences between SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Engine, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect as SqlDialect

from app.domain.log.append import KeyId, KeyRow, Row
from app.storage.db.faults import Fault
from app.storage.db.transaction import Statement, Tx


class Gauge(NamedTuple):
    """A metric of the database: its name, what it means, and its value."""

    name: str
    meaning: str
    value: float


class Dialect(Protocol):
    """The differences between SQLite and PostgreSQL. No other code depends on which database it is.

    Attributes:
        name: The name of the database.
        location: Where the database is, without password and parameters.
        readers: Threads and connections for reads.
        writers: Threads and connections for writes.
        lanes: Group commits that run concurrently.
        page_reads: Pages of records that are read concurrently.
        shared: Whether other processes use the same database.
        begin_statements: Statements that begin a write if the driver does not, deferred until its first statement.
        driver_error: The base class of the driver's errors.
        compiler: Compiles the SQL of a `CompiledStatement`.
    """

    name: str
    location: str
    readers: int
    writers: int
    lanes: int
    page_reads: int
    shared: bool
    begin_statements: Sequence[Statement]
    read_engine: Engine
    write_engine: Engine
    driver_error: type[Exception]
    compiler: SqlDialect

    @property
    def path(self) -> Path | None:
        """The file of the database; None for a server."""

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return the dialect's INSERT, which has ON CONFLICT."""

    def upsert(self, table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Executable:
        """Return the statement that inserts rows, and sets columns of rows that exist; it is built once."""

    def fetch(self, tx: Tx, sql: str, parameters: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - the driver's
        """Run a compiled SELECT on the driver's connection and return all rows."""

    def defer(self, tx: Tx, sql: str, parameters: Any) -> None:  # noqa: ANN401 - the driver's
        """Run a compiled statement without a result, at the latest with COMMIT."""

    def append_records(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Insert rows of `records` in bulk."""

    def lock_keys(self, tx: Tx, ids: Sequence[KeyId], now_ms: int) -> list[KeyRow]:
        """Lock Idempotency-Keys, given in ascending order, and return the rows of those that have a result.

        Another transaction that locks one of them waits for the end of this one.
        """

    def save_keys(self, tx: Tx, rows: Sequence[KeyRow]) -> None:
        """Write the rows of locked Idempotency-Keys."""

    def lock_partitions(self, tx: Tx, partition_ids: Sequence[int]) -> None:
        """Lock partitions, given in ascending order, until the transaction ends."""

    def flush(self, tx: Tx) -> None:
        """Run the deferred statements."""

    def commit(self, tx: Tx) -> None:
        """Run the deferred statements, and commit."""

    def fault(self, error: Exception) -> Fault:
        """Classify a database error."""

    def is_rolled_back(self, error: Exception) -> bool:
        """Return whether an error of COMMIT, or of a statement sent with it, says that nothing was written."""

    def slow_statements(self, tx: Tx, seconds: float | None) -> contextlib.AbstractContextManager[None]:
        """Allow statements that run for longer than those of requests; None for no limit."""

    def vacuum(self, connection: Connection) -> None:
        """Return some unused pages to the file system, in one short step, if the database does not do so itself."""

    def free_disk(self, connection: Connection, missing_bytes: int) -> None:
        """Return the unused space of the database's files to a full disk, outside any transaction.

        Args:
            connection: The connection that writes.
            missing_bytes: How many bytes the disk lacks.
        """

    def save_log(self, connection: Connection) -> None:
        """Save what a write-ahead log beside a moved or deleted file holds."""

    def gauges(self, tx: Tx) -> Sequence[Gauge]:
        """Return the metrics of this database besides those of both."""

    def sessions_shared(self) -> str | None:
        """Return what to do if a pooler gives one session to several connections, or None."""

    def cancel(self, connections: Sequence[Connection]) -> None:
        """Cancel statements that run on the connections of other threads, if they may block."""

    def close(self) -> None:
        """Release connections, locks and files."""
