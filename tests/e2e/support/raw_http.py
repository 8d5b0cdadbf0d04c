"""HTTP over plain sockets: requests whose answer is cut off, read late or never read."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2

from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Mapping


_opened: list[asyncio.StreamWriter] = []


class AnswerLost(Exception):
    """No answer: the server may have executed the request or not."""


class Answer(NamedTuple):
    """A status and a JSON document."""

    status: int
    document: dict[str, Any]

    @property
    def code(self) -> str:
        """The problem code, or an empty string."""
        code: str = self.document.get("code", "")
        return code


def request_of(url: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request that closes its connection."""
    host = httpx2.URL(url)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host.host}:{host.port}", "Connection: close"]
    lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def parse(raw: bytes) -> Answer:
    """Parse an answer.

    Raises:
        AnswerLost: The answer is not complete.
    """
    head, found, body = raw.partition(b"\r\n\r\n")
    if not found:
        raise AnswerLost
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if len(body) < int(headers.get("content-length", 0)):
        raise AnswerLost
    return Answer(int(status.split()[1]), json.loads(body) if body else {})


async def connect(url: str, *, receive_bytes: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to a server, with a receive buffer of a size. It ends at the latest with the test."""
    reader, writer = await _connect(url, receive_bytes)
    _opened.append(writer)
    return reader, writer


async def _connect(url: str, receive_bytes: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host = httpx2.URL(url)
    if receive_bytes is None:
        return await asyncio.open_connection(host.host, host.port)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host.host, host.port))
    return await asyncio.open_connection(sock=connection)


async def close_connections() -> None:
    """Abort the connections that are still open, such as those of a test that failed."""
    for writer in _opened:
        writer.transport.abort()
    _opened.clear()
    await pause(0)  # the event loop closes the sockets in its next round
    await pause(0)


async def open_get(
    url: str, path: str, accept: str = "*/*", *, receive_bytes: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a GET request on a new connection that stays open."""
    reader, writer = await connect(url, receive_bytes=receive_bytes)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode())
    return reader, writer


async def open_stream(url: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Request an event stream on a new connection."""
    return await open_get(url, path, "text/event-stream")


async def send(url: str, path: str, document: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a POST request without reading the answer."""
    reader, writer = await connect(url)
    writer.write(request_of(url, "POST", path, json.dumps(document).encode(), {}))
    await writer.drain()
    return reader, writer


async def send_and_close(url: str, path: str, document: dict[str, Any]) -> None:
    """Send a POST request and close the connection."""
    _, writer = await send(url, path, document)
    writer.close()
    await writer.wait_closed()


async def exchange(url: str, request: bytes, cut_after_s: float | None, timeout_s: float) -> bytes:
    """Send a request and return the whole answer.

    Args:
        url: The server.
        request: The bytes of the request.
        cut_after_s: When to break the connection after the request is sent; None reads the answer.
        timeout_s: The limit for the whole exchange.

    Raises:
        AnswerLost: The connection was broken after `cut_after_s`.
        TimeoutError: The limit has passed.
        OSError: The connection failed.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await _connect(url)
        try:
            writer.write(request)
            await writer.drain()
            if cut_after_s is None:
                return await reader.read()
            await pause(cut_after_s)
            raise AnswerLost
        finally:
            writer.transport.abort()
