"""Limits of open connections, in all and by address."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.tiny_server_process import GET, TinyServer, closing, parse, read_to_end, read_until, running
from tests.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

IN_ALL, OF_ADDRESS = 8, 3


@pytest.fixture(scope="module")
def limited() -> Iterator[TinyServer]:
    """A server with at most eight connections, three of them of one address; 127.0.0.9 is a proxy."""
    with running(connections=[IN_ALL, OF_ADDRESS], linger_ms=200) as each:
        yield each


async def counts(server: TinyServer) -> tuple[int, dict[str, int]]:
    """Return the open connections besides this one, and the refused ones by limit."""

    async def ask() -> Any:
        with server.connect(source="127.0.0.7") as client:
            client.sendall(closing("/refused"))
            answer = parse(read_to_end(client))
        return json.loads(answer.body) if answer.status == 200 else None

    number, refused = await until(ask, lambda found: found is not None)
    return number - 1, refused


async def open_many(server: TinyServer, stack: contextlib.ExitStack, source: str, number: int) -> list[socket.socket]:
    """Open connections that the server has answered once."""
    clients = [stack.enter_context(server.connect(source=source)) for _ in range(number)]
    for client in clients:
        client.sendall(GET)
        read_until(client, b"}")
    return clients


async def test_a_connection_beyond_the_limit_of_its_address_is_429_before_its_request_is_read(
    limited: TinyServer,
) -> None:
    with contextlib.ExitStack() as stack:
        await open_many(limited, stack, "127.0.0.1", OF_ADDRESS)
        with limited.connect() as client:
            answer = parse(read_to_end(client))
        await open_many(limited, stack, "127.0.0.2", 1)

    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    problem = json.loads(answer.body)
    assert (problem["code"], problem["retriable"]) == ("THROTTLING_QUOTA_EXCEEDED", True)
    assert "MILLRACE_MAX_CONNECTIONS_PER_ADDRESS" in problem["detail"]
    await until(lambda: counts(limited), lambda found: found == (0, {"connections-of-address": 1}))


async def test_connections_of_a_proxy_are_limited_only_in_all(limited: TinyServer) -> None:
    with contextlib.ExitStack() as stack:
        await open_many(limited, stack, "127.0.0.9", IN_ALL)
        with limited.connect(source="127.0.0.2") as client:
            answer = parse(read_to_end(client))

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "MILLRACE_MAX_CONNECTIONS)" in json.loads(answer.body)["detail"]
    _, refused = await until(lambda: counts(limited), lambda found: found[0] == 0)
    assert refused["connections"] >= 1


async def test_connections_fill_no_more_than_their_part_of_the_memory() -> None:
    with running(budget_bytes=512 * 1024, linger_ms=200) as server, contextlib.ExitStack() as stack:
        await open_many(server, stack, "127.0.0.1", 9)  # three quarters of 96 KiB of 512, 8 KiB each
        with server.connect() as client:
            assert parse(read_to_end(client)).status == 429
        await open_many(server, stack, "127.0.0.2", 3)
        with server.connect(source="127.0.0.3") as client:
            answer = parse(read_to_end(client))

        assert answer.status == 503
        assert "MILLRACE_MEMORY_BUDGET_BYTES" in json.loads(answer.body)["detail"]


async def test_many_refused_connections_are_closed_without_an_answer() -> None:
    with running(connections=[1, 0], linger_ms=2_000) as server, contextlib.ExitStack() as stack:
        await open_many(server, stack, "127.0.0.1", 1)
        answered = [stack.enter_context(server.connect()) for _ in range(256)]
        assert read_until(answered[-1], b"}\n").startswith(b"HTTP/1.1 503 ")
        with server.connect() as client, contextlib.suppress(ConnectionResetError):
            assert read_to_end(client) == b""
