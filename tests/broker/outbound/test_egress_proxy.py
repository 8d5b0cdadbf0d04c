"""All requests through an egress proxy: its own faults are not those of the receivers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Protocol

import pytest

from app.broker.outbound.client import OutboundClient
from app.broker.outbound.exchange import NotSent, OutboundRules, SendBlocked, SendFailed, SendTimedOut
from app.broker.outbound.resolver import LookUp, SystemResolver, look_up
from app.domain.outbound.addresses import parse_networks
from tests.broker.outbound.receivers import Exchange, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.broker.outbound.certificates import Authority

pytestmark = pytest.mark.anyio


class MakeClient(Protocol):
    """A function that makes a client of this proxy."""

    def __call__(
        self, proxy_url: str, *networks: str, allow_http: bool = False, find: LookUp = look_up
    ) -> OutboundClient: ...


@pytest.fixture
async def client(authority: Authority) -> AsyncIterator[MakeClient]:
    made: list[OutboundClient] = []

    def make(proxy_url: str, *networks: str, allow_http: bool = False, find: LookUp = look_up) -> OutboundClient:
        rules = OutboundRules(parse_networks(networks), allow_http, str(authority.ca_file), proxy_url)
        made.append(OutboundClient(rules, SystemResolver(find)))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200, body=b"ok")


def tunnel_to(port: int) -> Callable[[Exchange], Awaitable[None]]:
    """Return the behaviour of a proxy that connects every tunnel to a port of this machine."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def behave(exchange: Exchange) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        tasks = [asyncio.ensure_future(copy(exchange.reader, writer))]
        tasks.append(asyncio.ensure_future(copy(reader, exchange.writer)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.transport.abort()
            exchange.close()

    return behave


def answering(status: int) -> Callable[[Exchange], Awaitable[None]]:
    return lambda exchange: exchange.answer(status)


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
async def test_a_request_goes_through_a_tunnel_with_the_name_and_tls_of_the_receiver(
    client: MakeClient, authority: Authority, *, is_tls: bool
) -> None:
    proxy_tls = authority.server_context("localhost") if is_tls else None
    async with (
        running(ok, tls=authority.server_context("a.example")) as server,
        running(tunnel_to(server.port), tls=proxy_tls) as proxy,
    ):
        through = client(f"{'https' if is_tls else 'http'}://me:s%3Acret@localhost:{proxy.port}")
        answers = [await through.post("https://a.example/hook", [], b"body", 10) for _ in range(2)]

    assert [(each.status, each.body) for each in answers] == [(200, b"ok")] * 2
    assert [each.split()[:2] for each in server.requests] == [[b"POST", b"/hook"]] * 2
    assert len(proxy.requests) == 1
    assert proxy.requests[0].startswith(b"CONNECT a.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6czpjcmV0\r\n" in proxy.requests[0]
    assert b"roxy-" not in server.requests[0]


async def test_a_request_without_tls_is_sent_to_the_proxy_only_if_the_operator_allows_it(client: MakeClient) -> None:
    async with running(ok) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        with pytest.raises(SendBlocked, match="MILLRACE_WEBHOOK_ALLOW_HTTP"):
            await client(url).post("http://a.example/hook", [], b"", 10)
        assert proxy.requests == []

        answer = await client(url, allow_http=True).post("http://a.example/hook", [], b"", 10)

    assert answer.status == 200
    assert proxy.requests[0].startswith(b"POST http://a.example:80/hook HTTP/1.1\r\nhost: a.example\r\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "0x7f.1"])
async def test_an_address_that_may_not_be_used_is_not_sent_to_the_proxy(client: MakeClient, host: str) -> None:
    async with running(ok) as proxy:
        with pytest.raises(SendBlocked):
            await client(f"http://127.0.0.1:{proxy.port}").post(f"https://{host}/", [], b"", 10)

    assert proxy.connections == 0


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (403, SendBlocked, "refuses this receiver with 403"),
        (407, SendFailed, "refuses this receiver, or its own credentials, with 407"),
        (502, SendFailed, "does not reach the receiver, and answers 502"),
        (503, SendFailed, "does not reach the receiver, and answers 503"),
        (504, SendFailed, "does not reach the receiver, and answers 504"),
        (400, NotSent, "makes no tunnel, and answers 400"),
        (404, NotSent, "makes no tunnel, and answers 404"),
        (302, NotSent, "makes no tunnel, and answers 302"),
    ],
)
async def test_a_refusal_of_the_proxy_says_whose_fault_it_is(
    client: MakeClient, status: int, kind: type[SendFailed], message: str
) -> None:
    async with running(answering(status)) as proxy:
        with pytest.raises(SendFailed, match=message) as failed:
            await client(f"http://127.0.0.1:{proxy.port}").post("https://a.example/", [], b"", 10)

    assert type(failed.value) is kind


async def test_a_proxy_that_is_not_there_is_a_fault_of_this_side(client: MakeClient) -> None:
    async with running(ok) as gone:
        pass
    for scheme in ("http", "https"):
        with pytest.raises(NotSent, match="the egress proxy cannot be reached"):
            await client(f"{scheme}://127.0.0.1:{gone.port}").post("https://a.example/", [], b"", 10)
    with pytest.raises(NotSent, match="the egress proxy cannot be reached"):
        await client("http://proxy.invalid:3128").post("https://a.example/", [], b"", 10)


@contextmanager
def black_hole() -> Iterator[int]:
    """Listen on a port whose queue of connections is full: another SYN is dropped."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_proxy_that_drops_connections_is_a_fault_of_this_side(client: MakeClient) -> None:
    with black_hole() as port:
        through = client(f"http://127.0.0.1:{port}", allow_http=True)
        for url in ("https://a.example/", "http://a.example/"):
            with pytest.raises(NotSent, match="the egress proxy cannot be reached"):
                await through.post(url, [], b"", 0.1)


async def test_a_proxy_whose_name_is_not_resolved_in_time_is_a_fault_of_this_side(client: MakeClient) -> None:
    end = Event()
    through = client("http://proxy.example:3128", find=lambda *_: ["127.0.0.1"] if end.wait() else [])
    with pytest.raises(NotSent, match="the egress proxy cannot be reached"):
        await through.post("https://a.example/", [], b"", 0.1)
    end.set()


async def test_a_proxy_that_begins_no_tls_is_a_fault_of_this_side(client: MakeClient) -> None:
    async with running(Exchange.until_closed, reads=False) as proxy:
        with pytest.raises(NotSent, match="TLS with the egress proxy failed"):
            await client(f"https://localhost:{proxy.port}").post("https://a.example/", [], b"", 0.1)


async def test_each_address_of_a_proxy_is_tried(client: MakeClient, authority: Authority) -> None:
    async with (
        running(ok, tls=authority.server_context("a.example")) as server,
        running(tunnel_to(server.port)) as proxy,
    ):
        through = client(f"http://proxy.example:{proxy.port}", find=lambda *_: ["127.0.0.3", "127.0.0.1"])
        assert (await through.post("https://a.example/", [], b"", 10)).status == 200


async def test_a_receiver_may_take_all_the_time_for_tls_behind_a_proxy(client: MakeClient) -> None:
    async with running(Exchange.until_closed, reads=False) as server, running(tunnel_to(server.port)) as proxy:
        with pytest.raises(SendTimedOut):
            await client(f"http://127.0.0.1:{proxy.port}").post("https://a.example/", [], b"", 0.1)


async def test_a_proxy_that_closes_is_a_fault_of_this_side(client: MakeClient) -> None:
    async def close(exchange: Exchange) -> None:
        exchange.close()

    async with running(close) as proxy:
        for url in ("https://a.example/", "http://a.example/"):
            with pytest.raises(NotSent, match="the egress proxy closed the connection"):
                await client(f"http://127.0.0.1:{proxy.port}", allow_http=True).post(url, [], b"", 10)


async def test_a_proxy_whose_certificate_is_wrong_is_a_fault_of_this_side(
    client: MakeClient, authority: Authority
) -> None:
    async with running(ok, tls=authority.server_context("other.example")) as proxy:
        with pytest.raises(NotSent, match="TLS with the egress proxy failed"):
            await client(f"https://localhost:{proxy.port}").post("https://a.example/", [], b"", 10)


async def test_a_receiver_whose_certificate_is_wrong_is_no_fault_of_the_proxy(
    client: MakeClient, authority: Authority
) -> None:
    async with (
        running(ok, tls=authority.server_context("other.example")) as server,
        running(tunnel_to(server.port)) as proxy,
    ):
        with pytest.raises(SendFailed, match="the certificate is not accepted: Hostname mismatch") as failed:
            await client(f"http://127.0.0.1:{proxy.port}").post("https://a.example/", [], b"", 10)

    assert type(failed.value) is SendFailed


async def test_a_proxy_that_says_nothing_ends_with_the_time_of_the_attempt(client: MakeClient) -> None:
    async with running(Exchange.until_closed) as proxy:
        with pytest.raises(SendTimedOut):
            await client(f"http://127.0.0.1:{proxy.port}").post("https://a.example/", [], b"", 0.05)
