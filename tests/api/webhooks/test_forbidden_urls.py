"""URLs that lead to addresses inside the network: refused at once, or blocked when something is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.broker.outbound.receivers import watched
from tests.serving import running

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

HOSTS = [
    # private, loopback, link-local and reserved addresses
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    # the same in other notations
    "2130706433",
    "2852039166",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "127.1",
    "127.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.1..",
    "1.2.3.4.5",
    "256.0.0.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "１２７.0.0.1",
    "%31%32%37.0.0.1",
    "127.0.0.1%00.example.com",
    "127.0.0.1%20",
    # IPv6, and IPv4 inside it
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::1]",
    "[2606:4700::5efe:127.0.0.1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "[fec0::1]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[::1",
    "[127.0.0.1]",
    "[v1.127.0.0.1]",
    # names, and parts of a URL that another reader may take for the host
    "localhost",
    "LOCALHOST",
    "user@127.0.0.1",
    "example.com@127.0.0.1",
    "127.0.0.1#@example.com",
    "127.0.0.1\\@example.com",
    "127.0.0.1\t.example.com",
    "127.0.0.1 .example.com",
    "127.0.0.1:22",
    "",
]
OTHER_URLS = ["file:///etc/passwd", "gopher://127.0.0.1:6379/_INFO", "ftp://127.0.0.1/", "//127.0.0.1/", "127.0.0.1"]
RECEIVER = "https://example.com/"


async def refusal(client: httpx2.AsyncClient, answer: Any) -> str:
    """Return why a URL was refused, or what became of a test that sends to it."""
    if answer.status_code == 422:
        return "refused"
    assert answer.status_code in {200, 201}, answer.text
    attempt = (await client.post("/v1/webhooks/billing/test")).json()["attempt"]
    assert attempt["status"] is None
    return str(attempt["outcome"])


async def test_no_form_of_an_internal_address_can_be_created_updated_and_sent_to(sqlite_url: str) -> None:
    async with watched() as canaries, running({"database_url": sqlite_url}) as (_, client):
        port = canaries.url.rpartition(":")[2]
        urls = [f"{scheme}://{host}:{port}/" for host in HOSTS for scheme in ("https", "http")] + OTHER_URLS
        found = []
        for url in urls:
            fields = {"url": url, "topics": ["orders"], "paused": True}
            found.append((url, await refusal(client, await client.put("/v1/webhooks/billing", json=fields))))
            await client.delete("/v1/webhooks/billing")
        fields = {"url": RECEIVER, "topics": ["orders"], "paused": True}
        assert (await client.put("/v1/webhooks/billing", json=fields)).status_code == 201
        for url in urls:
            found.append((url, await refusal(client, await client.patch("/v1/webhooks/billing", json={"url": url}))))
            await client.patch("/v1/webhooks/billing", json={"url": RECEIVER})

    assert [each for each in found if each[1] not in {"refused", "blocked"}] == []
    assert {outcome for _, outcome in found} == {"refused", "blocked"}
    assert canaries.connections == 0
