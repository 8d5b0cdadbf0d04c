"""What a receiver's name resolves to decides whether the attempt is blocked, failed or not sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.broker.outbound.client import OutboundClient
from app.broker.outbound.exchange import NotSent, OutboundRules, SendBlocked, SendFailed
from app.broker.outbound.resolver import ResolverFailed, UnknownHost
from app.domain.outbound.addresses import parse_networks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio


class Names:
    """A resolver that knows one answer."""

    def __init__(self, answer: list[str] | Exception) -> None:
        self.answer = answer

    async def resolve(self, host: str, port: int) -> list[str]:
        assert (host, port) == ("a.example", 443)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., OutboundClient]]:
    made: list[OutboundClient] = []

    def make(answer: list[str] | Exception, *networks: str) -> OutboundClient:
        made.append(OutboundClient(OutboundRules(parse_networks(networks)), Names(answer)))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (["10.0.0.1"], SendBlocked, "the operator can allow its network with MILLRACE_WEBHOOK_ALLOWED_NETWORKS"),
        (["93.184.216.34", "127.0.0.1"], SendBlocked, "MILLRACE_WEBHOOK_ALLOWED_NETWORKS"),
        (["169.254.169.254"], SendBlocked, "which no setting allows"),
        (UnknownHost("the host name has no address"), SendFailed, "the host name has no address"),
        (ResolverFailed("the resolver cannot be reached"), NotSent, "the resolver cannot be reached"),
    ],
)
async def test_a_name_without_a_usable_address_says_why(
    client: Callable[..., OutboundClient], answer: list[str] | Exception, kind: type[SendFailed], message: str
) -> None:
    with pytest.raises(SendFailed, match=message) as failed:
        await client(answer).post("https://a.example/", [], b"", 5)

    assert type(failed.value) is kind
