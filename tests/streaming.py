"""Streams as a client sees them: one in this process, read bit by bit, and the parsing of events."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 20


class Event(NamedTuple):
    """A block of an event stream: what each field has, None for one that is not there."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: str | None = None
    comment: str | None = None

    @property
    def record(self) -> Any:
        """The JSON of its data."""
        assert self.data is not None
        return json.loads(self.data)


def parsed(text: str) -> Iterator[Event]:
    """Yield the whole blocks of an event stream; no field may come twice."""
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


class OpenStream:
    """A request to an application in this process. Its server may write no further than what has been read.

    Attributes:
        status: Of the answer.
        headers: Of the answer.
        ended: Whether the answer is complete.
    """

    def __init__(self, asgi: Any, path: str, *, method: str = "GET", **headers: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False
        self._gone = asyncio.Event()
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
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _message(self) -> Any:
        return await asyncio.wait_for(self._sent.get(), DEADLINE_S)

    async def leave(self) -> None:
        """Go away, and wait until the server has done with it."""
        self._gone.set()
        while not self.task.done():
            # What is still being written goes nowhere.
            while not self._sent.empty():
                self._sent.get_nowait()
            await asyncio.sleep(0)
        await self.task

    async def text(self, end: str) -> str:
        """Return what comes up to an end, or to that of the answer."""
        while end not in self._text and not self.ended:
            message = await self._message()
            self._text += message.get("body", b"").decode()
            self.ended = not message.get("more_body", False)
        before, found, after = self._text.partition(end)
        self._text = after
        return before + found

    async def rest(self) -> str:
        """Return what comes up to the end of the answer."""
        while not self.ended:
            self._text += await self.text("\0")
        text, self._text = self._text, ""
        return text

    async def event(self) -> Event:
        """Return the next block of an event stream."""
        (event,) = parsed(await self.text("\n\n"))
        return event

    async def records(self, number: int) -> list[Event]:
        """Return the next events with a record, and pass over comments."""
        found: list[Event] = []
        while len(found) < number:
            if (event := await self.event()).comment is None:
                found.append(event)
        return found

    async def line(self) -> Any:
        """Return the JSON of the next line."""
        return json.loads(await self.text("\n"))
