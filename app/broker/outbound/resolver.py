"""Names of receivers to addresses, in threads of their own and with a limit of time."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

RESOLVE_TIMEOUT_S = 2.0
_MAX_ADDRESSES = 16
_THREADS = 4
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_FAMILY}


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


class SystemResolver:
    """The resolver of the operating system. A name that hangs does not hold up the other threads of the process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "millrace-resolve")

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, best first."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await loop.run_in_executor(self._threads, _look_up, host, port)
        except TimeoutError:
            raise ResolverFailed(f"the resolver did not answer within {RESOLVE_TIMEOUT_S:g} s") from None
        except socket.gaierror as error:
            if error.errno in _UNKNOWN_NAME:
                raise UnknownHost("the host name has no address") from None
            raise ResolverFailed("the resolver cannot be reached") from None
        except (OSError, UnicodeError):
            raise UnknownHost("the host name has no address") from None
        return list(dict.fromkeys(found))[:_MAX_ADDRESSES]

    def close(self) -> None:
        """Give the threads up; a name that hangs does not delay the end of the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
