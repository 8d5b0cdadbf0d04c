"""A receiver of webhooks in the process of the test."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.waiting import pause, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SECRET_KEY = "bWlsbHJhY2UgdGVzdHMgdXNlIHRoaXMgc2VjcmV0IDE="
"""Without it, a server on PostgreSQL stores no secrets."""
SETTINGS = {"secret_key": SECRET_KEY, "webhook_allowed_networks": "127.0.0.0/8"}
"""Settings of a server that may post to this machine."""


class Post(NamedTuple):
    """A request that arrived."""

    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset, in the mode `record`."""
        return int(self.headers["millrace-partition"]), int(self.headers["millrace-offset"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """What the receiver answers."""

    status: int = 200
    headers: tuple[str, ...] = ()
    body: bytes = b""


@dataclass
class WebhookReceiver:
    """Answers each request with what `answer` returns for it, and keeps the requests.

    Attributes:
        answered: The requests that were answered, with the status, in this order.
        open: Requests are answered only while it is set.
        work_s: How long each answer takes at least.
        at_once: The most requests that waited for an answer at once.
    """

    url: str
    answer: Callable[[Post], Answer] = lambda _: Answer()
    posts: list[Post] = field(default_factory=list)
    answered: list[tuple[Post, int]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    work_s: float = 0.0
    at_once: int = 0
    waiting: int = 0

    async def received(self, number: int) -> list[Post]:
        """Return the requests once there are so many."""

        async def count() -> int:
            return len(self.posts)

        await until(count, lambda found: found >= number)
        return self.posts


@asynccontextmanager
async def receiving(answer: Callable[[Post], Answer] | None = None) -> AsyncIterator[WebhookReceiver]:
    """Run a receiver on a free port of this machine."""
    receiver = WebhookReceiver("")
    if answer is not None:
        receiver.answer = answer
    receiver.open.set()
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")[1:-2]
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                post = Post(headers, body)
                receiver.posts.append(post)
                receiver.waiting += 1
                receiver.at_once = max(receiver.at_once, receiver.waiting)
                await receiver.open.wait()
                if receiver.work_s:
                    await pause(receiver.work_s)
                receiver.waiting -= 1
                status, extra, content = receiver.answer(post)
                receiver.answered.append((post, status))
                fields = "".join(f"{line}\r\n" for line in extra)
                start = f"HTTP/1.1 {status} Answer\r\nContent-Length: {len(content)}\r\n{fields}\r\n"
                writer.write(start.encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            connections.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield receiver
    finally:
        receiver.open.set()
        server.close()
        for writer in connections:
            writer.transport.abort()
        await server.wait_closed()
