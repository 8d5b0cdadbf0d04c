"""Notices between nodes on PostgreSQL: which nodes are known, and a LISTEN that does not last."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from app.errors.database import ServiceUnavailable
from app.storage.db.opening import open_storage
from app.storage.db.postgres.notices import Notices
from tests.storage.db.postgres.proxy import PostgresProxy
from tests.waiting import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.postgres, pytest.mark.anyio]

ROUND_S = 0.2


class Node:
    """A node that listens, and keeps what it receives."""

    def __init__(self, url: str, round_s: float = ROUND_S) -> None:
        self.notices = Notices(url, round_s)
        self.received: asyncio.Queue[list[int] | None] = asyncio.Queue()

    async def listen(self) -> None:
        async for partition_ids in self.notices.listen():
            self.received.put_nowait(partition_ids)

    async def others(self) -> int:
        return self.notices.others

    async def next_ids(self) -> list[int]:
        """Return the next ids, without what tells that notices may have been lost."""
        async with asyncio.timeout(DEADLINE_S):
            while (ids := await self.received.get()) is None:
                pass
        return ids


@asynccontextmanager
async def listening(url: str, round_s: float = ROUND_S) -> AsyncIterator[Node]:
    """Run a node that listens."""
    node = Node(url, round_s)
    task = asyncio.create_task(node.listen())
    assert await asyncio.wait_for(node.received.get(), DEADLINE_S) is None
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await node.notices.close()


async def test_a_node_forgets_others_that_have_ended_and_keeps_those_that_are_silent(postgres_url: str) -> None:
    async with listening(postgres_url) as one, listening(postgres_url) as silent:
        async with listening(postgres_url):
            await until(one.others, lambda number: number == 2)
            await until(silent.others, lambda number: number == 2)
        await until(one.others, lambda number: number == 1)

        await one.notices.send([7, 8])
        assert await silent.next_ids() == [7, 8]
        assert one.received.empty() or await one.received.get() is None

    async with listening(postgres_url) as alone:
        assert alone.notices.others == 0


async def test_a_node_that_was_forgotten_is_known_again(postgres_url: str) -> None:
    async with listening(postgres_url) as one, listening(postgres_url, round_s=ROUND_S * 10) as slow:
        await until(one.others, lambda number: number == 1)
        await until(one.others, lambda number: number == 0)
        await until(one.others, lambda number: number == 1)

        await one.notices.send([7])
        assert await slow.next_ids() == [7]


async def test_notices_of_another_program_wake_all_readers_and_end_nothing(postgres_url: str) -> None:
    async with (
        listening(postgres_url) as node,
        await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other,
    ):
        for payload in ("", "no notice", "node 1,x"):
            await other.execute("SELECT pg_notify('millrace', %s)", (payload,))
            assert await asyncio.wait_for(node.received.get(), DEADLINE_S) is None
        await other.execute("SELECT pg_notify('millrace', 'node 5')")
        assert await node.next_ids() == [5]


async def test_listening_ends_with_an_error_when_notices_do_not_arrive(migrated_postgres_url: str) -> None:
    with PostgresProxy(migrated_postgres_url) as proxy:
        node = Node(proxy.url)
        task = asyncio.create_task(node.listen())
        assert await asyncio.wait_for(node.received.get(), DEADLINE_S) is None
        proxy.loses_notifications = True

        with pytest.raises(ServiceUnavailable, match="LISTEN does not last"):
            await asyncio.wait_for(task, DEADLINE_S)


def test_a_pooler_that_loses_notifications_is_refused(migrated_postgres_url: str) -> None:
    with PostgresProxy(migrated_postgres_url) as proxy, closing(open_storage(proxy.url)) as storage:
        storage.require_sessions()
        proxy.loses_notifications = True

        with pytest.raises(ValueError, match="use pool_mode = session"):
            storage.require_sessions()
