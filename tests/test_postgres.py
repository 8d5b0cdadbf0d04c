"""The PostgreSQL that the other tests use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.postgres import PostgresServer, find_installations
from tests.storage.reused_databases import ReusedDatabases

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.postgres


def query(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def test_the_server_is_a_supported_version(postgres: PostgresServer) -> None:
    assert int(query(postgres.url, "SHOW server_version_num")) >= 140_000


def test_the_server_flushes_as_in_production(postgres: PostgresServer) -> None:
    assert query(postgres.url, "SHOW fsync") == "on"
    assert query(postgres.url, "SHOW synchronous_commit") == "on"


def test_fresh_databases_are_independent(postgres: PostgresServer, postgres_url: str) -> None:
    with postgres.fresh_database() as other:
        query(postgres_url, "CREATE TABLE seen (id int)")

        assert query(postgres_url, "SELECT to_regclass('seen')::text") == "seen"
        assert query(other, "SELECT to_regclass('seen')::text") is None


def test_a_database_can_be_copied_from_a_template(postgres: PostgresServer, postgres_url: str) -> None:
    query(postgres_url, "CREATE TABLE seen AS SELECT 7 AS id")

    with postgres.fresh_database(template=postgres_url.rpartition("/")[2]) as copy:
        assert query(copy, "SELECT id FROM seen") == 7


def test_a_database_that_a_test_has_written_to_is_empty_for_the_next(postgres_databases: ReusedDatabases) -> None:
    topic = "INSERT INTO topics (name, version, config, created_at_ms) VALUES ('t', 1, '{}', 0) RETURNING topic_id"
    with postgres_databases.borrow() as first:
        ticks = query(first, "SELECT row_to_json(clock_ticks)::text FROM clock_ticks")
        assert query(first, topic) == 1
        query(first, "UPDATE clock_ticks SET checked_at_ms = 7")
        left_open = psycopg.connect(first)
        left_open.execute("LOCK topics")

    with postgres_databases.borrow() as second:
        assert second == first
        assert query(second, "SELECT count(*) FROM topics") == 0
        assert query(second, topic) == 1
        assert query(second, "SELECT row_to_json(clock_ticks)::text FROM clock_ticks") == ticks
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        left_open.execute("SELECT 1")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE topics ADD more int",
        "DROP INDEX ix_producers_updated",
        "CREATE TABLE seen (id int)",
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        "ALTER TABLE topics DROP CONSTRAINT uq_topics_name",
    ],
)
def test_a_database_that_a_test_has_changed_is_not_used_again(postgres_databases: ReusedDatabases, change: str) -> None:
    with postgres_databases.borrow() as first:
        query(first, change.format(first.rpartition("/")[2]))

    with postgres_databases.borrow() as second:
        assert second != first


def test_a_database_is_dropped_even_with_an_open_connection(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with psycopg.connect(url):
        postgres.drop_database(url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.mark.skipif("MILLRACE_TEST_POSTGRES_URL" in os.environ, reason="would start a second server")
@pytest.mark.parametrize("version", sorted(find_installations()))
def test_a_new_server_recovers_from_a_crash_and_leaves_nothing_behind(version: int) -> None:
    with PostgresServer(version=version) as server:
        directory = server.socket_directory
        url = server.create_database("orders")
        query(url, "CREATE TABLE kept AS SELECT 7 AS id")
        server.restart("immediate")

        assert query(url, "SELECT id FROM kept") == 7
        assert query(url, "SHOW server_version").startswith(str(version))
    assert directory is not None
    assert not directory.exists()


def test_database_url_names_an_empty_database_on_either_engine(database_url: str, tmp_path: Path) -> None:
    if database_url.startswith("sqlite"):
        assert database_url == f"sqlite:///{tmp_path}/millrace.db"
    else:
        assert query(database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
