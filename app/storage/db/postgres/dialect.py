"""PostgreSQL 14 and later, over psycopg 3: several nodes on one database."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg import errors, pq
from sqlalchemy import Connection, Engine, Executable, Table, create_engine, event
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import Dialect as SqlDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from app.domain.log.append import KeyId, KeyRow, Row
from app.storage.db.dialect import Gauge
from app.storage.db.faults import Fault
from app.storage.db.postgres.pipeline import (
    STATEMENT_TIMEOUT_S,
    BoundedConnection,
    Pipeline,
    byteas,
    int2s,
    int8s,
)
from app.storage.db.postgres.sqlstates import WrongEncoding, fault_of, is_rolled_back
from app.storage.db.postgres.url import PostgresUrl
from app.storage.db.transaction import Statement, Tx

_LANES = 2
"""More lanes would share one interpreter lock, with smaller batches."""
_CANCEL_S = 0.5
_SPARE_WRITERS = 2
_READERS = 4

_LOCK_CLASS = 0x4D52
"""First half of the keys of advisory locks ("MR"): other users of the database have other keys."""

_COLUMNS = "record_id, timestamp_ms, encoding, key, value, headers, start_bytes, max_timestamp_ms"
_TYPES = ["int8", "int8", "int2", "bytea", "bytea", "bytea", "int8", "int8"]
_PACK: list[Callable[[Any], bytes]] = [int8s, int8s, int2s, byteas, byteas, byteas, int8s, int8s]
_ARRAYS = ", ".join(f"${number}::{name}[]" for number, name in enumerate(_TYPES, 1))
_APPEND = f"INSERT INTO records ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS})"  # noqa: S608 - constants

_LOCK_KEYS = """
WITH locked AS (
    INSERT INTO idempotency_keys (topic_id, key_hash, fingerprint, created_at_ms)
    SELECT topic_id, key_hash, '', $3::int8 FROM unnest($1::int8[], $2::bytea[]) AS given (topic_id, key_hash)
    ON CONFLICT (topic_id, key_hash) DO UPDATE SET key_hash = excluded.key_hash
    RETURNING topic_id, key_hash, fingerprint, result, created_at_ms
)
SELECT topic_id, key_hash, fingerprint, result, created_at_ms FROM locked WHERE result IS NOT NULL
"""
"""The update changes nothing: it locks an existing row, so that it cannot expire before it is read."""
_SAVE_KEYS = """
UPDATE idempotency_keys AS stored
SET fingerprint = given.fingerprint, result = given.result, created_at_ms = given.created_at_ms
FROM unnest($1::int8[], $2::bytea[], $3::bytea[], $4::bytea[], $5::int8[])
     AS given (topic_id, key_hash, fingerprint, result, created_at_ms)
WHERE stored.topic_id = given.topic_id AND stored.key_hash = given.key_hash
"""
_PACK_KEYS: list[Callable[[Any], bytes]] = [int8s, byteas, byteas, byteas, int8s]

_LOCK_PARTITIONS = f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, id::int4) FROM unnest($1::int8[]) AS id"  # noqa: S608 - constants
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""Both modes are stated: a role, a database or a server can have other defaults."""
_SESSION = """
SELECT set_config('lock_timeout', '5s', false),
       set_config('client_min_messages', 'warning', false),
       set_config('idle_in_transaction_session_timeout', '5s', false),
       set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                  THEN 'on' ELSE current_setting('synchronous_commit') END, false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('jit', 'off', false)
"""
"""Every statement on the log uses an index. Without statistics, or with those of an empty table, the planner would read
all of `records` to find the end of a partition, and a prepared statement would keep this plan.
"""

POOLED = (
    "the database URL leads to a connection pooler that gives one session to several connections, as pgbouncer does "
    "with pool_mode = transaction: prepared statements, locks and LISTEN need sessions; use pool_mode = session for "
    "this database, or a URL that leads to PostgreSQL itself"
)
_SESSIONS = "SELECT pg_backend_pid(), pg_postmaster_start_time()::text"
_SESSION_ROUNDS = 3
_NOTIFICATIONS = 4
_NOTIFICATION_S = 1.0


_GAUGES = """
SELECT pg_database_size(current_database()), greatest(
    coalesce((SELECT extract(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity
              WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()), 0),
    coalesce((SELECT extract(epoch FROM max(clock_timestamp() - prepared)) FROM pg_prepared_xacts), 0))
"""


