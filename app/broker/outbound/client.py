"""The HTTP client of every request to another server.

Source: the rules against server-side request forgery. A name is resolved once, all its addresses are judged, and the
connection goes to one of them; TLS still checks the name. Redirects are not followed, and no proxy of the environment
is used.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import unquote, urlsplit

import httpcore2

from app.broker.outbound.connections import (
    AnswerTooLong,
    BoundedStream,
    GuardedBackend,
    ProxyBackend,
    StaleConnection,
    check_addresses,
    check_plain,
)
from app.broker.outbound.exchange import Headers, NotSent, OutboundRules, Response, SendBlocked
from app.broker.outbound.failures import failure_of
from app.broker.outbound.hosts import Hosts, Origin
from app.broker.outbound.resolver import Resolver
from app.domain.outbound.target import Target, parse_target

_KEEPALIVE_S = 15.0
_TARGETS = 1_000
_PROXY_SHARE = 0.5
"""The part of the time for a request that the egress proxy may take to be reached."""
_TRIES = 3
"""How many kept connections may turn out to be closed by the other side."""


class OutboundClient:
    """Sends requests to other servers.

    Args:
        rules: What the operator allows.
        resolver: Finds the addresses of names.
        keepalive_s: How long a connection is kept for the next request to the same host.
    """

    def __init__(self, rules: OutboundRules, resolver: Resolver, keepalive_s: float = _KEEPALIVE_S) -> None:
        self._rules = rules
        self._resolver = resolver
        self._keepalive_s = keepalive_s
        self._tls: ssl.SSLContext | None = None
        self._hosts = Hosts(self._new_pool, keepalive_s)
        self._targets: dict[str, Target] = {}

    async def post(self, url: str, headers: Headers, body: bytes, timeout_s: float) -> Response:
        """Send a POST request, and read at most `max_response_bytes` of the answer.

        Args:
            url: The URL of the receiver.
            headers: Headers besides Host, Content-Length, Accept-Encoding and Connection.
            body: The body.
            timeout_s: Limit for all of it: name, connection, request and answer.

        Raises:
            SendBlocked: The URL or its address may not be used.
            SendTimedOut: The answer did not come in time.
            NotSent: A fault on this side, such as a resolver or a proxy that cannot be reached.
            SendFailed: The connection failed, or the answer is no HTTP.
        """
        return await self._send(b"POST", url, headers, body, timeout_s)

    async def get(self, url: str, headers: Headers, timeout_s: float) -> Response:
        """Send a GET request; limits and errors are those of `post`."""
        return await self._send(b"GET", url, headers, None, timeout_s)

    async def _send(self, method: bytes, url: str, headers: Headers, body: bytes | None, timeout_s: float) -> Response:
        target = self._target(url)
        origin = Origin(target.scheme, target.host, target.port)
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with self._hosts.connected(origin, timeout_s) as pool, asyncio.timeout_at(deadline):
                request = self._request(method, target, headers, body, timeout_s)
                return await _exchange(pool, request, self._rules.max_response_bytes)
        except (
            OSError,
            httpcore2.TimeoutException,
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.ProxyError,
        ) as error:
            raise failure_of(error, timeout_s) from None

    async def close(self) -> None:
        """Close all connections."""
        await self._hosts.close()

    def _target(self, url: str) -> Target:
        """Return a URL in its parts. What can be judged without its addresses is judged: a proxy would not do it.

        Raises:
            SendBlocked: The URL or its address may not be used.
        """
        if (known := self._targets.get(url)) is not None:
            return known
        try:
            target = parse_target(url)
        except ValueError as error:
            raise SendBlocked(f"the URL {error}") from None
        is_plain = target.scheme == "http"
        if target.is_literal:
            check_addresses([target.host], self._rules, plain=is_plain)
        elif is_plain and self._rules.proxy_url:
            check_plain(self._rules)
        if len(self._targets) >= _TARGETS:
            self._targets.clear()
        self._targets[url] = target
        return target

    def _request(
        self, method: bytes, target: Target, headers: Headers, body: bytes | None, timeout_s: float
    ) -> httpcore2.Request:
        host = f"[{target.host}]" if ":" in target.host else target.host
        url = httpcore2.URL(
            scheme=target.scheme.encode(), host=host.encode(), port=target.port, target=target.path.encode()
        )
        own = [
            (b"host", target.host_header.encode()),
            (b"accept-encoding", b"identity"),
        ]
        if body is not None:
            own.append((b"content-length", b"%d" % len(body)))
        extensions: dict[str, object] = {"sni_hostname": target.tls_name}
        if self._rules.proxy_url:
            extensions["timeout"] = {"connect": timeout_s * _PROXY_SHARE}
        return httpcore2.Request(method, url, headers=[*own, *headers], content=body, extensions=extensions)

    def _new_pool(self, origin: Origin) -> httpcore2.AsyncConnectionPool:
        tls = self._tls_context()
        if self._rules.proxy_url:
            return _proxy_pool(self._rules, tls, self._keepalive_s, self._resolver)
        backend = GuardedBackend(self._rules, self._resolver, plain=origin.scheme == "http")
        return httpcore2.AsyncConnectionPool(
            tls, max_connections=None, keepalive_expiry=self._keepalive_s, network_backend=backend
        )

    def _tls_context(self) -> ssl.SSLContext:
        """Return the CA certificates that are trusted.

        Raises:
            NotSent: They cannot be read.
        """
        if self._tls is None:
            try:
                ca_file = self._rules.ca_file
                self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else httpcore2.default_ssl_context()
            except OSError:
                setting = self._rules.settings.ca_file
                raise NotSent(f"the CA certificates cannot be read: set {setting} to a PEM file") from None
        return self._tls


async def _exchange(
    pool: httpcore2.AsyncConnectionPool, request: httpcore2.Request, max_response_bytes: int
) -> Response:
    """Send a request, and read the answer. If a kept connection was closed meanwhile, send it on another one."""
    for _ in range(_TRIES - 1):
        try:
            return await _exchange_once(pool, request, max_response_bytes)
        except StaleConnection:
            continue
    return await _exchange_once(pool, request, max_response_bytes)


async def _exchange_once(
    pool: httpcore2.AsyncConnectionPool, request: httpcore2.Request, max_response_bytes: int
) -> Response:
    response = await pool.handle_async_request(request)
    received = bytearray()
    try:
        async for part in response.aiter_stream():
            received += part
            if len(received) > max_response_bytes:
                break
        await _close_if_ahead(response, bytes(received))
    except AnswerTooLong:
        pass
    finally:
        await response.aclose()
    return Response(response.status, response.headers, bytes(received[:max_response_bytes]))


async def _close_if_ahead(response: httpcore2.Response, body: bytes) -> None:
    """Close the connection of an answer if more came behind it, as after a 204 with a body."""
    stream = response.extensions["network_stream"]
    is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in response.headers)
    if isinstance(stream, BoundedStream) and stream.has_more_than(b"" if is_chunked else body):
        await stream.aclose()


def _proxy_pool(
    rules: OutboundRules, tls: ssl.SSLContext, keepalive_s: float, resolver: Resolver
) -> httpcore2.AsyncConnectionPool:
    parts = urlsplit(rules.proxy_url)
    is_tls = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or (443 if is_tls else 80)
    return httpcore2.AsyncHTTPProxy(
        f"{parts.scheme}://{host}:{port}",
        proxy_auth=None if parts.username is None else (unquote(parts.username), unquote(parts.password or "")),
        ssl_context=tls,
        proxy_ssl_context=tls if is_tls else None,
        max_connections=None,
        keepalive_expiry=keepalive_s,
        network_backend=ProxyBackend(resolver, rules.max_response_bytes, is_tls=is_tls),
    )
