"""PostgreSQL as it is run elsewhere: other defaults, read-only servers."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from app.errors.database import OutcomeUnknown, ServiceUnavailable
from app.storage.db import schema
from app.storage.db.opening import open_storage
from tests.e2e.support.server_process import run_millrace
from tests.postgres import PostgresServer
from tests.storage.scribe import Scribe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx
    from tests.serving import Serve

pytestmark = [pytest.mark.postgres, pytest.mark.anyio]

MODES = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"


def pipelined_modes(tx: Tx) -> Any:
    return tuple(tx.dialect.fetch(tx, MODES, [])[0])


def modes(tx: Tx) -> Any:
    return tuple(tx.connection.exec_driver_sql(MODES).one())


def set_default(url: str, name: str, value: str) -> None:
    """Set a default of all later sessions on a database."""
    database = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET default_transaction_read_only = off; ALTER DATABASE {database} SET {name} = '{value}'")


@pytest.fixture
def opened(migrated_postgres_url: str) -> Iterator[Storage]:
    """An open database, on PostgreSQL."""
    storage = open_storage(migrated_postgres_url)
    yield storage
    storage.close()


@pytest.mark.parametrize("default", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("read_only", ["on", "off"])
def test_a_transaction_states_its_modes_whatever_the_defaults_are(
    migrated_postgres_url: str, default: str, read_only: str
) -> None:
    set_default(migrated_postgres_url, "default_transaction_isolation", default)
    set_default(migrated_postgres_url, "default_transaction_read_only", read_only)
    storage = open_storage(migrated_postgres_url)
    try:
        for function in (modes, pipelined_modes):
            assert storage.read_now(function) == ("repeatable read", "on")
            assert storage.write_now(function) == ("read committed", "off")
        assert Scribe(storage).create().partitions == 1
    finally:
        storage.close()


def test_tables_are_created_whatever_the_defaults_are(postgres_url: str) -> None:
    set_default(postgres_url, "default_transaction_isolation", "serializable")
    set_default(postgres_url, "default_transaction_read_only", "on")
    storage = open_storage(postgres_url)
    try:
        assert storage.write_now(schema.upgrade) is True
    finally:
        storage.close()


def session(tx: Tx) -> int:
    return int(tx.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def refuse_write(tx: Tx) -> None:
    """Fail as on a server that has become read-only."""
    tx.connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    tx.connection.exec_driver_sql("DELETE FROM topics")


def test_a_write_that_a_read_only_server_refuses_is_repeated_on_another_connection(opened: Storage) -> None:
    sessions: list[int] = []

    def write(tx: Tx) -> str:
        sessions.append(session(tx))
        if len(sessions) == 1:
            refuse_write(tx)
        return "written"

    assert opened.write_now(write) == "written"
    assert len(set(sessions)) == 2


def test_a_read_only_server_is_a_retriable_refusal(opened: Storage) -> None:
    reader = opened.read_now(session)

    with pytest.raises(ServiceUnavailable, match="read-only") as refused:
        opened.write_now(refuse_write)

    assert refused.value.retriable
    assert opened.write_now(session) > 0
    assert reader not in {opened.read_now(session) for _ in range(8)}, "a reader still uses the old server"


def test_readers_connect_again_when_writes_succeed_after_a_read_only_server(opened: Storage) -> None:
    with pytest.raises(ServiceUnavailable, match="read-only"):
        opened.write_now(refuse_write)
    during = {opened.read_now(session) for _ in range(8)}

    opened.write_now(session)

    assert during.isdisjoint({opened.read_now(session) for _ in range(8)}), "a reader still uses the old server"


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that no other test uses."""
    with PostgresServer() as server:
        yield server


def restart_as_standby(server: PostgresServer) -> None:
    """Restart a server in recovery, as a primary that is demoted by a failover."""
    assert server.socket_directory is not None
    (server.socket_directory / "data" / "standby.signal").touch()
    server.restart()


async def test_writes_are_refused_and_the_node_is_not_ready_until_a_standby_is_promoted(
    own_server: PostgresServer, serve: Serve
) -> None:
    url = own_server.create_database()
    with closing(open_storage(url)) as storage:
        storage.write_now(schema.upgrade)
    _, client = await serve(database_url=url)
    assert (await client.put("/v1/topics/orders", json={"partitions": 1})).status_code == 201
    record = {"records": [{"value": 1}]}
    assert (await client.post("/v1/topics/orders/records", json=record)).status_code == 201
    assert (await client.get("/readyz")).status_code == 200

    await asyncio.to_thread(restart_as_standby, own_server)

    for refused in (
        await client.post("/v1/topics/orders/records", json=record),
        await client.post("/v1/topics/orders/records", json=record),
        await client.put("/v1/topics/other", json={"partitions": 1}),
        await client.post("/v1/groups/g/members", json={"topics": ["orders"]}),
        await client.get("/readyz"),
    ):
        assert (refused.status_code, refused.json().get("retriable")) == (503, True), refused.text
        assert "read-only" in refused.json()["detail"]
    page = await client.get("/v1/topics/orders/partitions/0/records?offset=earliest&max_wait_ms=0")
    assert (page.status_code, len(page.json()["records"])) == (200, 1)

    with psycopg.connect(own_server.url, autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
    assert (await client.post("/v1/topics/orders/records", json=record)).status_code == 201


def test_a_statement_without_an_answer_ends_and_the_next_one_is_refused_at_once(opened: Storage) -> None:
    def wait(tx: Tx) -> None:
        with tx.dialect.slow_statements(tx, 0.3):
            tx.connection.exec_driver_sql("SELECT pg_sleep(60)")

    with pytest.raises(ServiceUnavailable, match="does not answer") as refused:
        opened.write_now(wait)
    assert refused.value.retriable
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        opened.read_now(session)


def test_a_commit_without_an_answer_has_an_unknown_outcome(opened: Storage) -> None:
    def wait_in_commit(tx: Tx) -> None:
        tx.driver().statement_timeout_s = 0.3
        tx.dialect.defer(tx, "SELECT pg_sleep(60)", [])

    with pytest.raises(OutcomeUnknown):
        opened.write_now(wait_in_commit)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_a_database_in_another_encoding_than_utf8_is_refused_with_a_sentence(
    postgres: PostgresServer, tmp_path: Path, encoding: str, command: str
) -> None:
    name = f"millrace_{encoding.lower()}_{command}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        ended = run_millrace(command, database_url=postgres.database_url(name), directory=tmp_path)
    finally:
        postgres.drop_database(name)

    assert ended.returncode == 1
    assert f"the encoding of the database {name} is {encoding}, and it must be UTF8" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_reconnect_to_a_database_in_another_encoding_is_a_refusal(
    postgres: PostgresServer, opened: Storage, migrated_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = migrated_postgres_url.rpartition("/")[2]
    assert opened.read_now(session) > 0
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")

    for call in (opened.read_now, opened.write_now):
        with pytest.raises(ServiceUnavailable, match="not in UTF8"):
            call(session)
    assert f"the encoding of the database {name} is LATIN1, and it must be UTF8; create another" in caplog.text


def test_the_encoding_of_the_client_does_not_depend_on_the_role(migrated_postgres_url: str) -> None:
    set_default(migrated_postgres_url, "client_encoding", "LATIN1")
    with closing(open_storage(migrated_postgres_url)) as storage:
        found = storage.read_now(lambda tx: tx.connection.exec_driver_sql("SELECT 'é€', getdatabaseencoding()").one())
    assert tuple(found) == ("é€", "UTF8")
