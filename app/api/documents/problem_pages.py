"""The pages under `/problems`: each `type` of a problem document is the path of a page with cause and cure."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from app.api.documents.pages import PAGE_HEADERS, html_page
from app.api.http.call import Reply
from app.api.http.problems import STATUS, slug
from app.api.http.request_ids import request_id
from app.errors.database import DatabaseMisplaced, LockTimeout
from app.errors.http import NotFound


class ProblemCase(NamedTuple):
    """One problem of a page.

    Args:
        title: A few words.
        status: The HTTP status.
        cause: Why the server returns the error. Text between backticks is rendered as code, here and in the cure.
        cure: What the client can do.
    """

    title: str
    status: int
    cause: str
    cure: str


class ProblemPage(NamedTuple):
    """The contents of the page of one problem type.

    Args:
        slug: The last part of the problem's type, `/problems/{slug}`.
        code: The symbolic name; Kafka's if Kafka has one.
        cases: The problems with this code, by rising status.
    """

    slug: str
    code: str
    cases: tuple[ProblemCase, ...]

    @property
    def title(self) -> str:
        """The titles of all cases."""
        return " · ".join(dict.fromkeys(case.title for case in self.cases))

    @property
    def statuses(self) -> str:
        """The HTTP statuses of all cases, each once."""
        return ", ".join(dict.fromkeys(str(case.status) for case in self.cases))


def problem_routes() -> list[Route]:
    """List the routes of the problem pages; the OpenAPI document does not contain them."""
    return [
        Route("/problems", _serve_index, methods=["GET"]),
        Route("/problems/{slug}", _serve_page, methods=["GET"]),
    ]


@cache
def problem_pages() -> dict[str, ProblemPage]:
    """Return the page of each problem type by slug, in the order of the index.

    Errors with the same code share a page.
    """
    pages: dict[str, ProblemPage] = {}
    for kind, status in sorted(STATUS.items(), key=lambda item: (item[1], item[0].code)):
        if kind in {LockTimeout, DatabaseMisplaced}:
            continue
        name = slug(kind)
        earlier = pages[name].cases if name in pages else ()
        case = ProblemCase(kind.title, status, kind.cause, kind.cure)
        pages[name] = ProblemPage(name, kind.code, (*earlier, case))
    return pages


def render_page(page: ProblemPage) -> str:
    """Render the page of one problem type as HTML; send it with `PAGE_HEADERS`."""
    return html_page(
        f"{page.title} · Millrace",
        '<nav><a href="../.">Millrace</a> · <a href="../problems">All problems</a> · <a href="../docs">API</a></nav>\n'
        f"<h1>{html.escape(page.cases[0].title if len(page.cases) == 1 else page.code)}</h1>\n"
        f'<p class="name"><code>{html.escape(page.code)}</code> · HTTP {page.statuses} · '
        f"<code>/problems/{html.escape(page.slug)}</code></p>\n" + _cases(page.cases),
        root="../",
    )


def _cases(cases: Sequence[ProblemCase]) -> str:
    """Render cause and cure; several cases have a heading each."""
    if len(cases) == 1:
        return f"<h2>Cause</h2>\n<p>{_text(cases[0].cause)}</p>\n<h2>Cure</h2>\n<p>{_text(cases[0].cure)}</p>"
    return "\n".join(
        f"<h2>{case.status}: {html.escape(case.title)}</h2>\n"
        f"<h3>Cause</h3>\n<p>{_text(case.cause)}</p>\n<h3>Cure</h3>\n<p>{_text(case.cure)}</p>"
        for case in cases
    )


def render_index(pages: Iterable[ProblemPage]) -> str:
    """Render the list of all problem types in the given order; send it with `PAGE_HEADERS`."""
    rows = "\n".join(
        f'<tr><td>{page.statuses}</td><td><a href="problems/{html.escape(page.slug)}">'
        f"{html.escape(page.title)}</a></td><td><code>{html.escape(page.code)}</code></td></tr>"
        for page in pages
    )
    return html_page(
        "Problems · Millrace",
        '<nav><a href=".">Millrace</a> · <a href="docs">API</a></nav>\n<h1>Problems</h1>\n'
        "<p>Every problem that Millrace reports, with its cause and its cure.</p>\n"
        f"<table>\n<tr><th>Status</th><th>Problem</th><th>Code</th></tr>\n{rows}\n</table>",
        root="",
    )


def _text(text: str) -> str:
    """Escape a text and render the parts between backticks as code."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


async def _serve_index(_: Request) -> Response:
    return HTMLResponse(render_index(problem_pages().values()), headers=PAGE_HEADERS)


async def _serve_page(request: Request) -> Response:
    page = problem_pages().get(request.path_params["slug"])
    if page is None:
        reply = Reply.problem(NotFound("there is no such problem; see /problems"), request_id(request.scope))
        return Response(reply.body, reply.status, media_type=reply.content_type.decode())
    return HTMLResponse(render_page(page), headers=PAGE_HEADERS)
