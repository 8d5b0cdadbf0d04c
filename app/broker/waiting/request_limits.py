"""What the principals of this node may use, besides the bytes of their requests."""

from __future__ import annotations

import asyncio
from functools import partial

from app.domain.limits.quotas import Quotas
from app.domain.limits.waiting_requests import WaitingRequests
from app.domain.memory.ledger import CONNECTION_BYTES, WAITING_BYTES, MemoryLedger, full
from app.errors.limits import ThrottlingQuotaExceeded


class RequestLimits:
    """The limits of principals.

    Args:
        quotas: Requests and bytes a second; None if nothing is limited.
        most_waiting: Long polls, acquires and streams of one principal that may wait; 0 for as many as its part of
            the memory has room for, which is the bound in any case.
        ledger: Counts the memory of requests that wait.

    Attributes:
        refused: Number of refused requests by limit: `waiting`, `waiting-memory`, those of the quotas, and those of
            connections, see `app/server/connections.py`.
    """

    def __init__(self, quotas: Quotas | None, most_waiting: int, ledger: MemoryLedger) -> None:
        self.quotas = quotas
        by_memory = max(1, ledger.shares.connections_of_one // (WAITING_BYTES + CONNECTION_BYTES))
        self.waiting = WaitingRequests(min(most_waiting or by_memory, by_memory))
        self.refused: dict[str, int] = {} if quotas is None else quotas.refused
        self._ledger = ledger

    def check_wait(self, principal: str) -> None:
        """Refuse a request that would wait beyond the limits.

        Raises:
            ThrottlingQuotaExceeded: Too many requests of the principal wait.
        """
        if not self.waiting.has_room(principal):
            self._count("waiting")
            raise ThrottlingQuotaExceeded(
                f"{self.waiting.most} requests of {principal} wait, the maximum for one principal "
                "(MILLRACE_MAX_WAITING_REQUESTS, MILLRACE_MEMORY_BUDGET_BYTES); end some, or send fewer at once"
            )

    def enter_wait(self, principal: str, end: asyncio.Future[None]) -> None:
        """Count a request that waits, until `end` is done. If it is refused, `end` is cancelled.

        Raises:
            ThrottlingQuotaExceeded: Too many requests of the principal wait.
            ServiceUnavailable: The memory budget has no room for a further one.
        """
        try:
            self.check_wait(principal)
            if not self._ledger.reserve(WAITING_BYTES):
                self._count("waiting-memory")
                raise full()
        except BaseException:
            end.cancel()
            raise
        self.waiting.enter(principal)
        end.add_done_callback(partial(self._leave_wait, principal))

    def _leave_wait(self, principal: str, _: asyncio.Future[None]) -> None:
        self.waiting.leave(principal)
        self._ledger.unreserve(WAITING_BYTES)

    def _count(self, limit: str) -> None:
        self.refused[limit] = self.refused.get(limit, 0) + 1
