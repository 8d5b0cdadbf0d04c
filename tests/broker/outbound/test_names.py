"""What a receiver's name resolves to decides where a connection goes, and whether there is one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import pytest

from app.broker.outbound.client import OutboundClient
from app.broker.outbound.exchange import (
    NotSent,
    OutboundRules,
    SendBlocked,
    SendFailed,
    SendTimedOut,
    SendUnresolved,
)
from app.broker.outbound.resolver import ResolverFailed, UnknownHost
from app.domain.outbound.addresses import parse_networks
from tests.broker.outbound.receivers import Exchange, running, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.broker.outbound.certificates import Authority

pytestmark = pytest.mark.anyio

Answer = list[str] | Exception


class Names:
    """A resolver that gives its answers one after the other, and the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        assert port > 0
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class MakeClient(Protocol):
    """A function that makes a client with this resolver, and rules."""

    def __call__(self, names: Names, *networks: str, allow_http: bool = False, ca_file: str = "") -> OutboundClient: ...


@pytest.fixture
async def client() -> AsyncIterator[MakeClient]:
    made: list[OutboundClient] = []

    def make(names: Names, *networks: str, allow_http: bool = False, ca_file: str = "") -> OutboundClient:
        made.append(OutboundClient(OutboundRules(parse_networks(networks), allow_http, ca_file), names))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200)


async def ok_and_close(exchange: Exchange) -> None:
    await exchange.answer(200, "connection: close")
    exchange.close()


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (["10.0.0.1"], SendBlocked, "the operator can allow its network with MILLRACE_WEBHOOK_ALLOWED_NETWORKS"),
        (["93.184.216.34", "127.0.0.1"], SendBlocked, "MILLRACE_WEBHOOK_ALLOWED_NETWORKS"),
        (["127.0.0.1", "93.184.216.34"], SendBlocked, "MILLRACE_WEBHOOK_ALLOWED_NETWORKS"),
        (["93.184.216.34", "::ffff:10.0.0.1"], SendBlocked, "MILLRACE_WEBHOOK_ALLOWED_NETWORKS"),
        (["64:ff9b::7f00:1"], SendBlocked, "MILLRACE_WEBHOOK_ALLOWED_NETWORKS"),
        (["169.254.169.254"], SendBlocked, "which no setting allows"),
        (["fe80::1%lo"], SendBlocked, "which no setting allows"),
        ([], SendUnresolved, "the host name has no address"),
        (UnknownHost("the host name has no address"), SendUnresolved, "the host name has no address"),
        (ResolverFailed("the resolver cannot be reached"), NotSent, "the resolver cannot be reached"),
    ],
)
async def test_a_name_without_a_usable_address_says_why(
    client: MakeClient, answer: Answer, kind: type[SendFailed], message: str
) -> None:
    with pytest.raises(SendFailed, match=message) as failed:
        await client(Names(answer)).post("https://a.example/", [], b"", 5)

    assert type(failed.value) is kind


@pytest.mark.parametrize(
    ("addresses", "hint"),
    [
        (["127.0.0.1", "::1"], r"at its IPv6 address; .* \(::1/128 for loopback\)"),
        (["10.0.0.1"], r"reserved; .* \(127\.0\.0\.0/8 for loopback\)"),
        (["::ffff:10.0.0.1"], r"reserved; .* \(127\.0\.0\.0/8 for loopback\)"),
    ],
)
async def test_a_refusal_names_the_kind_of_network_that_is_not_allowed_but_not_the_address(
    client: MakeClient, addresses: list[str], hint: str
) -> None:
    with pytest.raises(SendBlocked, match=hint) as refused:
        await client(Names(addresses), "127.0.0.0/8").post("http://localhost:9000/", [], b"", 5)

    assert "10.0.0.1" not in str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_a_connection_goes_to_the_address_that_was_judged(client: MakeClient, address: str) -> None:
    names = Names([address])
    async with running(ok) as server:
        answer = await client(names, "127.0.0.1/32").post(f"http://a.example:{server.port}/x?y=z", [], b"body", 5)

    assert (answer.status, names.asked) == (200, ["a.example"])
    request = server.requests[0].lower()
    assert request.startswith(b"post /x?y=z http/1.1\r\nhost: a.example:%d\r\n" % server.port)
    assert b"\r\naccept-encoding: identity\r\n" in request
    assert request.endswith(b"\r\ncontent-length: 4\r\n\r\nbody")


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, client: MakeClient) -> None:
    async with running(ok) as server, watched() as canaries:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, canaries.url)
        answer = await client(Names(["127.0.0.1"]), "127.0.0.1").post(f"http://a.example:{server.port}/", [], b"", 5)

    assert (answer.status, canaries.connections) == (200, 0)


