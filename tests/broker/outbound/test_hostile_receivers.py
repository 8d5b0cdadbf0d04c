"""Each receiver that behaves badly ends as the table says: nothing hangs, and no forbidden address is connected to."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from app.broker.outbound.client import OutboundClient
from app.broker.outbound.exchange import OutboundRules, SendBlocked, SendFailed, SendTimedOut
from app.broker.outbound.resolver import SystemResolver
from tests.broker.outbound.hostile_receivers import HOSTILE, Hostile
from tests.broker.outbound.receivers import running, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.broker.outbound.certificates import Authority

pytestmark = pytest.mark.anyio

KINDS = {"failed": SendFailed, "timed_out": SendTimedOut, "blocked": SendBlocked}
BODY = b"x" * 100_000
SOCKET_BUFFERS = 16_000_000


@pytest.fixture
async def client(authority: Authority) -> AsyncIterator[OutboundClient]:
    rules = OutboundRules((ip_network("127.0.0.1/32"),), ca_file=str(authority.ca_file))
    made = OutboundClient(rules, SystemResolver())
    yield made
    await made.close()


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda each: each.name)
async def test_a_receiver_ends_as_the_table_says(
    client: OutboundClient, authority: Authority, hostile: Hostile
) -> None:
    tls = hostile.tls(authority) if hostile.tls else None
    async with (
        watched() as canaries,
        running(hostile.behave, canaries, tls=tls, reads=hostile.reads) as server,
    ):
        url = f"{'https' if hostile.is_tls_url else 'http'}://127.0.0.1:{server.port}/hook"
        timeout_s = 0.2 if hostile.outcome == "timed_out" else hostile.timeout_s
        for _ in range(hostile.attempts):
            if hostile.status is not None:
                answer = await client.post(url, [], BODY, timeout_s)
                assert answer.status == hostile.status
                assert len(answer.body) <= 16 * 1024
                continue
            with pytest.raises(SendFailed, match=re.compile(hostile.error)) as failed:
                await client.post(url, [], BODY, timeout_s)
            assert type(failed.value) is KINDS[hostile.outcome]
        assert canaries.connections == 0
    assert server.most_sent < SOCKET_BUFFERS
