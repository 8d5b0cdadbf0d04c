"""A PostgreSQL with fewer connection slots than a node has worker threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from app.errors.database import ServiceUnavailable
from app.storage.db import schema
from app.storage.db.opening import open_storage
from tests.waiting import pause, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.db.transaction import Tx

pytestmark = [pytest.mark.postgres, pytest.mark.anyio]


@contextlib.contextmanager
def limited(url: str, slots: int) -> Iterator[str]:
    """Give the URL of a role with few connection slots."""
    role = f"few_{slots}_{url.rpartition('/')[2]}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {slots}")
        admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        try:
            yield url.replace("//millrace@", f"//{role}@")
        finally:
            admin.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'; "
                f"DROP OWNED BY {role}; DROP ROLE {role}"
            )


async def take_slot(url: str) -> psycopg.Connection[Any]:
    """Connect; the server frees a slot a moment after its connection was closed."""

    async def connect() -> psycopg.Connection[Any] | None:
        try:
            return psycopg.connect(url)
        except psycopg.OperationalError:
            return None

    connection = await until(connect, lambda found: found is not None)
    assert connection is not None
    return connection


def pause_in_database(tx: Tx) -> str | None:
    tx.connection.exec_driver_sql("SELECT pg_sleep(0.02)")
    return schema.version(tx)


def refuse_write(tx: Tx) -> None:
    tx.connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    tx.connection.exec_driver_sql("DELETE FROM topics")


def pause_and_tell_session(tx: Tx) -> int:
    (session,) = tx.connection.exec_driver_sql("SELECT pg_backend_pid() FROM pg_sleep(0.02)").one()
    return int(session)


@pytest.mark.parametrize("slots", [2, 3, 5])
async def test_reads_and_writes_share_the_slots_that_there_are(migrated_postgres_url: str, slots: int) -> None:
    with limited(migrated_postgres_url, slots) as url:
        storage = open_storage(url)
        try:
            for _ in range(2):
                work = [storage.write(pause_in_database) for _ in range(8)]
                work += [storage.read(pause_in_database) for _ in range(8)]
                assert set(await asyncio.gather(*work)) == {schema.HEAD}
        finally:
            storage.close()


async def test_reads_get_a_slot_when_writes_have_taken_all(migrated_postgres_url: str) -> None:
    with limited(migrated_postgres_url, 3) as url:
        storage = open_storage(url)
        try:
            await asyncio.gather(*(storage.write(pause_in_database) for _ in range(8)))

            assert await storage.read(pause_in_database) == schema.HEAD
        finally:
            storage.close()


async def test_no_free_slot_is_said_as_such_in_one_line_when_it_begins_and_one_when_it_ends(
    migrated_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with limited(migrated_postgres_url, 2) as url:
        storage = open_storage(url)
        try:
            with await take_slot(url), await take_slot(url), caplog.at_level(logging.WARNING):
                work = [each(schema.version) for each in 24 * [storage.read, storage.write]]
                async with asyncio.timeout(15):  # with a wait for each call, it would take 24 s or more
                    refusals = await asyncio.gather(*work, return_exceptions=True)
                for refusal in refusals:
                    assert isinstance(refusal, ServiceUnavailable)
                    assert "no free connection slot" in refusal.detail
                assert len(caplog.messages) == 1
                assert "too many connections for role" in caplog.messages[0]
                assert storage.in_outage

            async def is_accepted() -> bool:
                with contextlib.suppress(ServiceUnavailable):
                    return await storage.write(schema.version) == schema.HEAD
                return False

            await until(is_accepted, bool)  # the server frees a slot after its client has closed the connection
            await storage.read(schema.version)
            assert [each.partition(" after")[0] for each in caplog.messages[1:]] == ["the database answers again"]
            assert not storage.in_outage
        finally:
            storage.close()


async def test_a_call_that_waits_for_a_slot_ends_when_the_database_is_closed(migrated_postgres_url: str) -> None:
    with limited(migrated_postgres_url, 1) as url:
        storage = open_storage(url)
        with await take_slot(url):
            reads = [asyncio.ensure_future(storage.read(schema.version)) for _ in range(8)]
            await pause(0.1)
            await asyncio.to_thread(storage.close)
            for refusal in await asyncio.gather(*reads, return_exceptions=True):
                assert isinstance(refusal, ServiceUnavailable)
                assert "the server is stopping" in refusal.detail


async def test_no_shared_connection_leads_to_a_server_that_was_left(migrated_postgres_url: str) -> None:
    with limited(migrated_postgres_url, 3) as url:
        storage = open_storage(url)
        try:
            work = [storage.read(pause_and_tell_session) for _ in range(8)]
            work += [storage.write(pause_and_tell_session) for _ in range(8)]
            before = set(await asyncio.gather(*work))
            with pytest.raises(ServiceUnavailable, match="read-only"):
                await storage.write(refuse_write)
            after = await asyncio.gather(*(storage.read(pause_and_tell_session) for _ in range(8)))
            assert before.isdisjoint(after)
        finally:
            storage.close()


async def test_a_role_without_a_right_is_refused_and_the_log_has_the_error(
    migrated_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with limited(migrated_postgres_url, 9) as url:
        with psycopg.connect(migrated_postgres_url, autocommit=True) as admin:
            admin.execute(f"REVOKE DELETE ON topics FROM {url.partition('//')[2].partition('@')[0]}")
        storage = open_storage(url)
        try:
            with pytest.raises(ServiceUnavailable, match="lacks a right"):
                await storage.write(schema.check_writable)
            assert "permission denied for table topics" in caplog.text
        finally:
            storage.close()


async def test_missing_tables_are_no_internal_error(postgres_url: str) -> None:
    storage = open_storage(postgres_url)
    try:
        with pytest.raises(ServiceUnavailable, match="run millrace migrate"):
            await storage.write(schema.check_writable)
    finally:
        storage.close()
