"""The open connections, in all and by address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.limits.quotas import client_key
from app.domain.memory.ledger import CONNECTION_BYTES, MemoryLedger
from app.errors.broker_error import BrokerError
from app.errors.database import ServiceUnavailable
from app.errors.limits import ThrottlingQuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_ANSWERED = 256
"""Refused connections that are answered at once; further ones are closed without an answer."""


class ConnectionRefused(Exception):
    """A connection is refused without an answer, because many others are answered already."""


class Connections:
    """Counts the open connections.

    Args:
        most: The maximum in all; 0 for no limit.
        most_of_address: The maximum of one address, or of one IPv6 network of 64 bits; 0 for no limit.
        is_proxy: Whether an address is a reverse proxy, whose connections are those of many clients.
        refused: Where refused connections are counted.

    Attributes:
        open: The number of open connections.
        refused: Number of refused connections by limit: `connections`, `connections-of-address`, `connection-memory`.
    """

    def __init__(
        self,
        most: int = 0,
        most_of_address: int = 0,
        is_proxy: Callable[[str], bool] | None = None,
        refused: dict[str, int] | None = None,
    ) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._is_proxy = is_proxy
        self._of_address: dict[str, int] = {}
        self._answered = 0
        self.open = 0
        self.refused = {} if refused is None else refused

    def enter(self, address: str, ledger: MemoryLedger) -> None:
        """Count a connection; `leave` gives its room back.

        Raises:
            ServiceUnavailable, ThrottlingQuotaExceeded: A limit forbids it. Call `end_answer` when it is closed.
            ConnectionRefused: The same, but the connection gets no answer.
        """
        if (refusal := self._enter(client_key(address), address, ledger)) is None:
            return
        limit, error = refusal
        self.refused[limit] = self.refused.get(limit, 0) + 1
        if self._answered >= _MOST_ANSWERED:
            raise ConnectionRefused
        self._answered += 1
        raise error

    def end_answer(self) -> None:
        """Count the end of a refused connection that was answered."""
        self._answered -= 1

    def leave(self, address: str, ledger: MemoryLedger) -> None:
        """Count the end of a connection."""
        self.open -= 1
        ledger.unreserve(CONNECTION_BYTES)
        key = client_key(address)
        if left := self._of_address[key] - 1:
            self._of_address[key] = left
        else:
            del self._of_address[key]

    def _enter(self, key: str, address: str, ledger: MemoryLedger) -> tuple[str, BrokerError] | None:
        if self._most and self.open >= self._most:
            detail = f"{self._most} connections are open, the maximum (MILLRACE_MAX_CONNECTIONS); connect later"
            return "connections", ServiceUnavailable(detail)
        of_address = self._of_address.get(key, 0)
        is_proxy = self._is_proxy is not None and self._is_proxy(address)
        most = ledger.shares.connections_of_one // CONNECTION_BYTES
        most = min(self._most_of_address or most, most)
        if of_address >= most and not is_proxy:
            return "connections-of-address", ThrottlingQuotaExceeded(
                f"{self._most_of_address} connections of {key} are open, the maximum for one address "
                "(MILLRACE_MAX_CONNECTIONS_PER_ADDRESS); close some, or name your proxy in MILLRACE_TRUSTED_PROXIES"
            )
        if not ledger.reserve(CONNECTION_BYTES):
            return "connection-memory", ServiceUnavailable(
                "open connections fill their part of the memory budget (MILLRACE_MEMORY_BUDGET_BYTES); connect later"
            )
        self.open += 1
        self._of_address[key] = of_address + 1
        return None
