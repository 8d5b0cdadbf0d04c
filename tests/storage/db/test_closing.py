"""The database is closed while calls wait for it, and after a failed start."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from app.errors.database import ServiceUnavailable
from app.main import create_app
from app.settings import Settings
from app.storage.db import clock
from app.storage.db.opening import open_storage
from tests.serving import lifespan
from tests.waiting import until, until_true

if TYPE_CHECKING:
    from app.storage.db.transaction import Tx

STOPPING = "the server is stopping"


@pytest.mark.anyio
async def test_calls_after_the_close_are_refused_because_the_server_stops(database_url: str) -> None:
    storage = open_storage(database_url)
    await storage.read(clock.read)
    storage.close()

    with pytest.raises(ServiceUnavailable, match=STOPPING):
        await storage.read(clock.read)
    with pytest.raises(ServiceUnavailable, match=STOPPING):
        await storage.write(clock.read)
    with pytest.raises(ServiceUnavailable, match=STOPPING):
        storage.submit(clock.read)
    with pytest.raises(ServiceUnavailable, match=STOPPING):
        storage.read_now(clock.read)
    with pytest.raises(ServiceUnavailable, match=STOPPING):
        storage.write_now(clock.read)


@pytest.mark.anyio
async def test_calls_that_wait_when_the_database_is_closed_are_refused_or_done(database_url: str) -> None:
    storage = open_storage(database_url)
    running, go_on = threading.Event(), threading.Event()

    def hold(_: Tx) -> str:
        running.set()
        assert go_on.wait(30)
        return "done"

    calls = [asyncio.ensure_future(storage.write(hold)) for _ in range(storage.dialect.writers + 2)]
    calls += [asyncio.ensure_future(storage.read(hold)) for _ in range(storage.dialect.readers + 2)]
    await asyncio.to_thread(running.wait, 30)
    closing = asyncio.ensure_future(asyncio.to_thread(storage.close))
    results = asyncio.gather(*calls, return_exceptions=True)
    queued = 2 if storage.dialect.shared else 4  # the other writes wait for a write that runs
    await until_true(lambda: sum(call.done() for call in calls) >= queued)
    go_on.set()
    await closing

    refusals = [each for each in await results if each != "done"]
    assert len(refusals) >= 4
    assert {type(each) for each in refusals} == {ServiceUnavailable}


@pytest.mark.postgres
@pytest.mark.anyio
async def test_the_database_is_closed_when_the_clock_cannot_be_read_at_start(migrated_postgres_url: str) -> None:
    def fail() -> int:
        raise RuntimeError("no clock")

    with pytest.raises(RuntimeError, match="no clock"):
        create_app(Settings.model_validate({"database_url": migrated_postgres_url}), session_clock_ms=fail)

    def other_connections() -> int:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        with psycopg.connect(migrated_postgres_url) as connection:
            (found,) = connection.execute(query).fetchone() or (None,)
            return found or 0

    await until(lambda: asyncio.to_thread(other_connections), lambda found: found == 0)


@pytest.mark.anyio
async def test_a_call_whose_task_is_cancelled_during_the_close_stays_cancelled(sqlite_url: str) -> None:
    storage = open_storage(sqlite_url)
    running, go_on = threading.Event(), threading.Event()

    def hold(_: Tx) -> None:
        running.set()
        assert go_on.wait(30)

    first = asyncio.ensure_future(storage.write(hold))
    await asyncio.to_thread(running.wait, 30)
    second = asyncio.ensure_future(storage.write(hold))
    await asyncio.sleep(0)
    second.cancel()
    closing = asyncio.ensure_future(asyncio.to_thread(storage.close))
    await asyncio.wait([second])
    go_on.set()
    await closing
    await first

    assert second.cancelled()


@pytest.mark.anyio
@pytest.mark.parametrize("part", ["signals", "memory", "appender"])
async def test_a_step_of_the_stop_that_fails_leaves_no_database_open(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail() -> None:
        raise RuntimeError(f"the {part} cannot end")

    application = create_app(Settings.model_validate({"database_url": sqlite_url, "ballast_bytes": 0}))
    monkeypatch.setattr(getattr(application.services, part), "drain" if part == "appender" else "close", fail)

    with pytest.raises(RuntimeError, match="cannot end"):
        async with lifespan(application):
            assert application.services.storage.refusal is None
    open_storage(sqlite_url).close()
