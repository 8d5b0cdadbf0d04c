"""A client of event streams over sockets: it reads, loses its connection, and goes on with the last id."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from tests.streaming import parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.node import Node

PAUSE_S = 0.02


async def open_raw(node: Node, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for an event stream from a socket of its own."""
    url = httpx2.URL(node.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
    return reader, writer


@dataclass
class Subscriber:
    """Reads a stream as `EventSource` does, wherever `url` gives a server.

    Attributes:
        seen: The records it has had.
        connections: How often it was connected.
        ended: How often the server ended a stream as it should.
    """

    url: Callable[[], str]
    path: str
    seen: list[Any] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    last_id: str = ""
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self.read()
                self.ended += 1
            except (httpx2.TransportError, ConnectionError):
                """Lost; it connects again."""
            await asyncio.sleep(PAUSE_S)  # the pause of a client before it tries again

    async def read(self) -> None:
        """Read one stream to its end."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        timeout = httpx2.Timeout(30)
        async with (
            httpx2.AsyncClient(base_url=self.url(), trust_env=False, timeout=timeout) as client,
            client.stream("GET", self.path, headers=headers) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            self.connections += 1
            self.progress.set()
            text = ""
            async for part in answer.aiter_text():
                *blocks, text = (text + part).split("\n\n")
                for event in parsed("".join(f"{block}\n\n" for block in blocks)):
                    self.last_id = event.id or self.last_id
                    if event.data is not None:
                        assert event.event is None, event.data
                        self.seen.append(event.record)
                self.progress.set()

    async def read_for(self, seconds: float) -> None:
        """Read one stream for a time, and leave it wherever it is."""
        reading, before = asyncio.create_task(self.read()), self.connections
        async with asyncio.timeout(30):
            while self.connections == before and not reading.done():
                self.progress.clear()
                await self.progress.wait()
        await asyncio.wait([reading], timeout=seconds)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert reading.cancelled(), reading.exception()

    async def have(self, number: int) -> None:
        """Wait until it has had so many records."""
        async with asyncio.timeout(30):
            while len(self.seen) < number:
                self.progress.clear()
                await self.progress.wait()

    def check(self, expected: list[list[Any]]) -> None:
        """Assert that it has had each record of some partitions once, and those of each in order."""
        for partition, records in enumerate(expected):
            assert [record for record in self.seen if record["partition"] == partition] == records
        assert len(self.seen) == sum(map(len, expected))
