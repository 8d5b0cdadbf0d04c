"""What connections hold of the memory budget: heads, bodies and answers that are not read."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.server.tiny_server_process import POST, TinyServer, parse, read_to_end, running
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def small_budget() -> Iterator[TinyServer]:
    """A server with a budget of 16 MiB, of which an address has 3 MiB for large bodies."""
    with running(budget_bytes=16 * MIB, linger_ms=200) as each:
        yield each


def begin(server: TinyServer, body: bytes, *, length: int = 32 * MIB) -> socket.socket:
    """Send a head and a part of its body."""
    client = server.connect()
    with contextlib.suppress(ConnectionError):
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + body)
    return client


def status_of_upload(server: TinyServer, size: int) -> int:
    """Send a whole body, and return the status of the answer."""
    with begin(server, b" " * size, length=size) as client:
        client.shutdown(socket.SHUT_WR)
        return parse(read_to_end(client)).status


def test_a_body_beyond_the_budget_is_503_with_retry_after_as_it_arrives(small_budget: TinyServer) -> None:
    with begin(small_budget, b" " * (4 * MIB)) as client:
        response = parse(read_to_end(client))

    assert response.status == 503
    assert response.headers["retry-after"] == "1"
    assert b'"retriable":true' in response.body


@pytest.mark.anyio
async def test_an_unfinished_body_leaves_room_for_small_bodies_until_its_client_leaves(
    small_budget: TinyServer,
) -> None:
    async def statuses_beside_an_unfinished_body() -> tuple[int, int]:
        with begin(small_budget, b" " * (5 * MIB // 2)):
            return status_of_upload(small_budget, MIB), status_of_upload(small_budget, 1024)

    async def status_of_large_upload() -> int:
        return status_of_upload(small_budget, MIB)

    # The large body is accepted if it arrives before the unfinished one.
    await until(statuses_beside_an_unfinished_body, lambda statuses: statuses == (503, 200))
    await until(status_of_large_upload, lambda status: status == 200)


def test_the_bytes_of_answered_requests_are_given_back(small_budget: TinyServer) -> None:
    statuses = {status_of_upload(small_budget, 2 * MIB) for _ in range(20)}

    assert statuses == {200}


def test_heads_that_are_not_complete_are_counted(small_budget: TinyServer) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: " + b"b" * 20_000
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(small_budget.connect()) for _ in range(60)]
        for client in clients:
            client.sendall(head)
        refused = read_to_end(clients[-1])

    assert parse(refused).status == 503


@pytest.mark.parametrize("earlier", [b"", POST], ids=["alone", "pipelined"])
@pytest.mark.parametrize(("method", "body"), [(b"GET", b""), (b"POST", b"hello")])
def test_a_request_whose_head_finds_no_room_is_refused_once_and_does_not_run(
    small_budget: TinyServer, earlier: bytes, method: bytes, body: bytes
) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: " + b"b" * 20_000
    refused = b"%b /refused HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\na: %b\r\n\r\n%b"
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            client = stack.enter_context(small_budget.connect())
            client.sendall(head)
        read_to_end(client)
        sent = earlier + b"hello" * bool(earlier) + refused % (method, len(body), b"c" * 30_000, body)
        received = small_budget.exchange(sent)

    statuses = re.findall(rb"HTTP/1\.1 (\d+)", received)
    assert statuses == [b"200"] * bool(earlier) + [b"503"]
    assert b"/refused" not in received


@pytest.mark.anyio
async def test_unread_answers_behind_a_proxy_are_counted_under_the_client_that_asked(
    small_budget: TinyServer,
) -> None:
    def held_by(client: bytes) -> int:
        request = b"GET /held HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %b\r\nConnection: close\r\n\r\n" % client
        return int(parse(small_budget.exchange(request)).body)

    async def held() -> tuple[int, int]:
        return held_by(b"192.0.2.7"), held_by(b"127.0.0.1")

    with small_budget.connect() as proxy:
        proxy.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")

        of_client, of_proxy = await until(held, any)
        assert (of_client > MIB, of_proxy) == (True, 0)
    await until(held, lambda found: not any(found))


@pytest.mark.anyio
async def test_with_a_key_the_bytes_of_a_body_and_of_unread_answers_are_those_of_its_principal(
    small_budget: TinyServer,
) -> None:
    def held_by(client: bytes) -> int:
        request = b"GET /held HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %b\r\nConnection: close\r\n\r\n" % client
        return int(parse(small_budget.exchange(request)).body)

    async def held() -> tuple[int, int]:
        return held_by(b"app"), held_by(b"127.0.0.1")

    with small_budget.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nX-Principal: app\r\nContent-Length: %d\r\n\r\n" % (2 * MIB))
        client.sendall(b" " * MIB)
        await until(held, lambda found: found == (MIB, 0))
    with small_budget.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nX-Principal: app\r\n\r\n")
        await until(held, lambda found: found[0] > MIB and found[1] == 0)
    await until(held, lambda found: not any(found))
