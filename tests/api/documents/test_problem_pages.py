"""The pages of the problem types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from app.api.documents.problem_pages import ProblemCase, ProblemPage, problem_pages, render_index, render_page

if TYPE_CHECKING:
    import httpx2

GONE = ProblemPage(
    slug="unknown-topic",
    code="UNKNOWN_TOPIC",
    cases=(
        ProblemCase(
            title="Unknown <topic>",
            status=404,
            cause="There is no topic & no `name`.",
            cure="Create it with `PUT /v1/topics/{topic}`, or <look>.",
        ),
    ),
)


def test_a_problem_page_has_the_escaped_cause_and_cure() -> None:
    page = render_page(GONE)

    assert "<title>Unknown &lt;topic&gt; · Millrace</title>" in page
    assert "<code>UNKNOWN_TOPIC</code> · HTTP 404" in page
    assert "<h2>Cause</h2>\n<p>There is no topic &amp; no <code>name</code>.</p>" in page
    assert "<code>PUT /v1/topics/{topic}</code>, or &lt;look&gt;.</p>" in page
    assert '<link rel="stylesheet" href="../docs/page.css">' in page
    assert re.search(r"<script|<style|style=|//", page) is None


def test_a_single_backtick_is_not_code() -> None:
    page = render_page(GONE._replace(cases=(GONE.cases[0]._replace(cause="One ` only."),)))

    assert "<p>One ` only.</p>" in page


def test_the_index_links_every_problem_in_order() -> None:
    cases = (GONE.cases[0]._replace(title="Low", status=410), GONE.cases[0]._replace(title="High", status=416))
    other = GONE._replace(slug="other", code="OTHER", cases=cases)

    page = render_index([GONE, other])

    assert re.findall(r'href="(problems/[^"]+)"', page) == ["problems/unknown-topic", "problems/other"]
    assert "Unknown &lt;topic&gt;" in page
    assert "<td>410, 416</td>" in page
    assert ">Low · High</a>" in page


def test_a_code_with_several_problems_has_cause_and_cure_of_each() -> None:
    page = render_page(problem_pages()["offset-out-of-range"])

    headings = re.findall(r"<h[123]>([^<]+)</h", page)
    assert headings == [
        "OFFSET_OUT_OF_RANGE",
        "410: Offset below the log start", "Cause", "Cure",
        "416: Offset above the log end", "Cause", "Cure",
        "422: Committed offset above the log end", "Cause", "Cure",
    ]  # fmt: skip
    assert "HTTP 410, 416, 422 " in page


def test_a_status_is_listed_once_on_each_page() -> None:
    for page in problem_pages().values():
        statuses = page.statuses.split(", ")
        assert len(statuses) == len(set(statuses)), page.slug


@pytest.mark.anyio
async def test_the_pages_have_the_security_headers_of_the_docs(sqlite_client: httpx2.AsyncClient) -> None:
    docs = await sqlite_client.get("/docs")

    for path in ("/problems", "/problems/not-found"):
        page = await sqlite_client.get(path)
        for name in ("content-security-policy", "x-content-type-options", "referrer-policy"):
            assert page.headers[name] == docs.headers[name]
