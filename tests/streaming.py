"""The client side of streams: a stream in this process that is read step by step, and the parser of events."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 20


class Event(NamedTuple):
    """A block of an event stream; a missing field is None."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: str | None = None
    comment: str | None = None

    @property
    def record(self) -> Any:
        """The JSON of the data."""
        assert self.data is not None
        return json.loads(self.data)


def parsed(text: str) -> Iterator[Event]:
    """Yield the complete blocks of an event stream; assert that no field is repeated."""
    for block in text.split("\n\n")[:-1]:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            assert "\r" not in line
            name, colon, value = line.partition(":")
            assert colon, line
            name = name or "comment"
            assert name not in fields, block
            fields[name] = value.removeprefix(" ")
        yield Event(**fields)


class StreamClient:
    """A request to an application in this process; a write waits until the previous one was read.

    Attributes:
        status: The status of the answer.
        headers: The headers of the answer, by lower-case name.
        ended: Whether the answer is complete.
    """

    def __init__(self, asgi: Any, path: str, *, method: str = "GET", **headers: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False
        self._disconnected = asyncio.Event()
        self._sent: asyncio.Queue[Any] = asyncio.Queue(1)
        self._text = ""
        path, _, query = path.partition("?")
        named = {"host": "localhost:8400"} | {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
            "client": None, "server": None,
        }  # fmt: skip
        self.task = asyncio.ensure_future(asgi(scope, self._receive, self._sent.put))

    async def __aenter__(self) -> Self:
        start = await self._message()
        assert start["type"] == "http.response.start"
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def _receive(self) -> Any:
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _message(self) -> Any:
        return await asyncio.wait_for(self._sent.get(), DEADLINE_S)

    @property
    def unread_messages(self) -> int:
        """Number of messages that the application has sent and this client has not received."""
        return self._sent.qsize()

    @property
    def unread_characters(self) -> int:
        """Number of characters that were received and not yet returned."""
        return len(self._text)

    async def leave(self) -> None:
        """Disconnect, and return when the application has ended the request."""
        self._disconnected.set()
        discarding = asyncio.create_task(self._discard())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.task
        finally:
            discarding.cancel()

    async def _discard(self) -> None:
        while True:
            await self._sent.get()

    async def text(self, end: str) -> str:
        """Return the text up to and with `end`, or to the end of the answer."""
        while end not in self._text and not self.ended:
            message = await self._message()
            self._text += message.get("body", b"").decode()
            self.ended = not message.get("more_body", False)
        before, found, after = self._text.partition(end)
        self._text = after
        return before + found

    async def rest(self) -> str:
        """Return the text up to the end of the answer."""
        while not self.ended:
            self._text += await self.text("\0")
        text, self._text = self._text, ""
        return text

    async def event(self) -> Event:
        """Return the next block of an event stream."""
        (event,) = parsed(await self.text("\n\n"))
        return event

    async def records(self, number: int) -> list[Event]:
        """Return the next events, without comments."""
        found: list[Event] = []
        while len(found) < number:
            if (event := await self.event()).comment is None:
                found.append(event)
        return found

    async def line(self) -> Any:
        """Return the JSON of the next line."""
        return json.loads(await self.text("\n"))
