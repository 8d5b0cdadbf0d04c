"""The clock of the database, which all nodes share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.storage.db.statements import CompiledStatement
from app.storage.db.transaction import Tx


class now_ms(FunctionElement[int]):  # noqa: N801 - a function of SQL
    """The time at which the statement runs, not its transaction: Unix epoch in milliseconds."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _postgresql(*_: Any, **__: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


@compiles(now_ms, "sqlite")
def _sqlite(*_: Any, **__: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "now_ms()"


_NOW = CompiledStatement(select(now_ms()))


def read(tx: Tx) -> int:
    """Return the time of the database: Unix epoch in milliseconds, never before the last lock was granted."""
    return int(_NOW.rows(tx, {})[0][0])
