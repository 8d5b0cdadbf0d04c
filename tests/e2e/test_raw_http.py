"""Connections of the tests end with the test that opened them."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.support.raw_http import close_connections, connect
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio


async def test_connections_that_a_test_leaves_open_are_closed() -> None:
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        for _ in range(2):
            _, writer = await connect(f"http://{host}:{port}")
            await close_connections()
            assert writer.is_closing()
            assert await asyncio.wait_for(ended.get(), DEADLINE_S) == b""
