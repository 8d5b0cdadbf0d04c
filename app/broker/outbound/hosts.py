"""Connections and requests under way by host, so that a host that hangs does not hold up the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import httpcore2

from app.broker.outbound.exchange import NotSent

_OWN_OF_HOST = 4
"""Requests to a host that may be under way whatever other hosts do."""
_MAX_OF_HOST = 64
_MAX_SHARED = 512
"""Requests of all hosts beyond their own ones."""
_MAX_KEPT = 512
_WAIT_SHARE = 0.5


class Origin(NamedTuple):
    """What the connections of one pool have in common."""

    scheme: str
    host: str
    port: int


class _Host:
    """The connections to one host."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool) -> None:
        self.pool = pool
        self.room = asyncio.Semaphore(_MAX_OF_HOST)
        self.own = asyncio.Semaphore(_OWN_OF_HOST)
        self.users = 0
        self.used_at = 0.0


class Hosts:
    """The hosts of the last requests. A connection is closed `keepalive_s` after its last request.

    Args:
        make_pool: Makes the connections of an origin.
        keepalive_s: How long a connection is kept without requests.
    """

    def __init__(self, make_pool: Callable[[Origin], httpcore2.AsyncConnectionPool], keepalive_s: float) -> None:
        self._make_pool = make_pool
        self._keepalive_s = keepalive_s
        self._hosts: dict[Origin, _Host] = {}
        self._shared = asyncio.Semaphore(_MAX_SHARED)
        self._sweeper: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def connected(self, origin: Origin, timeout_s: float) -> AsyncIterator[httpcore2.AsyncConnectionPool]:
        """Give the connections of an origin, as soon as another request may begin.

        Raises:
            NotSent: No request could begin within half of `timeout_s`: nothing was sent, and the receiver is not asked.
        """
        host = self._hosts.get(origin)
        if host is None:
            host = await self._add(origin)
        host.users += 1
        try:
            await _enter(host.room, timeout_s)
            try:
                room = self._shared if host.own.locked() else host.own
                await _enter(room, timeout_s)
                try:
                    yield host.pool
                finally:
                    room.release()
            finally:
                host.room.release()
        finally:
            host.users -= 1
            host.used_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Close all connections."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
        hosts, self._hosts = self._hosts, {}
        for host in hosts.values():
            await host.pool.aclose()

    async def _add(self, origin: Origin) -> _Host:
        host = self._hosts[origin] = _Host(self._make_pool(origin))
        host.users += 1
        try:
            await self._make_room()
        finally:
            host.users -= 1
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="outbound-connections")
        return host

    async def _make_room(self) -> None:
        """Close connections that are only kept, the oldest first, if there are too many."""
        kept = sum(len(each.pool.connections) for each in self._hosts.values())
        for origin, host in sorted(self._hosts.items(), key=lambda item: item[1].used_at):
            if kept < _MAX_KEPT:
                return
            if not host.users:
                kept -= len(host.pool.connections)
                await self._close(origin)

    async def _sweep(self) -> None:
        """Close what was not used for a while, until there is nothing left."""
        while self._hosts:
            await asyncio.sleep(self._keepalive_s)
            before = asyncio.get_running_loop().time() - self._keepalive_s
            for origin, host in [*self._hosts.items()]:
                if not host.users and host.used_at <= before:
                    await self._close(origin)

    async def _close(self, origin: Origin) -> None:
        if (host := self._hosts.pop(origin, None)) is not None:
            await host.pool.aclose()


async def _enter(room: asyncio.Semaphore, timeout_s: float) -> None:
    if not room.locked():
        await room.acquire()
        return
    try:
        async with asyncio.timeout(timeout_s * _WAIT_SHARE):
            await room.acquire()
    except TimeoutError:
        raise NotSent("no request could begin in time: too many are under way") from None
