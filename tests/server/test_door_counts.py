"""What connections count: themselves, and the requests that they refuse before the application."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn

from app.domain.metrics.node_metrics import DoorCounts
from app.server.metered_protocol import ServerMemory
from app.server.uvicorn import ProtocolLimits, limited_protocol
from tests.waiting import until_true

pytestmark = pytest.mark.anyio


async def app(scope: object, receive: object, send: object) -> None:
    raise AssertionError


async def test_a_malformed_request_is_counted_by_its_code_and_the_connection_until_it_ends() -> None:
    door = DoorCounts()
    protocol = limited_protocol(ProtocolLimits(linger_ms=1), ServerMemory(door=door))
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_level="error")
    config.load()
    state = uvicorn.Server(config).server_state
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
    async with listening:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname()[:2])
        await until_true(lambda: door.connections == 1)
        writer.write(b"NONSENSE\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await until_true(lambda: door.connections == 0)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert door.refusals == {"BAD_REQUEST": 1}
    assert door.accepted == 1
