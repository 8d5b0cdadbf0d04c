"""Memory that a request holds in the server process."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import pytest
import uvicorn

from app.server.limits import ProtocolLimits
from app.server.uvicorn import limited_protocol
from tests.waiting import until

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

pytestmark = pytest.mark.anyio


async def test_a_request_is_freed_without_a_garbage_collection() -> None:
    cycles: list[weakref.ref[object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        cycles.append(weakref.ref(scope["millrace.answer"].args[0]))
        assert scope["millrace.answer"](200, b"content-length: 2\r\n", b"ok")

    async def is_started() -> bool:
        return server.started

    async def alive() -> list[bool]:
        return [each() is not None for each in cycles[:-1]]

    config = uvicorn.Config(app, port=0, http=limited_protocol(ProtocolLimits()), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    gc.disable()
    try:
        serving = asyncio.create_task(server.serve())
        await until(is_started, bool)
        reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        # The connection still holds the last one.
        await until(alive, lambda found: found == [False, False])
        writer.close()
        server.should_exit = True
        await serving
    finally:
        gc.enable()
