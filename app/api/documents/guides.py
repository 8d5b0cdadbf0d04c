"""The guides at `/guides`: the Markdown files of `docs/`, as pages."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import app
from app.api.documents.pages import PAGE_HEADERS, html_page
from app.api.http.call import Reply
from app.api.http.request_ids import request_id
from app.errors.http import NotFound

if TYPE_CHECKING:
    from markdown_it.token import Token
    from starlette.requests import Request

GUIDES = {
    "tutorial": "Tutorial",
    "produce-and-fetch": "Produce and fetch",
    "consumer-groups": "Consumer groups",
    "streams": "Streams",
    "queues": "Queues",
    "webhooks": "Webhooks",
    "access": "Access",
    "command-line": "Command line",
    "deployment": "Deploy",
    "limits": "Limits",
    "operations": "Operations",
    "tls": "HTTPS",
    "oidc": "Tokens of an identity provider",
    "sizing": "Sizing",
    "backup": "Back up, restore and verify",
    "metrics": "Metrics",
    "reliability": "Reliability",
}
"""The titles of the guides, by the names of their files."""

_LINK = re.compile(r"(?:docs/)?([a-z-]+)\.md(#.*)?")
_NOT_IN_ANCHOR = re.compile(r"[^\w\- ]")


def guide_routes() -> list[Route]:
    """List the routes of the guides. Their function is synchronous, so that files are read outside the event loop."""
    return [Route("/guides/{name}", _serve_guide, methods=["GET"])]


def _serve_guide(request: Request) -> Response:
    name = request.path_params["name"]
    path = _folder() / f"{name}.md"
    if name not in GUIDES or not path.is_file():
        reply = Reply.problem(NotFound("there is no such guide; / lists all guides"), request_id(request.scope))
        return Response(reply.body, reply.status, media_type=reply.content_type.decode())
    return HTMLResponse(_page(name, path), headers=PAGE_HEADERS)


def _folder() -> Path:
    """Return the folder of the guides: in the installed package, else in the checkout."""
    package = Path(app.__file__).parent
    installed = package / "_docs"
    return installed if installed.is_dir() else package.parent / "docs"


@cache
def _page(name: str, path: Path) -> str:
    body = render(path.read_text(encoding="utf-8"))
    navigation = (
        '<nav><a href="../.">Millrace</a> · <a href="../docs">API</a> · <a href="../problems">Problems</a></nav>'
    )
    return html_page(f"{GUIDES[name]} · Millrace", f"{navigation}\n{body}", root="../")


def render(text: str) -> str:
    """Render Markdown as HTML. HTML in it is text.

    Links to other guides lead to their pages, and links to other files of the repository become text. Headings have the
    anchors of GitHub. Cells of tables have no `style`, which the policy of the pages forbids.
    """
    from markdown_it import MarkdownIt  # noqa: PLC0415 - only a visit of a guide needs it

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token, following in zip(tokens, [*tokens[1:], *tokens[-1:]], strict=True):
        token.attrs.pop("style", None)
        if token.type == "heading_open":
            token.attrs["id"] = _NOT_IN_ANCHOR.sub("", following.content.lower()).replace(" ", "-")
        if token.children:
            token.children = _with_page_links(token.children)
    html: str = parser.renderer.render(tokens, parser.options, {})
    return html


def _with_page_links(tokens: list[Token]) -> list[Token]:
    kept: list[Token] = []
    is_text = False
    for token in tokens:
        if token.type == "link_open":
            target = str(token.attrs["href"])
            guide = _LINK.fullmatch(target)
            is_text = not (target.startswith(("http", "#")) or (guide and guide[1] in GUIDES))
            if guide:
                token.attrs["href"] = guide[1] + (guide[2] or "")
        if not (is_text and token.type in {"link_open", "link_close"}):
            kept.append(token)
    return kept
