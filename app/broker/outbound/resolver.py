"""Names of receivers to addresses, in threads of their own and with a limit of time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Protocol

RESOLVE_TIMEOUT_S = 2.0
_MAX_ADDRESSES = 16
_MAX_LOOK_UPS = 64
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_FAMILY}

LookUp = Callable[[str, int], Iterable[str]]
Found = list[str] | Exception


class UnknownHost(Exception):
    """The name has no address."""


class ResolverFailed(Exception):
    """The resolver did not answer. This is a fault on this side, not of the receiver."""


class Resolver(Protocol):
    """Finds the addresses of a name."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, best first.

        Raises:
            UnknownHost: The name has no address.
            ResolverFailed: The resolver cannot be reached.
        """


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host as the operating system finds them; it can take long."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class SystemResolver:
    """The resolver of the operating system.

    Each name has a thread of its own: one that hangs holds up neither other names nor the end of the process. Requests
    for a name that is being resolved wait for the same thread.

    Args:
        find: Returns the addresses of a host; it may block.
        timeout_s: How long a request waits for it.
    """

    def __init__(self, find: LookUp = look_up, timeout_s: float = RESOLVE_TIMEOUT_S) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._under_way: dict[tuple[str, int], asyncio.Future[Found]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, best first."""
        under_way = self._under_way.get((host, port)) or self._begin(host, port)
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.shield(under_way)
        except TimeoutError:
            raise ResolverFailed(f"the resolver did not answer within {self._timeout_s:g} s") from None
        if isinstance(found, list):
            return list(dict.fromkeys(found))[:_MAX_ADDRESSES]
        if isinstance(found, socket.gaierror) and found.errno not in _UNKNOWN_NAME:
            raise ResolverFailed("the resolver cannot be reached")
        raise UnknownHost("the host name has no address")

    def _begin(self, host: str, port: int) -> asyncio.Future[Found]:
        if len(self._under_way) >= _MAX_LOOK_UPS:
            raise ResolverFailed("the resolver does not answer: too many names are being resolved")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()
        self._under_way[host, port] = future

        def end(found: Found) -> None:
            del self._under_way[host, port]
            future.set_result(found)

        def run() -> None:
            found = self._found(host, port)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(end, found)

        Thread(target=run, name="millrace-resolve", daemon=True).start()
        return future

    def _found(self, host: str, port: int) -> Found:
        try:
            return list(self._find(host, port))
        except (OSError, UnicodeError) as error:
            return error
