"""PostgreSQL 14 and later: several nodes on one database, over psycopg 3."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors, pq
from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from app.domain.append import PartitionEnd, Row
from app.storage.engine import Fault, Tx

_LANES = 4
_CANCEL_S = 1.0
_SPARE_WRITERS = 2
_READERS = 4

_LOCK_CLASS = 0x4D52
"""First half of the advisory locks' keys ("MR"), apart from other users of the database."""

_COLUMNS = "record_id, timestamp_ms, encoding, key, value, headers, start_bytes, max_timestamp_ms"
_TYPES = ["int8", "int8", "int2", "bytea", "bytea", "bytea", "int8", "int8"]
_ARRAYS = ", ".join(f"%b::{name}[]" for name in _TYPES)
_APPEND = f"INSERT INTO records ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS})"  # noqa: S608 - constants
_COPY = f"COPY records ({_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_COPIED_ROWS = 32

_LOCK_PARTITIONS = "SELECT pg_advisory_xact_lock(%s, id) FROM unnest(%s::int4[]) AS id"

_SESSION = """
SELECT set_config('lock_timeout', '5s', false),
       set_config('idle_in_transaction_session_timeout', '5s', false),
       set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                  THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""

CONNECT_ARGS: dict[str, Any] = {
    "application_name": "millrace",
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


class Postgres:
    """The dialect of PostgreSQL.

    Appends lock their partitions by advisory locks, in ascending order, until they commit; the offset is read
    in a statement of its own after that, since a statement sees what was committed when it began.
    """

    name = "postgresql"
    readers = _READERS
    writers = _LANES + _SPARE_WRITERS
    lanes = _LANES
    page_reads = _READERS
    shared = True
    driver_error: type[Exception] = psycopg.Error

    def __init__(self, url: URL) -> None:
        self.ends: dict[int, PartitionEnd] | None = None
        self.write_engine = _engine(url, self.writers, reads=False)
        self.read_engine = _engine(url, self.readers, reads=True)

    def insert(self, table: Table) -> Insert:
        """Return PostgreSQL's INSERT, which knows ON CONFLICT."""
        return insert(table)

    def fetch(self, tx: Tx, sql: str, parameters: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - the driver's
        """Run a SELECT on the driver's connection and return all rows; bytes come as bytes, not as hex."""
        found: list[tuple[Any, ...]] = tx.driver().execute(sql, parameters, binary=True).fetchall()
        return found

    def append_records(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Insert rows of `records`: few from one array per column, which is one round trip, many by COPY."""
        if len(rows) < _COPIED_ROWS:
            tx.driver().execute(_APPEND, [list(column) for column in zip(*rows, strict=True)])
            return
        with tx.driver().cursor().copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row(row)

    def lock_partitions(self, tx: Tx, partition_ids: Sequence[int]) -> None:
        """Take an advisory lock on each partition, in the order given."""
        tx.driver().execute(_LOCK_PARTITIONS, (_LOCK_CLASS, list(partition_ids)))

    def fault(self, error: Exception) -> Fault:
        """Classify by SQLSTATE."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, errors.SerializationFailure | errors.DeadlockDetected):
            return Fault.CONFLICT
        if isinstance(cause, errors.LockNotAvailable | errors.QueryCanceled):
            return Fault.BUSY
        if isinstance(cause, errors.DiskFull):
            return Fault.DISK_FULL
        if isinstance(cause, psycopg.OperationalError | errors.IdleInTransactionSessionTimeout):
            return Fault.DISCONNECTED
        return Fault.OTHER

    def tidy(self, connection: Connection) -> None:
        """Do nothing: autovacuum does."""

    def reclaim(self, connection: Connection) -> None:
        """Do nothing: the disk is the server's."""

    def cancel(self, connections: Sequence[Connection]) -> None:
        """Ask the server to give up statements that wait for a lock."""
        for connection in connections:
            driver: Any = None if connection.invalidated else connection.connection.driver_connection
            if driver is not None and driver.info.transaction_status == pq.TransactionStatus.ACTIVE:
                with contextlib.suppress(psycopg.Error):
                    driver.cancel_safe(timeout=_CANCEL_S)

    def close(self) -> None:
        """Close all connections."""
        self.read_engine.dispose()
        self.write_engine.dispose()


def _engine(url: URL, size: int, *, reads: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=size,
        max_overflow=0,
        isolation_level="REPEATABLE READ" if reads else "READ COMMITTED",
        connect_args=CONNECT_ARGS,
    )

    def set_up(connection: psycopg.Connection, _: object) -> None:
        connection.autocommit = True
        connection.execute(_SESSION)
        connection.autocommit = False
        connection.read_only = reads

    event.listen(engine, "connect", set_up)
    return engine
