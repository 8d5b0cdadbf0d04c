"""Behind a reverse proxy: the path prefix, relative links, and X-Forwarded headers of trusted proxies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

if TYPE_CHECKING:
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

RECORDS = "/v1/topics/orders/records"
PROXY = "127.0.0.1"
"""The address from which the client of these tests calls the application."""


async def test_the_path_may_come_with_or_without_the_prefix(serve: Serve) -> None:
    _, client = await serve(root_path="/apps/log/")
    for prefix in ("/apps/log", ""):
        assert (await client.post(f"{prefix}{RECORDS}", json={"value": 1})).status_code == 201
        assert (await client.get(f"{prefix}/docs")).status_code == 200
        assert (await client.get(f"{prefix}/")).json()["docs"] == "/apps/log/docs"
    assert (await client.get("/apps/log")).json()["topics"] == "/apps/log/v1/topics"
    assert (await client.get("/apps/logs/v1/topics")).status_code == 404
    assert (await client.get("/apps/log/v1/topics/a%2Fb")).status_code == 400


async def test_links_and_the_document_have_the_prefix(serve: Serve) -> None:
    _, client = await serve(root_path="/apps/log")
    await client.post(RECORDS, json={"value": 1})

    for path in (RECORDS, "/v1/topics/orders/partitions/0/records"):
        link = (await client.get(f"/apps/log{path}")).headers["link"]
        assert link.startswith(f"</apps/log{path}?")
        assert (await client.get(link.partition(">")[0].removeprefix("<"))).status_code == 200
    assert (await client.get("/apps/log/openapi.json")).json()["servers"] == [{"url": "/apps/log"}]


@pytest.mark.parametrize("prefix", ["", "/apps/log"])
async def test_every_link_of_a_page_stays_below_the_prefix(serve: Serve, prefix: str) -> None:
    _, client = await serve(root_path=prefix)
    for path in ("/docs", "/problems", "/problems/not-found"):
        page = await client.get(prefix + path)
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) > 2
        for link in links[:8]:
            target = urljoin(f"http://localhost:8400{prefix}{path}", link)
            assert target.startswith(f"http://localhost:8400{prefix}/")
            assert (await client.get(target)).status_code == 200, target


async def test_the_headers_of_a_trusted_proxy_count(serve: Serve) -> None:
    _, client = await serve(auth="none", trusted_proxies=(PROXY,), allowed_hosts=("log.example.com",))
    page = {"Origin": "https://log.example.com", "X-Forwarded-Proto": "https"}
    body = {"value": 1}

    accepted = await client.post(RECORDS, json=body, headers=page | {"X-Forwarded-Host": "log.example.com"})
    with_port = await client.post(RECORDS, json=body, headers=page | {"X-Forwarded-Host": "x, log.example.com:443"})
    other_page = await client.post(RECORDS, json=body, headers=page | {"X-Forwarded-Host": "localhost"})
    other_host = await client.post(RECORDS, json=body, headers=page | {"X-Forwarded-Host": "evil.example"})
    prefixed = await client.get("/", headers={"X-Forwarded-Prefix": "/apps"})
    bad_prefix = await client.get("/", headers={"X-Forwarded-Prefix": '/"><script>'})

    assert [answer.status_code for answer in (accepted, with_port, other_page, other_host)] == [201, 201, 403, 421]
    assert prefixed.json()["docs"] == "/apps/docs"
    assert bad_prefix.json()["docs"] == "/docs"


@pytest.mark.parametrize("proxies", [(), ("10.0.0.0/8",), ("::1",)])
async def test_the_headers_of_other_peers_do_not_count(serve: Serve, proxies: tuple[str, ...]) -> None:
    _, client = await serve(trusted_proxies=proxies)
    forwarded = {"X-Forwarded-Host": "localhost", "X-Forwarded-Prefix": "/apps"}

    assert (await client.get("/", headers=forwarded | {"Host": "evil.example"})).status_code == 421
    assert (await client.get("/", headers=forwarded)).json()["docs"] == "/docs"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("root_path", "millrace"), ("root_path", "/a b"), ("root_path", "/a//b"), ("trusted_proxies", ("proxy",))],
)
async def test_an_invalid_setting_is_refused_at_the_start(serve: Serve, setting: str, value: object) -> None:
    with pytest.raises(ValueError, match="such as"):
        await serve(**{setting: value})
