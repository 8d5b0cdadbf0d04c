"""The order in which writes reach the worker threads."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

pytestmark = pytest.mark.anyio

WRITES = 50


async def test_a_group_commit_waits_for_two_of_the_writes_that_came_before_it(storage: Storage) -> None:
    allowed, done = threading.Semaphore(2), list[str]()

    def write(_: Tx) -> None:
        allowed.acquire(timeout=30)
        done.append("write")

    def commit(_: Tx) -> int:
        return len(done)

    writes = [asyncio.create_task(storage.write(write)) for _ in range(WRITES)]
    await asyncio.sleep(0)
    written_before = await storage.submit(commit)
    allowed.release(WRITES)

    assert written_before <= 2
    await asyncio.gather(*writes)
    assert len(done) == WRITES


async def test_a_write_that_is_cancelled_while_it_waits_is_not_run(storage: Storage) -> None:
    released, done = threading.Event(), list[int]()

    def write(_: Tx, number: int) -> None:
        released.wait(30)
        done.append(number)

    writes = [asyncio.create_task(storage.write(write, number)) for number in range(10)]
    await asyncio.sleep(0)
    writes[9].cancel()
    released.set()
    await asyncio.gather(*writes, return_exceptions=True)

    assert sorted(done) == list(range(9))
