"""An open transaction, and the statements that wait for the next round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection

from app.storage.db.log_ends import LogEnds

if TYPE_CHECKING:
    from app.storage.db.dialect import Dialect


class Statement(NamedTuple):
    """SQL and its parameters, by position."""

    sql: str
    parameters: Sequence[int | str | bytes | None] = ()


class Tx:
    """An open transaction and its dialect.

    Attributes:
        deferred: Statements that run with the next one, in the same round trip.
        log_ends: The ends of partitions that this process has written; None in a read, and where other processes
            append too.
    """

    __slots__ = ("_connection", "deferred", "dialect", "log_ends")

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        begin_statements: Sequence[Statement] = (),
        log_ends: LogEnds | None = None,
    ) -> None:
        self._connection = connection
        self.dialect = dialect
        self.deferred = [*begin_statements]
        self.log_ends = log_ends

    @property
    def connection(self) -> Connection:
        """The connection, after the deferred statements have run."""
        if self.deferred:
            self.dialect.flush(self)
        return self._connection

    def driver(self) -> Any:  # noqa: ANN401 - a connection of sqlite3 or psycopg
        """Return the driver's connection, in the same transaction, for hot paths."""
        return self.connection.connection.driver_connection
