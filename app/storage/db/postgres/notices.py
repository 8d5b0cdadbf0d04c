"""Notices between nodes on one PostgreSQL: NOTIFY and LISTEN on separate connections.

Only this module of the package waits on the event loop, because notices arrive and are not queried. A notice is never
sent inside a produce transaction: NOTIFY takes a lock on the whole cluster until the commit is flushed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection

from app.errors.database import ServiceUnavailable
from app.storage.db.postgres.url import parse_url

_CHANNEL = "millrace"
_IDS_A_NOTICE = 500
_STARTED = "*"
_PRESENT = "0"
"""The id of no partition: a node that does not know this text wakes no reader."""
_MAX_NODES = 1_000
_SEND_S = 5.0
_ROUND_S = 20.0
_ROUNDS_WITHOUT_NOTICE = 3


class Notices:
    """Sends the ids of changed partitions to other nodes, and receives theirs.

    A node sends a start notice when it starts to listen. Each node that receives the first notice of another node
    answers with its own start notice. In each round a node sends that it is present, and listens again if this does not
    come back to it. It forgets nodes without a notice in three rounds. A node without other nodes sends nothing else.

    Args:
        database_url: The URL of the database.
        round_s: The length of a round in seconds.
    """

    def __init__(self, database_url: str, round_s: float = _ROUND_S) -> None:
        self._options = parse_url(database_url).options | {"application_name": "millrace-notices"}
        self._node = uuid4().hex[:12]
        self._round_s = round_s
        self._round = 0
        self._others: dict[str, int] = {}
        """Other nodes, and the round of their last notice."""
        self._sender: AsyncConnection | None = None

    @property
    def others(self) -> int:
        """The number of other nodes."""
        return len(self._others)

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
            ServiceUnavailable: The connection is lost, or notices do not arrive on it.
        """
        with _as_unavailable():
            async with self._connected() as connection:
                async with asyncio.timeout(_SEND_S):
                    await connection.execute(f"LISTEN {_CHANNEL}")
                await self._notify(connection, _STARTED)
                yield None
                while True:
                    is_listening = False
                    async for notice in connection.notifies(timeout=self._round_s):
                        node, _, text = notice.payload.partition(" ")
                        if node == self._node:
                            is_listening = True
                        elif await self._note_node(node) or (ids := _ids_of(text)) is None:
                            yield None
                        elif text != _PRESENT:
                            yield ids
                    if not is_listening:
                        raise TimeoutError("LISTEN does not last: use a URL that leads to sessions of PostgreSQL")
                    self._begin_round()
                    await self._notify(self._sender or connection, _PRESENT)

    async def close(self) -> None:
        """Close the sender's connection."""
        if self._sender is not None:
            sender, self._sender = self._sender, None
            await sender.close()

    async def _note_node(self, node: str) -> bool:
        """Note a notice of another node. Return whether it is the first one: earlier ones may have been lost."""
        is_new = node not in self._others
        self._others[node] = self._round
        if is_new:
            if len(self._others) > _MAX_NODES:
                del self._others[next(iter(self._others))]
            await self._send_started()
        return is_new

    def _begin_round(self) -> None:
        """Begin a round without the nodes that have ended."""
        self._round += 1
        oldest = self._round - _ROUNDS_WITHOUT_NOTICE
        self._others = {node: last for node, last in self._others.items() if last >= oldest}

    async def _send_started(self) -> None:
        async with self._connected() as connection:
            await self._notify(connection, _STARTED)

    async def _notify(self, connection: AsyncConnection, text: str) -> None:
        async with asyncio.timeout(_SEND_S):
            await connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, f"{self._node} {text}"))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection, and close it in any case: psycopg leaves it open if the end of its block is cancelled."""
        connection = await self._connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def _connect(self) -> AsyncConnection:
        return await AsyncConnection.connect(**self._options, autocommit=True)


def _ids_of(text: str) -> list[int] | None:
    """Return the partition ids of a notice. None for a start notice, or for what this release does not know."""
    try:
        return [int(partition_id) for partition_id in text.split(",")]
    except ValueError:
        return None


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """Turn an error of the connection into one that background tasks expect during an outage."""
    try:
        yield
    except (psycopg.Error, TimeoutError) as error:
        lines = str(error).strip().splitlines()
        raise ServiceUnavailable(f"notices between nodes fail: {lines[0] if lines else 'no answer'}") from error
