"""Connections to other servers, to addresses that were judged, with a limit of bytes for each answer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any

import httpcore2

from app.broker.outbound.exchange import NotSent, OutboundRules, SendBlocked, SendFailed, SendUnresolved
from app.broker.outbound.resolver import Resolver, ResolverFailed, UnknownHost
from app.domain.outbound.addresses import is_allowed, refusal_of

MAX_HEADER_BYTES = 32 * 1024
_READ_BYTES = 16 * 1024
_NEXT_ADDRESS_S = 2.0
"""Time for a connection to one of several addresses; the last one may take all the time that is left."""
_INTERNAL = "the host is private, loopback, link-local or reserved"
_WAY_OUT = "the operator can allow its network with"
_PROXY_S = 5.0
"""Time for the name of the egress proxy and a connection to it."""


class NotConnected(httpcore2.ConnectError):
    """No connection was tried. The pool removes the cause of an exception, so this has it as an attribute."""

    def __init__(self, failure: SendFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure


class AnswerTooLong(httpcore2.ReadError):
    """The answer has more bytes than are read: headers, informational answers, chunk sizes and body together."""


class StaleConnection(httpcore2.ReadError):
    """The other side closed a kept connection before it answered the next request; send it on another one."""


class BoundedStream(httpcore2.AsyncNetworkStream):
    """A connection on which each answer has a limit of bytes.

    The bytes are counted after TLS and before HTTP, so that nothing in an answer escapes the limit. They are read in
    small parts: between two parts the event loop is free.

    Args:
        stream: The connection.
        max_response_bytes: The limit of a body; headers and chunk sizes may have 32 KiB more.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream, max_response_bytes: int) -> None:
        self._stream = stream
        self._max_response_bytes = max_response_bytes
        self._max_answer_bytes = MAX_HEADER_BYTES + max_response_bytes
        self._requests = 0
        self._received = 0
        self._last_part = b""
        self._head = b""
        self._is_writing = False
        self._is_closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read a part of an answer."""
        self._is_writing = False
        await self._send_head(timeout)
        left = self._max_answer_bytes - self._received
        if left <= 0:
            raise AnswerTooLong(f"the answer has more than {self._max_answer_bytes} bytes")
        try:
            data = await self._stream.read(min(max_bytes, left, _READ_BYTES), timeout)
        except httpcore2.ReadError:
            self._check_stale()
            raise
        if not data:
            self._check_stale()
        self._received += len(data)
        self._last_part = data or self._last_part
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write a part of a request; the first part after an answer begins another one.

        The first part, the headers, is sent together with the next one: that saves a system call and a packet.
        """
        if not self._is_writing:
            self._is_writing = True
            self._requests += 1
            self._received = 0
            self._head = buffer
        elif buffer:
            head, self._head = self._head, b""
            await self._stream.write(head + buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        self._is_closed = True
        await self._stream.aclose()

    def has_more_than(self, end: bytes) -> bool:
        """Return whether bytes came behind the end of an answer: the next request would take them for its answer.

        Args:
            end: The body of the answer, or nothing if it ended with an empty line.
        """
        last = self._last_part
        if end:
            return not (last.endswith(end) or end.endswith(last))
        ends = (b"\r\n\r\n", b"\n\n")
        return last.endswith(b"\r\n" * 3) or not any(last.endswith(each) or each.endswith(last) for each in ends)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Return the connection with TLS on it. If that does not succeed, also for want of time, it is closed."""
        return BoundedStream(await self._with_tls(ssl_context, server_hostname, timeout), self._max_response_bytes)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as httpcore has it
        """Return what is known about the connection. The pool drops an idle one that can be read, or is closed."""
        if info == "is_readable" and self._is_closed:
            return True
        return self._stream.get_extra_info(info)

    async def _send_head(self, timeout: float | None) -> None:
        """Send the headers of a request without a body."""
        head, self._head = self._head, b""
        if head:
            try:
                await self._stream.write(head, timeout)
            except httpcore2.WriteError:
                self._check_stale()
                raise

    async def _with_tls(
        self,
        context: ssl.SSLContext,
        name: str | None,
        timeout: float | None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(context, name, timeout)
        except BaseException:
            await self.aclose()
            raise

    def _check_stale(self) -> None:
        if self._requests > 1 and not self._received:
            raise StaleConnection("the connection was closed while it was kept")


class ProxyStream(BoundedStream):
    """A connection to the egress proxy. Until a tunnel or an answer is there, its faults are ours.

    Args:
        stream: The connection.
        max_response_bytes: The limit of a body.
        is_tls: Whether TLS with the proxy itself is still to come.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream, max_response_bytes: int, *, is_tls: bool) -> None:
        super().__init__(stream, max_response_bytes)
        self._is_tls = is_tls

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read a part of the answer of the proxy."""
        try:
            data = await super().read(max_bytes, timeout)
        except StaleConnection:
            raise
        except httpcore2.ReadError:
            data = b""
        if not data and not self._received:
            raise NotConnected(NotSent("the egress proxy closed the connection"))
        return data

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Return the connection with TLS on it: with the proxy, or in the tunnel with the receiver.

        The limit of time is for the proxy alone: a receiver may take all the time that is left.
        """
        if not self._is_tls:
            return await super().start_tls(ssl_context, server_hostname)
        try:
            stream = await self._with_tls(ssl_context, server_hostname, timeout)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
            raise NotConnected(NotSent("TLS with the egress proxy failed")) from None
        return ProxyStream(stream, self._max_response_bytes, is_tls=False)


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
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve the name once, judge every address, and connect to the first that answers."""
        addresses = await self._addresses(host.strip("[]"), port)
        failure: Exception = NotConnected(SendUnresolved("the host name has no address"))
        for position, address in enumerate(addresses, 1):
            limit = timeout if position == len(addresses) else _NEXT_ADDRESS_S
            try:
                stream = await self._sockets.connect_tcp(address, port, limit, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return BoundedStream(stream, self._rules.max_response_bytes)
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await _resolved(self._resolver, host, port)
            check_addresses(addresses, self._rules, plain=self._plain)
        except UnknownHost as error:
            raise NotConnected(SendUnresolved(str(error))) from None
        except ResolverFailed as error:
            raise NotConnected(NotSent(str(error))) from None
        except SendBlocked as error:
            raise NotConnected(error) from None
        return addresses


class ProxyBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the egress proxy, which the operator has chosen: its address is not judged.

    Args:
        resolver: Finds the addresses.
        max_response_bytes: The limit of a body.
        is_tls: Whether the proxy itself is spoken to with TLS.
    """

    def __init__(self, resolver: Resolver, max_response_bytes: int, *, is_tls: bool) -> None:
        self._resolver = resolver
        self._max_response_bytes = max_response_bytes
        self._is_tls = is_tls
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the proxy. That it is not reached in time is a fault of this side, like a refusal."""
        limit = _PROXY_S if timeout is None else min(timeout, _PROXY_S)
        with contextlib.suppress(TimeoutError, UnknownHost, ResolverFailed):
            async with asyncio.timeout(limit):
                addresses = await _resolved(self._resolver, host.strip("[]"), port)
                for position, address in enumerate(addresses, 1):
                    each = None if position == len(addresses) else _NEXT_ADDRESS_S
                    with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                        stream = await self._sockets.connect_tcp(address, port, each, local_address, socket_options)
                        return ProxyStream(stream, self._max_response_bytes, is_tls=self._is_tls)
        raise NotConnected(NotSent("the egress proxy cannot be reached"))

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await asyncio.sleep(seconds)


async def _resolved(resolver: Resolver, host: str, port: int) -> Sequence[str]:
    return [host] if _is_address(host) else await resolver.resolve(host, port)


def check_addresses(addresses: Sequence[str], rules: OutboundRules, *, plain: bool) -> None:
    """Refuse a receiver unless each of its addresses may be used.

    Raises:
        SendBlocked: With the setting that would allow it, if one does.
    """
    allowed = rules.allowed_networks
    for address in addresses:
        if (refusal := refusal_of(address, allowed)) is not None:
            setting = rules.settings.allowed_networks
            raise SendBlocked(
                _refused(address, setting) if refusal.allowable else f"{_INTERNAL}, which no setting allows"
            )
        if plain and not is_allowed(address, allowed):
            check_plain(rules)


def _refused(address: str, setting: str) -> str:
    """Return why an address is refused, with the kind of network to allow, but without the address itself."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return f"{_INTERNAL} at its IPv6 address; {_WAY_OUT} {setting} (::1/128 for loopback)"
    return f"{_INTERNAL}; {_WAY_OUT} {setting} (127.0.0.0/8 for loopback)"


def check_plain(rules: OutboundRules) -> None:
    """Refuse a public receiver without TLS unless the operator allows it.

    Raises:
        SendBlocked: With the setting that would allow it.
    """
    if not rules.allow_http:
        setting = rules.settings.allow_http
        way_out = f", or the operator allows http:// with {setting}" if setting else ""
        raise SendBlocked(f"the URL has no TLS: use https://{way_out}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
