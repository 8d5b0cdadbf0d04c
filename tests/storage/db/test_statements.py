"""Compiled statements: compiled once, and run with the parameters of each call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, bindparam, select

from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import partitions
from tests.storage.scribe import Scribe

if TYPE_CHECKING:
    from app.storage.db.engine import Storage


def test_a_parameter_beside_a_list_has_the_value_of_each_call(storage: Storage) -> None:
    found = Scribe(storage).create("orders", partitions=2).partition_ids
    statement = CompiledStatement(
        select(bindparam("given", type_=BigInteger), partitions.c.partition).where(
            partitions.c.partition_id.in_(bindparam("ids", expanding=True))
        ),
        expanding="ids",
    )

    rows = [storage.read_now(statement.rows, {"ids": list(found), "given": given}) for given in (1, 2)]

    assert [sorted(each) for each in rows] == [[(1, 0), (1, 1)], [(2, 0), (2, 1)]]
