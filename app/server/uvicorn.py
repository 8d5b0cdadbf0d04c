"""A uvicorn server with a clean stop, and with one-sentence errors if it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from typing_extensions import override

from app.server.access_log import AccessLog
from app.server.connections import Connections
from app.server.limits import ProtocolLimits
from app.server.metered_protocol import ServerMemory
from app.server.protocol import LimitedProtocol, limited_protocol
from app.server.tls.connections import TlsProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from starlette.types import ASGIApp
    from uvicorn._types import ASGIApplication

    from app.server.tls.certificate import Certificate

__all__ = ["Connections", "LimitedProtocol", "ProtocolLimits", "Server", "ServerMemory", "limited_protocol", "serve"]

STOP_GRACE_MS = 600
"""Time for running requests after the stop begins, so that the process ends within a second."""
_BACKLOG = 2048
_SHOWN_REQUESTS = 5
_FORCED_EXIT_MS = 1_000
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_logger = logging.getLogger("uvicorn.error")


class Server(uvicorn.Server):
    """A server that ends waiting requests when it stops, and exits with code 0.

    To stop, the server closes its sockets and the idle connections and calls `on_stop`, which ends waiting requests.
    Running requests have `grace_ms` to finish; then they are aborted. After half of this time, requests whose body is
    incomplete are refused. The lifespan ends last. A second signal aborts the requests at once and limits the end of
    the lifespan to one second.

    Args:
        config: The configuration of uvicorn.
        on_stop: Called once, in the event loop, when the stop begins; possibly before the lifespan has started.
        on_ready: Called with the port when the server accepts requests.
        grace_ms: Time for running requests after the stop begins.
        certificate: For HTTPS; None for HTTP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_stop: Callable[[], None],
        on_ready: Callable[[int], None],
        grace_ms: int = STOP_GRACE_MS,
        certificate: Certificate | None = None,
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._on_stop = on_stop
        self._on_ready = on_ready
        self._grace_ms = grace_ms
        self._stopping = asyncio.Event()
        self._app_notified = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Begin to stop; a second call forces the exit. Call it only from the thread of the event loop."""
        if self.should_exit:
            self.force_exit = True
            # Exit even if the start, the end of the lifespan or a worker thread blocks.
            asyncio.get_running_loop().call_later(_FORCED_EXIT_MS / 1000, os._exit, 1)
        self.should_exit = True
        self._stopping.set()
        if not self.started:
            self._notify_app()

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.stop)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM. Unlike uvicorn, do not raise them again, so that the exit code is 0."""
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn has no limits of time for TLS, and asyncio waits a minute for a handshake.
        await super().startup(sockets if self._certificate is None else [])
        if self._certificate is not None and not self.should_exit:
            await self._listen_with_tls(sockets or [], self._certificate)
        if sockets and not self.should_exit:
            self._on_ready(sockets[0].getsockname()[1])

    async def _listen_with_tls(self, sockets: list[socket.socket], certificate: Certificate) -> None:
        loop = asyncio.get_running_loop()
        protocol = cast("type[LimitedProtocol]", self.config.http_protocol_class)
        for each in sockets:
            server = await loop.create_server(
                lambda: TlsProtocol(protocol(self.config, self.server_state, self.lifespan.state)),
                sock=each,
                ssl=certificate.context,
                backlog=_BACKLOG,
                ssl_handshake_timeout=protocol.limits.header_timeout_ms / 1000,
                ssl_shutdown_timeout=protocol.limits.write_timeout_ms / 1000,
            )
            self.servers.append(server)

    @override
    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            if self._certificate is not None:
                self._certificate.refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        # Before `on_stop`, so that the answers of waiting requests announce the close.
        for connection in list(self.server_state.connections):
            connection.shutdown()
        self._notify_app()
        await self._wait_for_requests()
        await self._abort_requests()
        await self.lifespan.shutdown()

    def _notify_app(self) -> None:
        if not self._app_notified:
            self._app_notified = True
            self._on_stop()

    async def _wait_for_requests(self) -> None:
        await self._until_idle(self._grace_ms / 2)
        for connection in list(self.server_state.connections):
            cast("LimitedProtocol", connection).refuse_incomplete()
        await self._until_idle(self._grace_ms / 2)

    async def _until_idle(self, timeout_ms: float) -> None:
        """Wait until all requests have ended and all connections are closed, or until the timeout."""
        state = self.server_state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)

    async def _abort_requests(self) -> None:
        """Abort all connections: without an answer, the outcome is unknown to the client."""
        tasks = set(self.server_state.tasks)
        connections = [cast("LimitedProtocol", each) for each in self.server_state.connections]
        running = [name for each in connections if (name := each.running_request()) is not None]
        for connection in connections:
            connection.transport.abort()
        if not tasks:
            return
        names = ", ".join([*running[:_SHOWN_REQUESTS], *["…"][: len(running) > _SHOWN_REQUESTS]])
        _logger.warning("Cut off %d requests that did not end within %d ms: %s", len(tasks), self._grace_ms, names)
        _, pending = await asyncio.wait(tasks, timeout=0.1)
        if pending:
            _logger.addFilter(_is_not_cancellation)
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.1)
            _logger.removeFilter(_is_not_cancellation)


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """Filter out uvicorn's tracebacks of the requests that the server cancels."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    on_stop: Callable[[], None],
    on_ready: Callable[[int], None],
    limits: ProtocolLimits | None = None,
    access_log: bool = False,
    memory: ServerMemory | None = None,
    log_config: dict[str, Any] | None = None,
    grace_ms: int = STOP_GRACE_MS,
    certificate: Certificate | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and return after a clean stop.

    The port is bound before the lifespan starts, so that a second server fails before it opens the database.

    Args:
        app: The ASGI application; it must support the lifespan.
        host: A name or address; IPv6 with or without brackets.
        port: 0 to 65535; 0 takes a free port.
        on_stop: Called once when the stop begins; must end waiting requests and streams.
        on_ready: Called with the port when the server accepts requests.
        limits: Of each connection; the defaults if None.
        access_log: Log each request; see `app/server/access_log.py`.
        memory: What all connections may hold; the defaults if None.
        log_config: For `logging.config.dictConfig`; None does not change the logging.
        grace_ms: Time for running requests after the stop begins.
        certificate: For HTTPS; None for HTTP.

    Raises:
        SystemExit: With a sentence and code 1 if the address cannot be bound; with code 3 if the lifespan fails
            to start, and the log has the error.
    """
    sockets = _listen(host.removeprefix("[").removesuffix("]"), port)
    config = uvicorn.Config(
        cast("ASGIApplication", AccessLog(app) if access_log else app),
        loop="uvloop",
        http=limited_protocol(limits or ProtocolLimits(), memory, access_log=access_log),
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=log_config,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=_BACKLOG,
    )
    server = Server(config, on_stop=on_stop, on_ready=on_ready, grace_ms=grace_ms, certificate=certificate)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        for each in sockets:
            each.close()


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host, on one port.

    Raises:
        SystemExit: With a sentence if an address cannot be bound.
    """
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(addresses):
            # With port 0, all addresses get the port that the system chose for the first.
            bound_port = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_listening_socket(family, (address[0], bound_port, *address[2:])))
            except OSError as error:
                # `localhost` includes ::1 even if IPv6 is disabled.
                if error.errno not in _NO_SUCH_ADDRESS or (address == addresses[-1][4] and not sockets):
                    raise
    except OSError as error:
        for each in sockets:
            each.close()
        raise SystemExit(f"millrace: {_listen_error(error, host, port)}") from None
    return sockets


def _listening_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _listen_error(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        cure = "stop the server that uses it, or choose another with --port or MILLRACE_PORT."
        return f"port {port} on {host} is in use: {cure}"
    if error.errno == errno.EACCES:
        return f"port {port} is reserved: choose one above 1023 with --port."
    if isinstance(error, socket.gaierror) or error.errno in _NO_SUCH_ADDRESS:
        return f"{host} is not an address of this machine: use --host 127.0.0.1, or 0.0.0.0 for all its interfaces."
    return f"cannot listen on port {port} of {host}: {error.strerror}."
