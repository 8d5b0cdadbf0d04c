"""Several statements in one round trip to PostgreSQL: their order, their failures, and packed arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors, pq

from app.storage.db.postgres.pipeline import Pipeline, byteas, int2s, int8s
from app.storage.db.transaction import Statement

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres

int64s = st.integers(-(2**63), 2**63 - 1)
int16s = st.integers(-(2**15), 2**15 - 1)
ADD = "INSERT INTO notes VALUES ($1::bigint)"
ALL = "SELECT array_agg(note ORDER BY note) FROM notes"


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    """A connection to a database with one empty table."""
    with psycopg.connect(postgres_url, prepare_threshold=None) as each:
        each.execute("CREATE TABLE notes (note bigint PRIMARY KEY)")
        each.commit()
        yield each


@pytest.fixture
def pipeline(connection: psycopg.Connection) -> Pipeline:
    """A pipeline of that connection."""
    return Pipeline(connection, "BEGIN")


def test_statements_of_a_call_see_one_another_and_share_a_transaction(
    connection: psycopg.Connection, pipeline: Pipeline
) -> None:
    assert pipeline.run([Statement(ADD, [1]), Statement(ADD, [2]), Statement(ALL)]) == [([1, 2],)]
    assert connection.info.transaction_status == pq.TransactionStatus.INTRANS
    connection.rollback()

    assert pipeline.run([Statement(ALL)]) == [(None,)]


def test_the_first_failure_is_raised_and_nothing_after_it_runs(
    connection: psycopg.Connection, pipeline: Pipeline
) -> None:
    with pytest.raises(errors.UniqueViolation):
        pipeline.run([Statement(ADD, [1]), Statement(ADD, [1]), Statement("SELECT 1 / 0"), Statement("COMMIT")])
    connection.rollback()

    assert pipeline.run([Statement(ALL)]) == [(None,)]


def test_statements_first_used_in_a_failed_call_can_be_used_again(
    connection: psycopg.Connection, pipeline: Pipeline
) -> None:
    for _ in range(3):
        with pytest.raises(errors.DivisionByZero):
            pipeline.run([Statement(ADD, [1]), Statement("SELECT 1 / $1::int", [0]), Statement(ALL)])
        connection.rollback()

    assert pipeline.run([Statement(ADD, [7]), Statement(ALL)]) == [([7],)]


@pytest.mark.parametrize("change", ["DEALLOCATE ALL", "ALTER TABLE notes ADD COLUMN more int"])
def test_a_statement_that_the_server_has_dropped_is_prepared_again(
    connection: psycopg.Connection, pipeline: Pipeline, change: str
) -> None:
    everything = Statement("SELECT * FROM notes")
    pipeline.run([everything])
    connection.execute(change)
    connection.commit()

    with pytest.raises((errors.InvalidSqlStatementName, errors.FeatureNotSupported)):
        pipeline.run([everything])
    connection.rollback()

    assert pipeline.run([everything]) == []


def test_statements_join_an_open_transaction_of_psycopg(connection: psycopg.Connection, pipeline: Pipeline) -> None:
    connection.execute("INSERT INTO notes VALUES (5)")

    assert pipeline.run([Statement(ALL)]) == [([5],)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.tuples(int64s, int16s, st.none() | st.binary()), max_size=40))
def test_the_server_reads_arrays_as_they_were_packed(
    connection: psycopg.Connection, pipeline: Pipeline, rows: list[tuple[int, int, bytes | None]]
) -> None:
    packed = [int8s([row[0] for row in rows]), int2s([row[1] for row in rows]), byteas([row[2] for row in rows])]
    select = "SELECT * FROM unnest($1::int8[], $2::int2[], $3::bytea[])"

    assert pipeline.run([Statement(select, packed)]) == rows
    connection.rollback()
