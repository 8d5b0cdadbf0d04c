"""Names of receivers to addresses, in threads of their own and with a limit of time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from threading import Thread
from typing import Protocol
from weakref import WeakValueDictionary

RESOLVE_TIMEOUT_S = 2.0
_MAX_ADDRESSES = 16
_MAX_LOOK_UPS = 128
_MAX_OF_DOMAIN = 4
"""Look-ups at once below one domain: its owner decides how long they take."""
_EVIDENCE_S = 60.0
_MAX_FAILING = 1_000
_SHORT_LABEL = 3
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
    for a name that is being resolved wait for the same thread. A domain has few threads, so that one whose name servers
    do not answer leaves the others free.

    A name that cannot be resolved is the fault of its receiver if another name has been resolved since, and within the
    last minute; else that of the resolver.

    Args:
        find: Returns the addresses of a host; it may block.
        timeout_s: How long a request waits for it.
        clock_s: Monotonic clock in seconds.
    """

    def __init__(
        self,
        find: LookUp = look_up,
        timeout_s: float = RESOLVE_TIMEOUT_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._clock_s = clock_s
        self._under_way: dict[tuple[str, int], asyncio.Future[Found]] = {}
        self._room = asyncio.Semaphore(_MAX_LOOK_UPS)
        self._domains: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._failing_since: dict[str, float] = {}
        self._resolved_at: float | None = None

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, best first."""
        key = host, port
        try:
            async with asyncio.timeout(self._timeout_s):
                if key not in self._under_way:
                    await self._enter(key)
                found = await asyncio.shield(self._under_way[key])
        except TimeoutError:
            if key not in self._under_way:
                raise ResolverFailed("the resolver does not answer: too many names are being resolved") from None
            raise self._failure(host, f"the resolver did not answer within {self._timeout_s:g} s") from None
        if isinstance(found, list):
            self._note_resolved(host, found)
            return list(dict.fromkeys(found))[:_MAX_ADDRESSES]
        if isinstance(found, socket.gaierror) and found.errno not in _UNKNOWN_NAME:
            raise self._failure(host, "the resolver cannot be reached")
        raise UnknownHost("the host name has no address")

    async def _enter(self, key: tuple[str, int]) -> None:
        """Begin a look-up as soon as there is room, unless another request has begun it meanwhile."""
        room = self._room
        domain = self._domains.setdefault(_domain_of(key[0]), asyncio.Semaphore(_MAX_OF_DOMAIN))
        await domain.acquire()
        try:
            await room.acquire()
        except BaseException:
            domain.release()
            raise

        def leave() -> None:
            room.release()
            domain.release()

        if key in self._under_way:
            leave()
        else:
            self._begin(key, leave)

    def _begin(self, key: tuple[str, int], leave: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()
        self._under_way[key] = future

        def end(found: Found) -> None:
            del self._under_way[key]
            leave()
            future.set_result(found)

        def run() -> None:
            found = self._found(*key)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(end, found)

        Thread(target=run, name="millrace-resolve", daemon=True).start()

    def _found(self, host: str, port: int) -> Found:
        try:
            return list(self._find(host, port))
        except (OSError, UnicodeError) as error:
            return error

    def _note_resolved(self, host: str, addresses: Iterable[str]) -> None:
        """Note that the resolver works. Loopback addresses prove nothing: they come from a file of this machine."""
        self._failing_since.pop(host, None)
        if not all(ip_address(each).is_loopback for each in addresses):
            self._resolved_at = self._clock_s()

    def _failure(self, host: str, reason: str) -> UnknownHost | ResolverFailed:
        """Return whose fault it is that a name was not resolved; the first time it may be the resolver's."""
        now = self._clock_s()
        since = self._failing_since.setdefault(host, now)
        if len(self._failing_since) > _MAX_FAILING:
            del self._failing_since[next(iter(self._failing_since))]
        at = self._resolved_at
        if at is not None and since < at and now - at < _EVIDENCE_S:
            return UnknownHost("the name servers of the host do not answer")
        return ResolverFailed(reason)


def _domain_of(host: str) -> str:
    """Return the part of a name that one owner is likely to have: `example.com`, `example.co.uk`."""
    labels = host.rstrip(".").split(".")
    has_two_parts = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= _SHORT_LABEL
    return ".".join(labels[-3:] if has_two_parts else labels[-2:])
