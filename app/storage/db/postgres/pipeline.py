"""Statements with a time limit, several in one round trip to PostgreSQL, and arrays in its binary format.

Each round trip passes the interpreter's lock to the event loop and back. BEGIN, lock, log ends, INSERT and COMMIT
one by one cost the client 450–650 µs of CPU; in two round trips by libpq's pipeline they cost 160–200 µs. The pipeline
mode of psycopg saves nothing: its cursors support any statement, while all statements here are prepared.
"""

from __future__ import annotations

import itertools
import secrets
import struct
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg import errors, pq, waiting
from psycopg.abc import PQGen
from psycopg.adapt import Transformer

from app.storage.db.transaction import Statement

RV = TypeVar("RV")

_OK = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}
_ROWS = pq.ExecStatus.TUPLES_OK
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_TEXT, _BINARY = 0, 1

_COMMIT = Statement("COMMIT")
_STANDBY_WAIT = "SyncRepWaitForLSN"
"""The function of the server that warns, in all versions, when it ends the wait for a standby before its answer."""

STALE = (errors.InvalidSqlStatementName, errors.FeatureNotSupported)
"""Errors of a prepared statement that the server has dropped, or whose table was changed after it was prepared."""

STATEMENT_TIMEOUT_S = 5.5
"""Longer than the wait for a lock, which the server ends after 5 s."""
_INTERVAL_S = 0.1

_INT8_OID, _INT2_OID, _BYTEA_OID = 20, 21, 17
_HEADER = struct.Struct(">iiiii")
_NULL = b"\xff\xff\xff\xff"
_length = struct.Struct(">i").pack


class StatementTimedOut(psycopg.OperationalError):
    """The server was silent for too long: it is frozen, or the network drops packets. The connection is closed."""


class RolledBack(errors.InFailedSqlTransaction):
    """COMMIT was not sent, or the server has answered it with ROLLBACK, because a statement had failed before."""


class NotConfirmed(psycopg.OperationalError):
    """The server has committed, but the wait for its standbys was cancelled: a failover can lose the transaction."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that ends a statement, and itself, after a time without a byte from the server.

    The operating system of a frozen server still confirms packets, so neither keepalives nor TCP's own timeouts end
    such a wait.

    Attributes:
        statement_timeout_s: The longest silence in seconds; None for no limit. Any thread may change it.
    """

    statement_timeout_s: float | None = STATEMENT_TIMEOUT_S

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL_S, timeout: float | None = None) -> RV:
        """Run a generator of psycopg. The clock is read only after an interval without an answer."""
        return super().wait(self._limited(gen), interval, timeout)

    def _limited(self, gen: PQGen[RV]) -> PQGen[RV]:
        silent_since: float | None = None
        try:
            state = next(gen)
            while True:
                ready = yield state
                if ready:
                    silent_since = None
                elif silent_since is None:
                    silent_since = time.monotonic() - _INTERVAL_S
                elif (limit := self.statement_timeout_s) is not None and time.monotonic() - silent_since >= limit:
                    self.close()
                    gen.close()
                    raise StatementTimedOut(f"the server sent nothing for {limit:g} seconds")
                state = gen.send(ready)
        except StopIteration as stop:
            result: RV = stop.value
            return result


