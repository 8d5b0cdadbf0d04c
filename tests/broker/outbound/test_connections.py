"""Connections are kept for a while, bounded by host, and closed whatever becomes of a request."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.broker.outbound.client import OutboundClient
from app.broker.outbound.exchange import NotSent, OutboundRules, Response, SendFailed, SendTimedOut
from app.broker.outbound.resolver import SystemResolver
from app.domain.outbound.addresses import parse_networks
from tests.broker.outbound.receivers import Exchange, Server, running
from tests.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio

RULES = OutboundRules(parse_networks(["127.0.0.0/8"]))
BODIES = [b"", b"x", b"x" * 16_384, b"x" * 16_385, b"\r\n\r\n", b"\n"]


class MakeClient(Protocol):
    """A function that makes a client."""

    def __call__(self, keepalive_s: float = 15) -> OutboundClient: ...


@pytest.fixture
async def client() -> AsyncIterator[MakeClient]:
    made: list[OutboundClient] = []

    def make(keepalive_s: float = 15) -> OutboundClient:
        made.append(OutboundClient(RULES, SystemResolver(), keepalive_s))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Let the process open no further file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened[0] + 1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for each in opened:
            os.close(each)


def url(server: Server, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.port}/hook"


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200)


@pytest.mark.parametrize("body", BODIES, ids=lambda each: f"{len(each)} bytes")
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_a_connection_is_used_again_after_a_complete_answer(
    client: MakeClient, body: bytes, *, is_chunked: bool
) -> None:
    async def answer(exchange: Exchange) -> None:
        if not is_chunked:
            await exchange.answer(200, body=body)
            return
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunk, b"0\r\n\r", b"\n")

    keeping = client()
    async with running(answer) as server:
        for _ in range(3):
            assert (await keeping.post(url(server), [], b"", 10)).body == body[:16_384]

        assert server.connections == (3 if len(body) > 16_384 else 1)


async def test_a_connection_is_closed_when_no_request_uses_it_for_a_while(client: MakeClient) -> None:
    async with running(ok) as server:
        await client(keepalive_s=0.02).post(url(server), [], b"", 10)

        await until_true(lambda: server.closed == 1)


async def test_a_connection_is_closed_after_a_time_out_and_with_the_client(client: MakeClient) -> None:
    async with running(Exchange.until_closed) as server:
        one = client()
        with pytest.raises(SendTimedOut):
            await one.post(url(server), [], b"", 0.02)
        await until_true(lambda: server.closed == 1)
    async with running(ok) as server:
        await one.post(url(server), [], b"", 10)
        await one.close()

        await until_true(lambda: server.closed == 1)


async def test_the_deadline_is_one_for_all_parts_of_an_answer(client: MakeClient) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.trickle(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"x")

    async with running(slow) as server:
        with pytest.raises(SendTimedOut, match=r"no complete answer within 0\.1 s"):
            await client().post(url(server), [], b"", 0.1)


async def test_a_host_that_hangs_does_not_hold_up_another(client: MakeClient) -> None:
    one = client()
    async with running(Exchange.until_closed) as hanging, running(ok) as healthy:
        attempts = [asyncio.ensure_future(one.post(url(hanging), [], b"", 30)) for _ in range(200)]
        await until_true(lambda: hanging.connections >= 64)

        for _ in range(20):
            assert (await one.post(url(healthy), [], b"", 10)).status == 200

        assert hanging.connections == 64
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)


async def test_a_request_that_could_not_begin_in_time_is_not_sent(client: MakeClient) -> None:
    one = client()
    async with running(Exchange.until_closed) as hanging:
        attempts = [asyncio.ensure_future(one.post(url(hanging), [], b"", 30)) for _ in range(64)]
        await until_true(lambda: hanging.connections >= 64)

        with pytest.raises(NotSent, match="too many are under way"):
            await one.post(url(hanging), [], b"", 0.05)

        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        await until_true(lambda: hanging.closed >= 64)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all loopback addresses")
async def test_many_hosts_keep_a_bounded_number_of_connections(client: MakeClient) -> None:
    one = client()
    async with running(ok, host="0.0.0.0") as server:
        for number in range(600):
            await one.post(url(server, f"127.0.{1 + number // 200}.{1 + number % 200}"), [], b"", 10)

        await until_true(lambda: server.closed >= 600 - 512)
        assert (await one.post(url(server), [], b"", 10)).status == 200


async def test_a_server_without_free_sockets_does_not_blame_the_receiver(client: MakeClient) -> None:
    one = client()
    async with running(ok) as server:
        await one.post(url(server), [(b"connection", b"close")], b"", 10)
        with no_free_descriptor(), pytest.raises(NotSent, match="this server has no socket left"):
            await one.post(url(server), [], b"", 10)

        assert (await one.post(url(server), [], b"", 10)).status == 200


async def test_a_port_without_a_listener_refuses(client: MakeClient) -> None:
    async with running(ok) as gone:
        pass
    with pytest.raises(SendFailed, match="the connection was refused"):
        await client().post(url(gone), [], b"", 10)


async def test_cookies_and_credentials_of_an_answer_are_not_sent_back(client: MakeClient) -> None:
    async def baking(exchange: Exchange) -> None:
        await exchange.answer(200, "set-cookie: a=b")

    one = client()
    async with running(baking) as server:
        for _ in range(2):
            await one.post(url(server), [(b"x-mine", b"1")], b"", 10)

    assert len(server.requests) == 2
    assert b"cookie" not in server.requests[1].lower()
    assert b"x-mine: 1\r\n" in server.requests[1]


FRAGMENTS = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 500\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"HTTP/1.1 204 N\r\n"),
    *(b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"a: b\r\n"),
    *(b"2\r\nab\r\n", b"0\r\n\r\n", b"\r\n", b"\n", b" ", b":"),
]


def test_any_answer_is_taken_or_refused() -> None:
    outcomes: set[type] = set()

    async def outcome(client: OutboundClient, server: Server) -> type:
        try:
            return type(await client.post(url(server), [], b"x", 20))
        except SendFailed as error:
            return type(error)

    async def check(parts: list[bytes], client: OutboundClient) -> None:
        async def behave(exchange: Exchange) -> None:
            await exchange.send(*parts)
            exchange.close()

        async with running(behave) as server:
            for _ in range(2):
                outcomes.add(await outcome(client, server))

    with asyncio.Runner() as runner:
        client = OutboundClient(RULES, SystemResolver())

        @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=20), max_size=8))
        def run(parts: list[bytes]) -> None:
            runner.run(check(parts, client))

        run()
        runner.run(client.close())

    assert outcomes == {Response, SendFailed}
