"""`/openapi.json`, and the pages that problem types resolve to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from app.api.http import docs
from app.api.http.call import Reply, request_id
from app.api.http.problems import STATUS, slug
from app.errors.database import LockTimeout
from app.errors.http import NotFound


def manual_routes(document: Callable[[], dict[str, Any]]) -> list[Route]:
    """List the routes; they stand in no OpenAPI document."""

    @cache
    def encoded() -> bytes:
        return msgspec.json.encode(document()) + b"\n"

    async def openapi_json(_: Request) -> Response:
        return Response(encoded(), media_type="application/json")

    return [
        Route("/openapi.json", openapi_json, methods=["GET"]),
        Route("/problems", _index, methods=["GET"]),
        Route("/problems/{slug}", _problem, methods=["GET"]),
    ]


@cache
def problems() -> dict[str, docs.ProblemPage]:
    """Return what there is to say of each problem type, by slug; types of one code share a page."""
    found: dict[str, docs.ProblemPage] = {}
    for kind, status in sorted(STATUS.items(), key=lambda item: (item[1], item[0].code)):
        if kind is LockTimeout:
            continue
        name = slug(kind)
        page = docs.ProblemPage(name, kind.code, kind.title, str(status), kind.cause, kind.cure)
        if (other := found.get(name)) is not None:
            page = docs.ProblemPage(
                name,
                kind.code,
                f"{other.title}; {kind.title[0].lower()}{kind.title[1:]}",
                f"{other.status} or {status}",
                f"{other.cause} {kind.cause}",
                other.cure if other.cure == kind.cure else f"{other.cure} {kind.cure}",
            )
        found[name] = page
    return found


async def _index(_: Request) -> Response:
    return HTMLResponse(docs.problem_index(problems().values()), headers=docs.PAGE_HEADERS)


async def _problem(request: Request) -> Response:
    page = problems().get(request.path_params["slug"])
    if page is None:
        reply = Reply.problem(NotFound("there is no such problem; see /problems"), request_id(request.scope))
        return Response(reply.body, reply.status, media_type=reply.content_type.decode())
    return HTMLResponse(docs.problem_page(*page), headers=docs.PAGE_HEADERS)
