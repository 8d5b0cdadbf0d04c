"""The ASGI application around FastAPI: Host and Origin checks, hot operations, headers of every answer.

The gateway finds hot operations in its own table and runs them without FastAPI's router and middleware.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from starlette.exceptions import HTTPException as RouterException  # noqa: TID251 - the exception of the router
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.call import Call, Reply, send_reply
from app.api.http.forwarding import Forwarding
from app.api.http.header_fields import COMMON_HEADERS
from app.api.http.hints.paths import describe_path
from app.api.http.operations import Operation, OperationRoute, operation_routes
from app.api.http.request_ids import request_id
from app.api.http.request_source import RequestSource
from app.api.services import Services
from app.errors.broker_error import BrokerError
from app.errors.http import MethodNotAllowed, NotFound

_CORS: dict[str, Any] = {
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": ["Link", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"],
}

_CACHED_PATHS = 1_024

_HotRoute = tuple[tuple[tuple[int, str], ...], tuple[tuple[int, str], ...], Operation]
"""The literal parts of a path and its parameters, each with its index in the path, and the operation."""


class Gateway:
    """The outermost ASGI application.

    Args:
        app: FastAPI.
        services: What the operations work with.
        routes: The routes of all operations; the gateway runs the hot ones itself.
        hosts: Further names accepted in `Host`; see `RequestSource`.
        origins: Other origins whose web pages may write.
        root_path: The path prefix under which proxies publish the server; see `Forwarding`.
        proxies: Addresses and networks of the proxies whose X-Forwarded headers count.
        traced: The operations with a span around them, by name.
    """

    def __init__(
        self,
        app: ASGIApp,
        services: Services,
        routes: Iterable[OperationRoute],
        *,
        hosts: Collection[str],
        origins: Collection[str],
        root_path: str = "",
        proxies: Collection[str] = (),
        traced: Mapping[str, Operation] | None = None,
    ) -> None:
        self._app = app
        self._traced = traced or {}
        self._services = services
        self._source = RequestSource(hosts, origins, lambda: services.access.enabled and not services.access.open)
        self._forwarding = Forwarding(root_path, proxies) if root_path or proxies else None
        self.client_of = self._forwarding.client_of if self._forwarding is not None and proxies else None
        self.is_proxy = None if self._forwarding is None else self._forwarding.is_proxy
        self._cors = CORSMiddleware(self._route, allow_origins=list(origins), **_CORS) if origins else None
        self._hot: dict[tuple[str, int], list[_HotRoute]] = {}
        self._match = lru_cache(_CACHED_PATHS)(self._find)
        for route in routes:
            if route.operation.description.hot:
                self._add(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; pass lifespan events to FastAPI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._forwarding is not None:
            scope = self._forwarding.apply(scope)
        try:
            self._source.check(scope)
        except BrokerError as error:
            self._services.metrics.door.refuse(error.code)
            await send_reply(scope, send, Reply.problem(error, request_id(scope)))
            return
        if self._cors is None:
            await self._route(scope, receive, send)
            return
        identity = request_id(scope)
        scope = {key: value for key, value in scope.items() if key != "millrace.answer"}
        await self._cors(scope, receive, _with_headers(send, identity))

    def _route(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the run of a hot operation, or that of FastAPI. A coroutine here would cost every request time."""
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "millrace.head": True}
        if (found := self._match(scope["method"], scope["path"])) is not None:
            operation, parameters = found
            return Call(scope, receive, send, self._services, parameters).run(operation)
        return self._app(scope, receive, _with_headers(send, request_id(scope)))

    def _add(self, route: OperationRoute) -> None:
        parts = route.path.split("/")
        fixed = tuple((i, part) for i, part in enumerate(parts) if not part.startswith("{"))
        named = tuple((i, part[1:-1]) for i, part in enumerate(parts) if part.startswith("{"))
        operation = self._traced.get(route.operation.name, route.operation)
        for method in route.methods or ():
            self._hot.setdefault((method, len(parts)), []).append((fixed, named, operation))

    def _find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]] | None:
        parts = path.split("/")
        for fixed, named, operation in self._hot.get((method, len(parts)), ()):
            if all(parts[i] == part for i, part in fixed):
                parameters = {name: parts[i] for i, name in named}
                return (operation, parameters) if all(parameters.values()) else None
        return None


def _with_headers(send: Send, identity: str) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            added: list[tuple[bytes, Any]] = []
            if b"x-request-id" not in present:
                added.append((b"x-request-id", identity.encode()))
            added += [(name, value) for name, value in COMMON_HEADERS if name not in present]
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return wrapped


async def answer_unmatched(request: Request, error: Exception) -> Response:
    """Answer a request that no route matches with 404 or 405."""
    if isinstance(error, MethodNotAllowed):
        client_error: BrokerError = error
    elif isinstance(error, RouterException) and error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        client_error = MethodNotAllowed(f"this path allows {allow}", allow=allow)
    else:
        client_error = NotFound(f"there is nothing at this path; {_path_hint(request)}")
    request.app.state.services.metrics.door.refuse(client_error.code)
    reply = Reply.problem(client_error, request_id(request.scope))
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, reply.content_type.decode())


def _path_hint(request: Request) -> str:
    """Return a hint for an unknown path."""
    templates: dict[str, set[str]] = {}
    for route in operation_routes(request.app.router.routes):
        templates.setdefault(route.path, set()).update(route.methods or ())
    return describe_path(request.scope["path"], templates)
