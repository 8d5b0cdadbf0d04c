"""A client of event streams that loses its connection and resumes at the last event id."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from tests.streaming import parsed
from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Callable

RETRY_PAUSE_S = 0.02
DEADLINE_S = 30


@dataclass
class EventStreamClient:
    """Reads a stream as `EventSource` does, from the server that `url` names at each connection.

    Attributes:
        records: All records received.
        connections: Number of connections.
        ended: Number of streams that the server ended completely.
        progress: Set at each new connection and after each part of a stream.
    """

    url: Callable[[], str]
    path: str
    records: list[Any] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    last_id: str = ""
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Read, and connect again at each end, until cancelled."""
        while True:
            try:
                await self.read()
                self.ended += 1
            except (httpx2.TransportError, ConnectionError):
                """The connection was lost: connect again."""
            await pause(RETRY_PAUSE_S)

    async def read(self) -> None:
        """Read one stream to its end."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        async with (
            httpx2.AsyncClient(base_url=self.url(), trust_env=False, timeout=httpx2.Timeout(DEADLINE_S)) as client,
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
                        self.records.append(event.record)
                self.progress.set()

    async def read_for(self, seconds: float) -> None:
        """Read one stream for some time, then break the connection at any point of the stream."""
        reading, before = asyncio.create_task(self.read()), self.connections
        await self._until(lambda: self.connections > before or reading.done())
        await asyncio.wait([reading], timeout=seconds)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert reading.cancelled(), reading.exception()

    async def await_event_id(self) -> None:
        """Wait until an event id was received."""
        await self._until(lambda: bool(self.last_id))

    async def await_records(self, number: int) -> None:
        """Wait until so many records were received."""
        await self._until(lambda: len(self.records) >= number)

    async def _until(self, is_enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not is_enough():
                self.progress.clear()
                await self.progress.wait()

    def assert_each_once_and_in_order(self, expected: list[list[Any]]) -> None:
        """Assert that it has received the records of some partitions once, those of each partition in order."""
        for partition, records in enumerate(expected):
            assert [record for record in self.records if record["partition"] == partition] == records
        assert len(self.records) == sum(map(len, expected))
