"""Pages for people: Swagger UI at `/docs`, and the pages that problem types resolve to.

Everything comes from the package, under a policy that allows no inline script, no inline style and no other host.
"""

from __future__ import annotations

import gzip
import hashlib
import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
"""Headers of every page for people."""

_STATIC = Path(__file__).parent / "static"
_CACHE_CONTROL = "public, max-age=3600"


class _Asset(NamedTuple):
    file: str
    media_type: str


_ASSETS = {
    "swagger-ui-bundle.js": _Asset("swagger/swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": _Asset("swagger/swagger-ui.css", "text/css"),
    "init.js": _Asset("init.js", "text/javascript"),
    "page.css": _Asset("page.css", "text/css"),
    "favicon.svg": _Asset("favicon.svg", "image/svg+xml"),
}


class ProblemPage(NamedTuple):
    """What the page of a problem type says; `problem_page(*problem)` renders it.

    Args:
        slug: The last part of its type, `/problems/{slug}`.
        code: The symbolic name, Kafka's where Kafka has one.
        title: A few words.
        status: The HTTP status; several, where one code has several: `410 or 416`.
        cause: Why the server refuses. What stands between backticks is set as code, here and in the cure.
        cure: What to do.
    """

    slug: str
    code: str
    title: str
    status: str
    cause: str
    cure: str


def docs_routes() -> list[Route]:
    """List the routes of `/docs` and its files; they stand in no OpenAPI document.

    Their functions are synchronous, so that Starlette reads and compresses the files outside the event loop.
    """
    files = [Route(f"/docs/{name}", _file, methods=["GET"], name=f"docs_{name}") for name in _ASSETS]
    return [Route("/docs", _docs, methods=["GET"], name="docs"), *files]


def problem_page(slug: str, code: str, title: str, status: str, cause: str, cure: str) -> str:
    """Render the page of one problem type, from the members of a `ProblemPage`; send it with `PAGE_HEADERS`."""
    return _page(
        title,
        '<nav><a href="/problems">All problems</a> · <a href="/docs">API</a></nav>\n'
        f"<h1>{html.escape(title)}</h1>\n"
        f'<p class="name"><code>{html.escape(code)}</code> · HTTP {html.escape(status)} · '
        f"<code>/problems/{html.escape(slug)}</code></p>\n"
        f"<h2>Cause</h2>\n<p>{_prose(cause)}</p>\n"
        f"<h2>Cure</h2>\n<p>{_prose(cure)}</p>",
    )


def problem_index(problems: Iterable[ProblemPage]) -> str:
    """Render the list of all problem types in the order given; send it with `PAGE_HEADERS`."""
    rows = "\n".join(
        f'<tr><td>{html.escape(problem.status)}</td><td><a href="/problems/{html.escape(problem.slug)}">'
        f"{html.escape(problem.title)}</a></td><td><code>{html.escape(problem.code)}</code></td></tr>"
        for problem in problems
    )
    return _page(
        "Problems",
        '<nav><a href="/docs">API</a></nav>\n<h1>Problems</h1>\n'
        "<p>What Millrace refuses, why, and what to do about it.</p>\n"
        f"<table>\n<tr><th>Status</th><th>Problem</th><th>Code</th></tr>\n{rows}\n</table>",
    )


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)} · Millrace</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" type="image/svg+xml" href="/docs/favicon.svg">\n'
        '<link rel="stylesheet" href="/docs/page.css">\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _prose(text: str) -> str:
    """Escape a sentence and set what stands between backticks as code."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _docs(_: Request) -> Response:
    page = (_STATIC / "docs.html").read_text(encoding="utf-8")
    return HTMLResponse(page, headers={**PAGE_HEADERS, "Cache-Control": "no-store"})


def _file(request: Request) -> Response:
    asset = _ASSETS[request.url.path.rpartition("/")[2]]
    packed, etag = _packed(asset.file)
    headers = {**PAGE_HEADERS, "Cache-Control": _CACHE_CONTROL, "ETag": etag, "Vary": "Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if _accepts_gzip(request.headers.get("accept-encoding", "")):
        return Response(packed, media_type=asset.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(gzip.decompress(packed), media_type=asset.media_type, headers=headers)


@cache
def _packed(file: str) -> tuple[bytes, str]:
    """Read a file once and keep it compressed: half a megabyte for all, 2 MB otherwise.

    Returns:
        Its bytes as gzip, and an entity tag, weak because it stands for both encodings.
    """
    content = (_STATIC / file).read_bytes()
    return gzip.compress(content, mtime=0), f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'


def _accepts_gzip(accepted: str) -> bool:
    for coding in accepted.lower().split(","):
        name, _, quality = coding.partition(";")
        if name.strip() == "gzip":
            return quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
