"""pgbouncer between the server and PostgreSQL: sessions are needed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from app.errors.database import ServiceUnavailable
from app.storage.db import schema
from app.storage.db.opening import open_storage
from tests.storage.db.postgres.pgbouncer import free_port, is_installed, pgbouncer
from tests.storage.scribe import Row, Scribe

if TYPE_CHECKING:
    from app.storage.db.transaction import Tx

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.anyio,
    pytest.mark.skipif(not is_installed(), reason="pgbouncer is not installed"),
]

WAY_OUT = "use pool_mode = session for this database, or a URL that leads to PostgreSQL itself"


@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
@pytest.mark.parametrize("pool_size", [1, 20])
def test_a_pooler_that_shares_sessions_is_refused_with_the_way_out(
    migrated_postgres_url: str, pool_mode: str, pool_size: int
) -> None:
    with (
        pgbouncer(migrated_postgres_url, pool_mode, pool_size=pool_size) as url,
        closing(open_storage(url)) as storage,
        pytest.raises(ValueError, match="pool_mode = transaction") as refusal,
    ):
        storage.require_sessions()

    assert WAY_OUT in str(refusal.value)


async def test_a_pooler_in_session_mode_serves_concurrent_appends(migrated_postgres_url: str) -> None:
    with pgbouncer(migrated_postgres_url, "session") as url:
        storage = open_storage(url)
        try:
            scribe = Scribe(storage)
            topics = [scribe.create(f"topic-{number}") for number in range(4)]
            for _ in range(5):
                await asyncio.gather(*(asyncio.to_thread(scribe.append, info, [Row(value=b"1")]) for info in topics))
            assert storage.read_now(schema.version) == schema.HEAD
        finally:
            storage.close()


async def test_writes_are_refused_once_a_pooler_shares_sessions_and_accepted_again(
    migrated_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def write(tx: Tx) -> None:
        schema.check_writable(tx)

    port = free_port()
    with pgbouncer(migrated_postgres_url, "session", listen_port=port) as url:
        storage = open_storage(url)
    try:
        with pgbouncer(migrated_postgres_url, "transaction", listen_port=port), caplog.at_level(logging.WARNING):
            await storage.check_sessions()
            await storage.check_sessions()
            with pytest.raises(ServiceUnavailable, match=WAY_OUT):
                await storage.write(write)
            assert storage.refusal is not None
            assert len([each for each in caplog.messages if WAY_OUT in each]) == 1
        with pgbouncer(migrated_postgres_url, "session", listen_port=port):
            await storage.check_sessions()
            await storage.write(write)
    finally:
        storage.close()
