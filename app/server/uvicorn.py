"""The uvicorn server that Millrace owns: it stops clean, and says in one sentence why it cannot start."""

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

from app.server.limits import ProtocolLimits
from app.server.protocol import LimitedProtocol, limited_protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from starlette.types import ASGIApp
    from uvicorn._types import ASGIApplication

__all__ = ["LimitedProtocol", "ProtocolLimits", "Server", "limited_protocol", "serve"]

_BACKLOG = 2048
_FORCED_EXIT_MS = 1_000
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_logger = logging.getLogger("uvicorn.error")


class Server(uvicorn.Server):
    """A server that ends parked requests instead of waiting for them, and then returns: exit code 0.

    Stopping: no new connections; idle ones close; `on_stop` ends what is parked; running requests have
    `grace_ms` to finish, then they are cut off; the lifespan cleans up. A second signal cuts off at once and
    leaves the clean-up one second.

    Args:
        config: uvicorn's.
        on_stop: Called once, in the event loop, when stopping begins; perhaps before the lifespan is up.
        on_ready: Called with the bound port when requests are accepted.
        grace_ms: For requests that are running when stopping begins.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_stop: Callable[[], None],
        on_ready: Callable[[int], None],
        grace_ms: int = 1_000,
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._on_ready = on_ready
        self._grace_ms = grace_ms
        self._stopping = asyncio.Event()
        self._app_told = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Begin to stop; called again, stop by force. Only from the thread of the event loop."""
        if self.should_exit:
            self.force_exit = True
            # Whatever hangs now (a start, a clean-up, a worker thread), the process goes.
            asyncio.get_running_loop().call_later(_FORCED_EXIT_MS / 1000, os._exit, 1)
        self.should_exit = True
        self._stopping.set()
        if not self.started:
            self._tell_app()

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.stop)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM and, unlike uvicorn, do not raise them again: the exit code is 0."""
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
        await super().startup(sockets)
        if sockets and not self.should_exit:
            self._on_ready(sockets[0].getsockname()[1])

    @override
    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        # First, so that the answers of parked requests announce the close.
        for connection in list(self.server_state.connections):
            connection.shutdown()
        self._tell_app()
        await self._let_requests_finish()
        await self._cut_off()
        await self.lifespan.shutdown()

    def _tell_app(self) -> None:
        if not self._app_told:
            self._app_told = True
            self._on_stop()

    async def _let_requests_finish(self) -> None:
        state = self.server_state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_ms / 1000):
                # uvicorn has no event for it.
                while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110 - uvicorn offers nothing to wait for
                    await asyncio.sleep(0.01)

    async def _cut_off(self) -> None:
        """Drop what is left: a connection without an answer says rightly that the outcome is unknown."""
        tasks = set(self.server_state.tasks)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if not tasks:
            return
        _logger.warning("Cut off %d requests that did not end within %d ms.", len(tasks), self._grace_ms)
        _, deaf = await asyncio.wait(tasks, timeout=0.1)
        if deaf:
            _logger.addFilter(_not_cancelled)
            for task in deaf:
                task.cancel()
            await asyncio.wait(deaf, timeout=0.1)
            _logger.removeFilter(_not_cancelled)


def _not_cancelled(record: logging.LogRecord) -> bool:
    """Keep uvicorn from logging a request that we cancel as a fault of the application, with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    on_stop: Callable[[], None],
    on_ready: Callable[[int], None],
    limits: ProtocolLimits | None = None,
    log_config: dict[str, Any] | None = None,
    grace_ms: int = 1_000,
) -> None:
    """Serve until SIGTERM or SIGINT, and return after a clean stop.

    The port is taken before the lifespan starts: a second server fails before it touches the database.

    Args:
        app: The ASGI application; its lifespan must work.
        host: A name or address; IPv6 with or without brackets.
        port: 0 to 65535; 0 takes a free one.
        on_stop: Called once when stopping begins; must let parked requests and streams end.
        on_ready: Called with the port when requests are accepted.
        limits: Of each connection; the defaults if None.
        log_config: For `logging.config.dictConfig`; None leaves logging as it is.
        grace_ms: For requests that are running when stopping begins.

    Raises:
        SystemExit: With a sentence and code 1 if the address cannot be taken; with code 3 if the lifespan
            does not start, for which the log tells why.
    """
    sockets = _listen(host.removeprefix("[").removesuffix("]"), port)
    config = uvicorn.Config(
        cast("ASGIApplication", app),
        loop="uvloop",
        http=limited_protocol(limits or ProtocolLimits()),
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
    server = Server(config, on_stop=on_stop, on_ready=on_ready, grace_ms=grace_ms)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        for each in sockets:
            each.close()


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host, on one port.

    Raises:
        SystemExit: With a sentence if an address cannot be taken.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            # With port 0 the further addresses follow the first to the port that it was given.
            taken = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_listening_socket(family, (address[0], taken, *address[2:])))
            except OSError as error:
                # `localhost` is ::1 too, also where IPv6 is switched off.
                if error.errno not in _NO_SUCH_ADDRESS or (address == found[-1][4] and not sockets):
                    raise
    except OSError as error:
        for each in sockets:
            each.close()
        raise SystemExit(f"millrace: {_why_not(error, host, port)}") from None
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


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        cure = "stop the server that uses it, or choose another with --port or MILLRACE_PORT."
        return f"port {port} on {host} is in use: {cure}"
    if error.errno == errno.EACCES:
        return f"port {port} is reserved: choose one above 1023 with --port."
    if isinstance(error, socket.gaierror) or error.errno in _NO_SUCH_ADDRESS:
        return f"{host} is no address of this machine: use --host 127.0.0.1, or 0.0.0.0 for all its interfaces."
    return f"cannot listen on port {port} of {host}: {error.strerror}."