class Pipeline:
    """Runs prepared statements on a psycopg connection, all statements of a call in one round trip.

    Args:
        connection: A transaction may be begun here and ended by psycopg, or begun by psycopg and ended here.
        begin: The statement that begins a transaction.
    """

    def __init__(self, connection: psycopg.Connection[Any], begin: str) -> None:
        self._connection = connection
        self._begin = Statement(begin)
        self._names: dict[str, bytes] = {}
        self._prefix = f"millrace_{secrets.token_hex(6)}_".encode()
        """No other connection has it: behind a pooler, a name may reach the session of another connection."""
        self._numbers = itertools.count()
        self._is_confirmed = True
        connection.add_notice_handler(self._note)

    def run(self, statements: Sequence[Statement]) -> list[tuple[Any, ...]]:
        """Run statements in order, in the open transaction or in a new one, and return the rows of the last one.

        Raises:
            psycopg.Error: Of the first statement that failed; the statements after it did not run.
        """
        result = self._last_result(statements)
        if result.status != _ROWS:
            return []
        rows = Transformer(self._connection)
        rows.set_pgresult(result)
        return rows.load_rows(0, result.ntuples, tuple)

    def commit(self, statements: Sequence[Statement]) -> None:
        """Run statements and COMMIT. Do nothing without statements if no transaction is open.

        Raises:
            RolledBack: A statement had failed, or the connection was lost, before COMMIT was sent.
            NotConfirmed: The server has committed without its standbys.
            psycopg.Error: As `run`.
        """
        pgconn = self._connection.pgconn
        if pgconn.status != pq.ConnStatus.OK:
            raise RolledBack("the connection was lost before COMMIT")
        if not statements and pgconn.transaction_status == pq.TransactionStatus.IDLE:
            return
        self._is_confirmed = True
        if self._last_result((*statements, _COMMIT)).command_status == b"ROLLBACK":
            raise RolledBack("a statement had failed before COMMIT")
        if not self._is_confirmed:
            raise NotConfirmed("the wait for the standbys was cancelled during COMMIT")

    def _note(self, notice: errors.Diagnostic) -> None:
        if notice.source_function == _STANDBY_WAIT:
            self._is_confirmed = False

    def _last_result(self, statements: Sequence[Statement]) -> pq.abc.PGresult:
        if self._connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            statements = (self._begin, *statements)
        return self._connection.wait(self._exchange(statements))

    def _exchange(self, statements: Sequence[Statement]) -> PQGen[pq.abc.PGresult]:
        """Send all statements, read all results, and return the last one."""
        pgconn, known = self._connection.pgconn, len(self._names)
        pgconn.enter_pipeline_mode()
        try:
            for statement in statements:
                self._send(pgconn, statement)
            pgconn.pipeline_sync()
            results = yield from _results(pgconn)
            if (failed := next((result for result in results if result.status not in _OK), None)) is not None:
                raise errors.error_from_result(failed)
            return results[-1]
        except BaseException as error:
            for sql in [*self._names][0 if isinstance(error, STALE) else known :]:
                del self._names[sql]
            raise
        finally:
            if pgconn.status == pq.ConnStatus.OK:
                pgconn.exit_pipeline_mode()

    def _send(self, pgconn: pq.abc.PGconn, statement: Statement) -> None:
        """Send a statement, prepared right before its first use: no statement may precede BEGIN."""
        sql, parameters = statement
        if (name := self._names.get(sql)) is None:
            name = self._names[sql] = b"%b%d" % (self._prefix, next(self._numbers))
            pgconn.send_prepare(name, sql.encode())
        values = [_encoded(parameter) for parameter in parameters]
        formats = [_BINARY if isinstance(parameter, bytes) else _TEXT for parameter in parameters]
        pgconn.send_query_prepared(name, values, formats, _BINARY)


def _results(pgconn: pq.abc.PGconn) -> PQGen[list[pq.abc.PGresult]]:
    results: list[pq.abc.PGresult] = []
    unsent = pgconn.flush()
    while True:
        ready = yield waiting.Wait.RW if unsent else waiting.Wait.R
        if unsent:
            unsent = pgconn.flush()
        if not ready & waiting.Ready.R:
            continue
        pgconn.consume_input()
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                continue
            if result.status == _SYNC:
                return results
            results.append(result)


def _encoded(parameter: int | str | bytes | None) -> bytes | None:
    if isinstance(parameter, int):
        return b"%d" % parameter
    return parameter.encode() if isinstance(parameter, str) else parameter


def int8s(values: Sequence[int]) -> bytes:
    """Pack a bigint[]."""
    return _integers("q", len(values)).pack(1, 0, _INT8_OID, len(values), 1, *_with_sizes(8, values))


def int2s(values: Sequence[int]) -> bytes:
    """Pack a smallint[]."""
    return _integers("h", len(values)).pack(1, 0, _INT2_OID, len(values), 1, *_with_sizes(2, values))


def byteas(values: Sequence[bytes | None]) -> bytes:
    """Pack a bytea[]."""
    head = _HEADER.pack(1, 1, _BYTEA_OID, len(values), 1)
    if values.count(None) == len(values):
        return head + _NULL * len(values)
    return head + b"".join([_NULL if value is None else _length(len(value)) + value for value in values])


@lru_cache(maxsize=1024)
def _integers(code: str, count: int) -> struct.Struct:
    return struct.Struct(_HEADER.format + f"i{code}" * count)


def _with_sizes(size: int, values: Sequence[int]) -> list[int]:
    flat = [size] * (2 * len(values))
    flat[1::2] = values
    return flat
