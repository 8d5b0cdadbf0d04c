"""Servers that behave badly: connections, requests, and listeners that must never be connected to."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.waiting import pause

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

TRICKLE_S = 0.02


@dataclass
class Canaries:
    """Listeners on addresses that may not be used.

    Attributes:
        urls: Where they listen.
        connections: How many connections came.
    """

    urls: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return self.urls[0]


@dataclass
class Exchange:
    """One connection to a receiver.

    Attributes:
        number: How many requests came on this connection, the present one included.
        sent: Bytes that were handed to the socket.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    canaries: Canaries
    number: int = 0
    sent: int = 0

    async def read_request(self) -> bytes:
        """Read a request with its body. Return an empty text at the end of the connection."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            return error.partial
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        self.number += 1
        return head + await self.reader.readexactly(length)

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            self.sent += len(part)
            await self.writer.drain()

    async def answer(self, status: int, *fields: str, body: bytes = b"") -> None:
        """Send a well-formed answer."""
        lines = "".join(f"{each}\r\n" for each in (*fields, f"content-length: {len(body)}"))
        await self.send(f"HTTP/1.1 {status} Answer\r\n{lines}\r\n".encode() + body)

    async def flood(self, start: bytes, part: bytes) -> None:
        """Send a part again and again, until the other side closes."""
        await self.send(start)
        while True:
            await self.send(part)

    async def trickle(self, start: bytes, part: bytes) -> None:
        """Send a part now and then, until the other side closes."""
        await self.send(start)
        while not self.reader.at_eof():
            await self.send(part)
            await pause(TRICKLE_S)

    async def until_closed(self) -> None:
        while await self.reader.read(1 << 16):
            pass

    def reset(self) -> None:
        """End the connection with RST."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


@dataclass
class Server:
    """A receiver that runs.

    Attributes:
        requests: The requests that came, with their bodies.
        connections: How many connections came.
        most_sent: The most bytes that one connection took.
    """

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    most_sent: int = 0
    closed: int = 0


@asynccontextmanager
async def running(
    behave: Callable[[Exchange], Awaitable[None]],
    canaries: Canaries | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    reads: bool = True,
    host: str = "127.0.0.1",
) -> AsyncIterator[Server]:
    """Run a receiver on a free port of this machine.

    Args:
        behave: Called for each request, or once for a connection if it is not to read.
        canaries: For receivers that answer with their URLs.
        tls: The certificate of the receiver, if it has one.
        reads: Whether requests are read before `behave` is called.
        host: The address to listen on.
    """
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def converse(exchange: Exchange) -> None:
        if not reads:
            await behave(exchange)
        while reads and not exchange.writer.is_closing() and (request := await exchange.read_request()):
            server.requests.append(request)
            await behave(exchange)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        exchange = Exchange(reader, writer, canaries or Canaries())
        try:
            await converse(exchange)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            server.most_sent = max(server.most_sent, exchange.sent)
            server.closed += 1
            writer.transport.abort()

    listener = await asyncio.start_server(connected, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


@asynccontextmanager
async def watched() -> AsyncIterator[Canaries]:
    """Listen where no request may go: on ::1 and, where the machine has it, on another loopback address."""
    canaries = Canaries()

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        canaries.connections += 1
        writer.transport.abort()

    listeners: list[asyncio.Server] = []
    for host, name in (("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")):
        with suppress(OSError):
            listener = await asyncio.start_server(connected, host, 0)
            listeners.append(listener)
            canaries.urls.append(f"http://{name}:{listener.sockets[0].getsockname()[1]}")
    assert canaries.urls
    try:
        yield canaries
    finally:
        for listener in listeners:
            listener.close()
            await listener.wait_closed()
