"""`GET /` in a browser and for programs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
LINKS = re.compile(r'href="([^"]+)"')


async def test_a_browser_gets_a_page_with_links_and_a_first_command(sqlite_client: httpx2.AsyncClient) -> None:
    page = await sqlite_client.get("/", headers=BROWSER)
    docs = await sqlite_client.get("/docs")

    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"] == docs.headers["content-security-policy"]
    assert page.headers["vary"] == "Accept"
    assert """<code>curl --json '{"value":"hi"}' http://localhost:8400/v1/topics/orders/records""" in page.text
    assert re.search(r"<script|<style|style=", page.text) is None
    links = LINKS.findall(page.text)
    assert {"docs", "problems", "healthz", "openapi.json", "guides/streams", "docs/favicon.svg"} <= set(links)
    assert [link for link in links if link.startswith("/") or "//" in link] == []
    for link in links:
        assert (await sqlite_client.get(f"/{link}")).status_code == 200, link


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html;q=0.1, application/json", "image/png"])
async def test_all_others_get_json(sqlite_client: httpx2.AsyncClient, accept: str) -> None:
    answer = await sqlite_client.get("/", headers={"Accept": accept})

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["vary"] == "Accept"
    assert answer.json()["docs"] == "/docs"


async def test_head_has_the_headers_of_the_page(sqlite_client: httpx2.AsyncClient) -> None:
    page = await sqlite_client.get("/", headers=BROWSER)
    head = await sqlite_client.head("/", headers=BROWSER)

    names = ("content-type", "content-length", "content-security-policy")
    assert [head.headers[name] for name in names] == [page.headers[name] for name in names]


@pytest.mark.parametrize("path", ["/millrace", "/millrace/"])
async def test_the_links_work_under_a_path_prefix_with_and_without_a_slash(serve: Serve, path: str) -> None:
    _, client = await serve(root_path="/millrace", allowed_hosts=("log.example.com",))

    page = await client.get(path, headers=BROWSER | {"Host": "log.example.com"})

    assert "http://log.example.com/millrace/v1/topics/orders/records" in page.text
    links = {urljoin(f"http://log.example.com{path}", link) for link in LINKS.findall(page.text)}
    assert all(link.startswith("http://log.example.com/millrace/") for link in links)
    assert "http://log.example.com/millrace/docs" in links


@pytest.mark.parametrize("host", ["a'b", "a<b>", "$(x)"])
async def test_no_text_of_a_strange_host_is_in_the_command(serve: Serve, host: str) -> None:
    _, client = await serve(allowed_hosts=("*",))

    page = await client.get("/", headers=BROWSER | {"Host": host})

    assert page.status_code == 421 or "http://localhost/v1/topics/orders/records" in page.text


async def test_a_browser_finds_the_icon_for_answers_that_are_no_page(sqlite_client: httpx2.AsyncClient) -> None:
    icon = await sqlite_client.get("/favicon.ico")

    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
