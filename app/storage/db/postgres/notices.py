"""Notices between nodes on one PostgreSQL: NOTIFY and LISTEN on separate connections.

Only this module of the package waits on the event loop, because notices arrive and are not queried. A notice is never
sent inside a produce transaction: NOTIFY takes a lock on the whole cluster until the commit is flushed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection

from app.errors.database import ServiceUnavailable
from app.storage.db.postgres.url import parse_url

_CHANNEL = "millrace"
_IDS_A_NOTICE = 500
_STARTED = "*"
_MAX_NODES = 1_000
_SEND_S = 5.0


class Notices:
    """Sends the ids of changed partitions to other nodes, and receives theirs.

    A node sends a start notice when it starts to listen. Each node that receives the first start notice of another node
    answers with its own. A node without other nodes sends no other notices.
    """

    def __init__(self, database_url: str) -> None:
        self._options = parse_url(database_url).options | {"application_name": "millrace-notices"}
        self._node = uuid4().hex[:12]
        self._others: dict[str, None] = {}
        self._sender: AsyncConnection | None = None

    async def send(self, partition_ids: Iterable[int]) -> None:
        """Send the ids of changed partitions to the other nodes, if there are any.

        Raises:
            ServiceUnavailable: The connection is lost; the next call opens another.
        """
        if not self._others:
            return
        ids = [str(partition_id) for partition_id in partition_ids]
        try:
            with _as_unavailable():
                if self._sender is None:
                    self._sender = await self._connect()
                for i in range(0, len(ids), _IDS_A_NOTICE):
                    await self._notify(self._sender, ",".join(ids[i : i + _IDS_A_NOTICE]))
        except BaseException:
            await self.close()
            raise

    async def listen(self) -> AsyncIterator[list[int] | None]:
        """Yield the ids of partitions from each notice, and None when notices may have been lost.

        Raises:
            ServiceUnavailable: The connection is lost.
        """
        with _as_unavailable():
            async with await self._connect() as connection:
                await connection.execute(f"LISTEN {_CHANNEL}")
                await self._notify(connection, _STARTED)
                yield None
                async for notice in connection.notifies():
                    node, _, text = notice.payload.partition(" ")
                    if node == self._node:
                        continue
                    if text != _STARTED:
                        yield [int(partition_id) for partition_id in text.split(",")]
                        continue
                    if node not in self._others:
                        self._note_node(node)
                        await self._send_started()
                    yield None

    async def close(self) -> None:
        """Close the sender's connection."""
        if self._sender is not None:
            sender, self._sender = self._sender, None
            await sender.close()

    def _note_node(self, node: str) -> None:
        """Note another node. Those that have ended stay among the last ones, which costs only unread notices."""
        self._others[node] = None
        while len(self._others) > _MAX_NODES:
            del self._others[next(iter(self._others))]

    async def _send_started(self) -> None:
        async with await self._connect() as connection:
            await self._notify(connection, _STARTED)

    async def _notify(self, connection: AsyncConnection, text: str) -> None:
        async with asyncio.timeout(_SEND_S):
            await connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, f"{self._node} {text}"))

    async def _connect(self) -> AsyncConnection:
        return await AsyncConnection.connect(**self._options, autocommit=True)


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """Turn an error of the connection into one that background tasks expect during an outage."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
        lines = str(error).strip().splitlines()
        raise ServiceUnavailable(f"notices between nodes fail: {lines[0] if lines else 'no answer'}") from error
