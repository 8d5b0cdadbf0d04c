"""Statements that SQLAlchemy compiles once and the driver runs, for hot paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import SelectBase, Update

from app.storage.db.transaction import Tx


class CompiledStatement:
    """A statement for hot paths: compiled once per database, run on the driver's connection in the same transaction.

    One parameter may be a list (`expanding`). A list is filled up to the next power of two with copies of its last
    entry, which keeps the number of prepared statements small.
    """

    def __init__(self, statement: SelectBase | Update, *, expanding: str = "") -> None:
        self._statement = statement
        self._expanding = expanding
        self._compiled: dict[tuple[str, int], _Compiled] = {}

    def rows(self, tx: Tx, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return all rows."""
        return tx.dialect.fetch(tx, *self._prepared(tx, parameters))

    def defer(self, tx: Tx, parameters: dict[str, Any]) -> None:
        """Run the statement without a result, at the latest with COMMIT."""
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
    """SQL for the driver.

    Attributes:
        constants: Parameters with a value of their own.
        names: Names of the parameters of the list's entries.
        order: Names of all parameters, if the driver takes them by position.
    """

    sql: str
    constants: dict[str, Any]
    names: list[str]
    order: Sequence[str] | None