async def test_a_name_that_flips_to_a_private_address_is_never_connected_to(client: MakeClient) -> None:
    async with watched() as canaries, running(ok_and_close) as server:
        forbidden = "::1" if "[" in canaries.url else "127.0.0.2"
        flipping = client(Names(["127.0.0.1"], [forbidden], ["127.0.0.1", forbidden], ["127.0.0.1"]), "127.0.0.1/32")
        outcomes: list[int | type[Exception]] = []
        for port in (server.port, server.port, int(canaries.url.rpartition(":")[2]), server.port):
            try:
                outcomes.append((await flipping.post(f"http://a.example:{port}/", [], b"", 5)).status)
            except SendFailed as error:
                outcomes.append(type(error))

    assert outcomes == [200, SendBlocked, SendBlocked, 200]
    assert canaries.connections == 0


async def test_a_kept_connection_is_used_without_resolving_its_name_again(client: MakeClient) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    keeping = client(names, "127.0.0.1/32")
    async with running(ok) as server:
        for _ in range(3):
            await keeping.post(f"http://a.example:{server.port}/", [], b"", 5)

    assert (server.connections, len(names.asked)) == (1, 1)


async def test_the_next_address_is_tried_if_one_refuses(client: MakeClient) -> None:
    async with running(ok) as server:
        answer = await client(Names(["127.0.0.3", "127.0.0.1"]), "127.0.0.0/8").post(
            f"http://a.example:{server.port}/", [], b"", 5
        )

    assert answer.status == 200


async def test_a_public_receiver_without_tls_needs_a_setting(client: MakeClient) -> None:
    with pytest.raises(SendBlocked, match="MILLRACE_WEBHOOK_ALLOW_HTTP"):
        await client(Names(["192.0.0.9", "93.184.216.34"]), "192.0.0.0/24").post("http://a.example/", [], b"", 5)


async def test_an_address_in_a_url_is_judged_before_a_connection(client: MakeClient) -> None:
    async with watched() as canaries:
        for url in canaries.urls:
            with pytest.raises(SendBlocked):
                await client(Names([]), "127.0.0.1/32").post(url, [], b"", 5)
        for host in ("[::ffff:127.0.0.2]", "[64:ff9b::7f00:2]", "[2002:7f00:2::]", "2130706434", "0x7f.2", "127.2"):
            with pytest.raises(SendBlocked):
                await client(Names(["127.0.0.1"]), "127.0.0.1/32").post(
                    f"http://{host}:{canaries.url.rpartition(':')[2]}/", [], b"", 5
                )

    assert canaries.connections == 0


async def test_an_ipv6_address_in_a_url_is_connected_to_if_it_is_allowed(client: MakeClient) -> None:
    try:
        receiver = running(ok, host="::1")
        async with receiver as server:
            answer = await client(Names([]), "::1/128").post(f"http://[::1]:{server.port}/", [], b"", 5)
    except OSError:
        pytest.skip("this machine has no IPv6")

    assert answer.status == 200
    assert b"\r\nhost: [::1]:%d\r\n" % server.port in server.requests[0].lower()


@pytest.mark.parametrize("host", ["a.example", "A.Example.", "bücher.example"])
async def test_the_certificate_must_be_for_the_name(client: MakeClient, authority: Authority, host: str) -> None:
    names: list[str | None] = []
    tls = authority.server_context("a.example", "xn--bcher-kva.example")
    tls.sni_callback = lambda _connection, name, _context: names.append(name)
    trusting = client(Names(["127.0.0.1"]), "127.0.0.1/32", ca_file=str(authority.ca_file))
    async with running(ok, tls=tls) as server:
        answer = await trusting.post(f"https://{host}:{server.port}/", [], b"", 5)
        with pytest.raises(SendFailed, match=r"the certificate is not accepted: Hostname mismatch"):
            await trusting.post(f"https://b.example:{server.port}/", [], b"", 5)

    assert answer.status == 200
    assert names == ["xn--bcher-kva.example" if host.startswith("b") else "a.example", "b.example"]
    assert len(server.requests) == 1


async def test_only_the_chosen_certificate_authority_is_trusted(client: MakeClient, authority: Authority) -> None:
    async with running(ok, tls=authority.server_context("a.example")) as server:
        with pytest.raises(SendFailed, match="the certificate is not accepted"):
            await client(Names(["127.0.0.1"]), "127.0.0.1/32").post(f"https://a.example:{server.port}/", [], b"", 5)

    assert server.requests == []


async def test_a_ca_file_that_is_gone_is_a_fault_of_this_side(client: MakeClient) -> None:
    with pytest.raises(NotSent, match="MILLRACE_WEBHOOK_CA_FILE"):
        await client(Names(["127.0.0.1"]), "127.0.0.1", ca_file="gone.pem").post("https://a.example/", [], b"", 5)


async def test_the_time_for_the_name_counts(client: MakeClient) -> None:
    class Slow(Names):
        async def resolve(self, host: str, port: int) -> list[str]:
            await asyncio.Event().wait()
            return await super().resolve(host, port)

    with pytest.raises(SendTimedOut, match=r"no complete answer within 0\.05 s"):
        await client(Slow([])).post("https://a.example/", [], b"", 0.05)
