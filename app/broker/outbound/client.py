"""The HTTP client of every request to another server.

Source: the rules against server-side request forgery. A name is resolved once, all its addresses are judged, and the
connection goes to one of them; TLS still checks the name. Redirects are not followed, and no proxy of the environment
is used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import httpcore2

from app.broker.outbound.exchange import (
    Headers,
    NotSent,
    OutboundRules,
    Response,
    SendBlocked,
    SendFailed,
    SendTimedOut,
)
from app.broker.outbound.resolver import Resolver, ResolverFailed, UnknownHost
from app.domain.outbound.addresses import is_allowed, refusal_of
from app.domain.outbound.target import Target, parse_target

MAX_RESPONSE_BYTES = 16 * 1024
_CONNECTIONS = 256
_KEEPALIVE_S = 15.0
_TARGETS = 1_000


class OutboundClient:
    """Sends requests to other servers.

    A connection is kept for 15 s for the next request to the same host. The pools are created at the first request.
    """

    def __init__(self, rules: OutboundRules, resolver: Resolver) -> None:
        self._rules = rules
        self._resolver = resolver
        self._pools: dict[str, httpcore2.AsyncConnectionPool] = {}
        self._targets: dict[str, Target] = {}

    async def post(self, url: str, headers: Headers, body: bytes, timeout_s: float) -> Response:
        """Send a POST request, and read at most 16 KiB of the answer.

        Args:
            url: The URL of the receiver.
            headers: Headers besides Host, Content-Length, Accept-Encoding and Connection.
            body: The body.
            timeout_s: Limit for all of it: name, connection, request and answer.

        Raises:
            SendBlocked: The URL or its address may not be used.
            SendTimedOut: The answer did not come in time.
            NotSent: The resolver or the proxy cannot be reached.
            SendFailed: The connection failed, or the answer is no HTTP.
        """
        target = self._target(url)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(target, headers, body)
        except TimeoutError:
            raise SendTimedOut(f"no complete answer within {timeout_s:g} s") from None
        except httpcore2.TimeoutException:
            raise SendTimedOut(f"no complete answer within {timeout_s:g} s") from None
        except httpcore2.ProxyError:
            raise NotSent("the egress proxy refused or failed the request") from None
        except httpcore2.ConnectError as error:
            raise self._connect_failure(error) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise SendFailed(_reason(error)) from None

    async def close(self) -> None:
        """Close all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    async def _exchange(self, target: Target, headers: Headers, body: bytes) -> Response:
        request = httpcore2.Request(
            b"POST",
            httpcore2.URL(
                scheme=target.scheme.encode(),
                host=_url_host(target.host),
                port=target.port,
                target=target.path.encode(),
            ),
            headers=[
                (b"host", target.host_header.encode()),
                (b"accept-encoding", b"identity"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
            content=body,
        )
        response = await self._pool(target.scheme).handle_async_request(request)
        try:
            received = bytearray()
            async for part in response.aiter_stream():
                received += part
                if len(received) > MAX_RESPONSE_BYTES:
                    break
        finally:
            await response.aclose()
        return Response(response.status, response.headers, bytes(received[:MAX_RESPONSE_BYTES]))

    def _target(self, url: str) -> Target:
        """Return a URL in its parts; an address is judged before a proxy would connect to it.

        Raises:
            SendBlocked: The URL or its address may not be used.
        """
        if (known := self._targets.get(url)) is not None:
            return known
        try:
            target = parse_target(url)
        except ValueError as error:
            raise SendBlocked(f"the URL {error}") from None
        if target.is_literal:
            check_addresses([target.host], self._rules, plain=target.scheme == "http")
        if len(self._targets) >= _TARGETS:
            self._targets.clear()
        self._targets[url] = target
        return target

    def _connect_failure(self, error: httpcore2.ConnectError) -> SendFailed:
        if isinstance(error, _NotConnected):
            return error.failure
        if self._rules.proxy_url:
            return NotSent("the egress proxy cannot be reached")
        return SendFailed(_reason(error))

    def _pool(self, scheme: str) -> httpcore2.AsyncConnectionPool:
        if (pool := self._pools.get(scheme)) is None:
            pool = self._pools[scheme] = self._new_pool(scheme)
        return pool

    def _new_pool(self, scheme: str) -> httpcore2.AsyncConnectionPool:
        options: dict[str, Any] = {
            "ssl_context": ssl.create_default_context(cafile=self._rules.ca_file or None),
            "max_connections": _CONNECTIONS,
            "max_keepalive_connections": _CONNECTIONS,
            "keepalive_expiry": _KEEPALIVE_S,
        }
        if self._rules.proxy_url:
            return httpcore2.AsyncHTTPProxy(self._rules.proxy_url, **options)
        backend = GuardedBackend(self._rules, self._resolver, plain=scheme == "http")
        return httpcore2.AsyncConnectionPool(network_backend=backend, **options)


class _NotConnected(httpcore2.ConnectError):
    """No connection was tried. The pool removes the cause of an exception, so this has it as an attribute."""

    def __init__(self, failure: SendFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to a name only if all its addresses may be used.

    Args:
        rules: What the operator allows.
        resolver: Finds the addresses.
        plain: Whether the connections are without TLS.
    """

    def __init__(self, rules: OutboundRules, resolver: Resolver, *, plain: bool) -> None:
        self._rules = rules
        self._resolver = resolver
        self._plain = plain
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve the name once, judge every address, and connect to the first that answers."""
        try:
            addresses = [host] if _is_address(host) else await self._resolver.resolve(host, port)
            check_addresses(addresses, self._rules, plain=self._plain)
        except UnknownHost as error:
            raise _NotConnected(SendFailed(str(error))) from None
        except ResolverFailed as error:
            raise _NotConnected(NotSent(str(error))) from None
        except SendBlocked as error:
            raise _NotConnected(error) from None
        failure: Exception = httpcore2.ConnectError("the host name has no address")
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await asyncio.sleep(seconds)


def check_addresses(addresses: Sequence[str], rules: OutboundRules, *, plain: bool) -> None:
    """Refuse a receiver unless each of its addresses may be used.

    Raises:
        SendBlocked: With the setting that would allow it, if one does.
    """
    allowed = rules.allowed_networks
    for address in addresses:
        if (refusal := refusal_of(address, allowed)) is not None:
            way_out = (
                "; the operator can allow its network with MILLRACE_WEBHOOK_ALLOWED_NETWORKS (127.0.0.0/8 for loopback)"
                if refusal.allowable
                else ", which no setting allows"
            )
            raise SendBlocked(f"the host is private, loopback, link-local or reserved{way_out}")
        if plain and not rules.allow_http and not is_allowed(address, allowed):
            raise SendBlocked(
                "the URL has no TLS: use https://, or the operator allows http:// with MILLRACE_WEBHOOK_ALLOW_HTTP"
            )


def _url_host(host: str) -> bytes:
    return f"[{host}]".encode() if ":" in host else host.encode()


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    """Return what happened in words without addresses of this side."""
    cause: BaseException | None = error
    while cause is not None:
        if (reason := _known_reason(cause)) is not None:
            return reason
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore2.ConnectError):
        return "no connection could be made"
    return "the connection was closed before the answer was complete"


def _known_reason(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'handshake failure'}"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, ConnectionResetError):
        return "the connection was reset"
    if isinstance(error, httpcore2.ProtocolError):
        return f"the answer is not HTTP: {error}"[:200]
    return None