class Postgres:
    """The dialect of PostgreSQL.

    An append locks its partitions by advisory locks, in ascending order, until it commits. It reads the log ends in a
    separate statement after the lock, because a statement sees only what was committed before it began.
    """

    name = "postgresql"
    readers = _READERS
    writers = _LANES + _SPARE_WRITERS
    lanes = _LANES
    page_reads = _READERS
    shared = True
    path = None
    begin_statements: Sequence[Statement] = ()
    driver_error: type[Exception] = psycopg.Error
    compiler: SqlDialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call] # SQLAlchemy

    def __init__(self, url: PostgresUrl) -> None:
        self.location = url.location
        self._options = url.options
        self.write_engine = _engine(url.options, self.writers, reads=False)
        self.read_engine = _engine(url.options, self.readers, reads=True)

    def insert(self, table: Table) -> Insert:
        """Return the INSERT of PostgreSQL, which has ON CONFLICT."""
        return insert(table)

    def upsert(self, table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Executable:
        """Return the statement that inserts rows, and sets columns of rows that exist; it is built once."""
        return _upsert(table, keys, columns)

    def fetch(self, tx: Tx, sql: str, parameters: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - the driver's
        """Run the deferred statements and a SELECT in one round trip, and return all rows."""
        return self._run(tx, Statement(sql, parameters))

    def defer(self, tx: Tx, sql: str, parameters: Any) -> None:  # noqa: ANN401 - the driver's
        """Run a statement with the next one, which may be COMMIT."""
        tx.deferred.append(Statement(sql, parameters))

    def append_records(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Insert rows of `records` from one array per column, with the next statement, which may be COMMIT."""
        columns = zip(*rows, strict=True)
        tx.deferred.append(Statement(_APPEND, [pack(column) for pack, column in zip(_PACK, columns, strict=True)]))

    def lock_keys(self, tx: Tx, ids: Sequence[KeyId], now_ms: int) -> list[KeyRow]:
        """Insert the keys, or lock their rows, in the order given, and return those that have a result."""
        topic_ids, hashes = zip(*ids, strict=True)
        found: list[KeyRow] = self._run(tx, Statement(_LOCK_KEYS, [int8s(topic_ids), byteas(hashes), now_ms]))
        return found

    def save_keys(self, tx: Tx, rows: Sequence[KeyRow]) -> None:
        """Write the rows with the next statement, which may be COMMIT."""
        columns = zip(*rows, strict=True)
        packed = [pack(column) for pack, column in zip(_PACK_KEYS, columns, strict=True)]
        tx.deferred.append(Statement(_SAVE_KEYS, packed))

    def lock_partitions(self, tx: Tx, partition_ids: Sequence[int]) -> None:
        """Lock each partition by an advisory lock, in the order given, before the next statement."""
        tx.deferred.append(Statement(_LOCK_PARTITIONS, [int8s(partition_ids)]))

    def flush(self, tx: Tx) -> None:
        """Run the deferred statements."""
        self._run(tx)

    def commit(self, tx: Tx) -> None:
        """Run the deferred statements, and commit.

        Raises:
            NotConfirmed: The server has committed, but not as durably as its settings say.
            RolledBack: A statement had failed, so the server has rolled back.
        """
        statements, tx.deferred = tx.deferred, []
        pipeline: Pipeline = tx.connection.info["pipeline"]
        pipeline.commit(statements)
        tx.connection.commit()

    def _run(self, tx: Tx, *statements: Statement) -> list[tuple[Any, ...]]:
        statements, tx.deferred = (*tx.deferred, *statements), []
        pipeline: Pipeline = tx.connection.info["pipeline"]
        return pipeline.run(statements)

    def fault(self, error: Exception) -> Fault:
        """Classify an error by its SQLSTATE."""
        return fault_of(error.orig if isinstance(error, DBAPIError) else error)

    def is_rolled_back(self, error: Exception) -> bool:
        """Return whether an error of COMMIT says that nothing was written."""
        return is_rolled_back(error.orig if isinstance(error, DBAPIError) else error)

    @contextlib.contextmanager
    def slow_statements(self, tx: Tx, seconds: float | None) -> Iterator[None]:
        """Allow statements that run for longer than those of requests; None for no limit."""
        driver: BoundedConnection = tx.driver()
        driver.statement_timeout_s = seconds
        try:
            yield
        finally:
            driver.statement_timeout_s = STATEMENT_TIMEOUT_S

    def vacuum(self, connection: Connection) -> None:
        """Do nothing: autovacuum does this."""

    def free_disk(self, connection: Connection, missing_bytes: int) -> None:
        """Do nothing: the server manages its disk."""

    def gauges(self, tx: Tx) -> Sequence[Gauge]:
        """Return the size of the database, and the age of its oldest snapshot, which keeps dead rows from removal."""
        ((size_bytes, oldest_s),) = self.fetch(tx, _GAUGES, ())
        return (
            Gauge("postgres_database_bytes", "Size of the database.", float(size_bytes)),
            Gauge(
                "postgres_oldest_snapshot_seconds",
                "Age of the oldest transaction of the server with a snapshot or an id, prepared ones included.",
                float(oldest_s),
            ),
        )

    def save_log(self, connection: Connection) -> None:
        """Do nothing: the server has the files."""

    def sessions_shared(self) -> str | None:
        """Return what to do if a pooler gives one session to several connections, or None.

        Raises:
            psycopg.Error: The server cannot be reached.
        """
        with (
            BoundedConnection.connect(**self._options, autocommit=True, prepare_threshold=None) as one,
            BoundedConnection.connect(**self._options, autocommit=True, prepare_threshold=None) as other,
        ):
            seen: list[set[Any]] = [set(), set()]
            for _ in range(_SESSION_ROUNDS):
                for sessions, connection in zip(seen, (one, other), strict=True):
                    sessions.add(connection.execute(_SESSIONS).fetchone())
            is_shared = seen[0] & seen[1] or any(len(sessions) > 1 for sessions in seen)
            return POOLED if is_shared or not _receives(one, other) else None

    def cancel(self, connections: Sequence[Connection]) -> None:
        """Cancel active statements, and end those that do not end within half a second."""
        drivers = [each.connection.driver_connection for each in connections]
        active = [each for each in drivers if isinstance(each, BoundedConnection) and _is_active(each)]
        threads = [threading.Thread(target=_cancel, args=(driver,), daemon=True) for driver in active]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_CANCEL_S)

    def close(self) -> None:
        """Close all connections."""
        self.read_engine.dispose()
        self.write_engine.dispose()


def _is_active(driver: BoundedConnection) -> bool:
    return driver.info.transaction_status == pq.TransactionStatus.ACTIVE


def _cancel(driver: BoundedConnection) -> None:
    driver.statement_timeout_s = _CANCEL_S
    with contextlib.suppress(psycopg.Error):
        driver.cancel_safe(timeout=_CANCEL_S)


def _receives(listener: psycopg.Connection[Any], sender: psycopg.Connection[Any]) -> bool:
    """Return whether a notification arrives. A standby has none."""
    channel = f"millrace_{secrets.token_hex(6)}"
    try:
        listener.execute(f"LISTEN {channel}")
        for _ in range(_NOTIFICATIONS):
            sender.execute(f"NOTIFY {channel}")
            if any(listener.notifies(timeout=_NOTIFICATION_S, stop_after=1)):
                return True
    except errors.ReadOnlySqlTransaction:
        return True
    return False


def _check_encoding(connection: psycopg.Connection) -> None:
    """Refuse a database that cannot store every text.

    Raises:
        WrongEncoding: With the command that creates another database.
    """
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        raise WrongEncoding(
            f"the encoding of the database {connection.info.dbname} is {encoding}, and it must be UTF8; "
            "create another: CREATE DATABASE millrace ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C'"
        )


def _engine(options: dict[str, Any], size: int, *, reads: bool) -> Engine:
    engine = create_engine(
        "postgresql+psycopg://",
        pool_size=size,
        max_overflow=0,
        isolation_level="REPEATABLE READ" if reads else "READ COMMITTED",
    )

    def set_up(connection: psycopg.Connection, record: ConnectionPoolEntry) -> None:
        _check_encoding(connection)
        connection.autocommit = True
        connection.execute(_SESSION)
        connection.autocommit = False
        connection.read_only = reads
        connection.prepare_threshold = None  # else psycopg deallocates all prepared statements at each ROLLBACK
        record.info["pipeline"] = Pipeline(connection, _BEGIN_READ if reads else _BEGIN_WRITE)

    def connect(*_: object) -> BoundedConnection:
        """Connect by libpq's own parameters, of which SQLAlchemy's URLs have only a part."""
        return BoundedConnection.connect(**options)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", set_up)
    return engine


@cache
def _upsert(table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Insert:
    statement = insert(table)
    values = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=list(keys), set_=values)
