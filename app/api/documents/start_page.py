"""`GET /`: a page for browsers, and the same paths as JSON for all other clients."""

from __future__ import annotations

import html
import re

import msgspec
from fastapi import APIRouter

from app import __version__
from app.api.documents.guides import GUIDES
from app.api.documents.pages import PAGE_HEADERS, html_page
from app.api.http.call import Call, Reply
from app.api.http.forwarding import is_bare_root, root_path_of
from app.api.http.media import preferred
from app.api.http.operations import Description, OperationRoute, describe
from app.domain.access.permission import PUBLIC

router = APIRouter(tags=["operations"], route_class=OperationRoute)

_FIRST_COMMAND = """curl {key}--json '{{"value":"hi"}}' {url}/v1/topics/orders/records"""
"""The first command of a new user; `millrace serve` prints it too."""

_OFFERED = (b"application/json", b"text/html")
_VARY = (b"vary", b"Accept")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")


class Links(msgspec.Struct):
    """Paths of the documentation, the health checks and the topics."""

    name: str
    version: str
    docs: str
    openapi: str
    health: str
    ready: str
    metrics: str
    topics: str


@router.get("/")
@describe(Description(permission=PUBLIC, answers={200: Links}, media=("text/html",)))
async def get_links(call: Call) -> Reply:
    """Show the paths of the documentation, the health checks and the topics; to a browser as a page.

    Under the path prefix of a proxy, the paths have it too.
    """
    if preferred(call.header(b"accept"), _OFFERED) == b"text/html":
        headers = [(name.lower().encode(), value.encode()) for name, value in PAGE_HEADERS.items()]
        return Reply(_page(call).encode(), 200, b"text/html; charset=utf-8", [*headers, _VARY])
    paths = ("/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/topics")
    root_path = root_path_of(call.scope)
    return Reply.of(Links("millrace", __version__, *(root_path + path for path in paths)), headers=[_VARY])


def _page(call: Call) -> str:
    # Below /millrace, without a slash at the end, browsers resolve relative links against the parent.
    root = f"{root_path_of(call.scope).rpartition('/')[2]}/" if is_bare_root(call.scope) else ""
    guides = [(f"guides/{name}", title) for name, title in GUIDES.items()]
    reference = [
        ("docs", "API, to try in the browser"),
        ("openapi.json", "OpenAPI document"),
        ("problems", "Problems, with cause and cure"),
    ]
    state = [("healthz", "Health"), ("readyz", "Readiness"), ("metrics", "Metrics"), ("v1/topics", "Topics")]
    url = html.escape(_url(call), quote=False)
    access = call.services.access
    needs_key = access.enabled and (not access.open or "millrace.remote" in call.scope)
    key = '-H "Authorization: Bearer $MILLRACE_API_KEY" ' if needs_key else ""
    body = (
        f"<h1>Millrace</h1>\n"
        f'<p class="name">Version {html.escape(__version__)}. Kafka\'s event log over plain HTTP.</p>\n'
        "<h2>Append a record, and read it</h2>\n"
        f"<pre><code>{_FIRST_COMMAND.format(key=key, url=url)}\ncurl {key}{url}/v1/topics/orders/records</code></pre>\n"
        f"<h2>Guides</h2>\n{_list(guides, root)}\n"
        f"<h2>Reference</h2>\n{_list(reference, root)}\n"
        f"<h2>This server</h2>\n{_list(state, root)}"
    )
    return html_page("Millrace", body, root=root)


def _list(links: list[tuple[str, str]], root: str) -> str:
    items = "".join(f'<li><a href="{root}{path}">{html.escape(text)}</a></li>\n' for path, text in links)
    return f"<ul>\n{items}</ul>"


def _url(call: Call) -> str:
    """Return the URL at which the client reached this server."""
    host = (call.header(b"host") or b"").decode("latin-1")
    if not _HOST.fullmatch(host):
        host = "localhost"
    return f"{call.scope['scheme']}://{host}{root_path_of(call.scope)}"
