"""The guides as pages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from app.api.documents.guides import GUIDES, render
from tests.checkout import ROOT

if TYPE_CHECKING:
    import httpx2

NOT_FOR_USERS = {"architecture", "index"}


def test_every_document_for_users_is_a_guide() -> None:
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - NOT_FOR_USERS == set(GUIDES)


@pytest.mark.anyio
async def test_every_guide_is_a_page_whose_links_lead_somewhere(sqlite_client: httpx2.AsyncClient) -> None:
    for name, title in GUIDES.items():
        page = await sqlite_client.get(f"/guides/{name}")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert f"<title>{title} · Millrace</title>" in page.text
        assert re.search(r"<script|<style|style=|<img", page.text) is None
        for link in re.findall(r'href="([^"]+)"', page.text):
            path, _, anchor = link.partition("#")
            target = page if not path else await sqlite_client.get(f"/guides/{path}")
            assert target.status_code == 200, link
            assert not anchor or f'id="{anchor}"' in target.text, link


@pytest.mark.anyio
async def test_other_files_are_404(sqlite_client: httpx2.AsyncClient) -> None:
    for name in ("architecture", "nothing", "..%2f..%2fREADME", "streams.md"):
        assert (await sqlite_client.get(f"/guides/{name}")).status_code in {400, 404}


def test_links_to_guides_lead_to_pages_and_those_to_other_files_become_text() -> None:
    html = render(
        "[a](streams.md#resume) [b](docs/queues.md) [c](../LICENSE) [d](architecture.md) [e](https://x.example)"
    )

    assert html == (
        '<p><a href="streams#resume">a</a> <a href="queues">b</a> c d <a href="https://x.example">e</a></p>\n'
    )


def test_html_is_text_and_headings_have_anchors() -> None:
    assert render("# When `x` fails?\n\n<script>1</script>") == (
        '<h1 id="when-x-fails">When <code>x</code> fails?</h1>\n<p>&lt;script&gt;1&lt;/script&gt;</p>\n'
    )
