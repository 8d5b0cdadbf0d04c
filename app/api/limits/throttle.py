"""The quota of one request, and the RateLimit fields of its answer.

Source: draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.broker.waiting.deadline import monotonic_ms
from app.domain.limits.quotas import QuotaKind, Quotas
from app.domain.limits.token_bucket import WINDOW_S
from app.errors.limits import ThrottlingQuotaExceeded

if TYPE_CHECKING:
    from app.api.http.call import Header

_LONGEST_PAUSE_S = 0.2
"""A stream that waits for its quota ends within this time when the server stops."""


class Throttle:
    """Counts one request in the quotas of its principal.

    Args:
        quotas: The accounts of this node.
        kind: What the request does.
        principal: Whose quota it uses: the name of a principal, or an address.
    """

    __slots__ = ("_kind", "_principal", "_quotas")

    def __init__(self, quotas: Quotas, kind: QuotaKind, principal: str) -> None:
        self._quotas = quotas
        self._kind = kind
        self._principal = principal

    def admit(self) -> None:
        """Count the request.

        Raises:
            ThrottlingQuotaExceeded: The principal has used its quota.
        """
        refused = self._quotas.admit(self._principal, self._kind, monotonic_ms())
        if refused is not None:
            limit, wait_ms = refused
            detail = f"{self._principal} has used its quota {limit}; nothing was done, send this request again later"
            raise ThrottlingQuotaExceeded(detail, retry_after_ms=wait_ms)

    def settle(self, received_bytes: int, sent_bytes: int) -> list[Header]:
        """Count the bytes of the request, and return the fields of its answer."""
        now_ms = monotonic_ms()
        size_bytes = received_bytes if self._kind == "produce" else sent_bytes
        self._quotas.charge(self._principal, self._kind, size_bytes, now_ms)
        states = self._quotas.states(self._principal, self._kind, now_ms)
        if not states:
            return []
        policy = ", ".join(f'"{each.name}";q={each.limit};qu="{each.unit}";w={WINDOW_S}' for each in states)
        left = ", ".join(f'"{each.name}";r={each.left};t={each.reset_s}' for each in states)
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]

    async def pace(self, sent_bytes: int, is_stopping: Callable[[], bool]) -> None:
        """Count what a stream has sent, and wait until its principal may be sent more."""
        wait_ms = self._quotas.charge(self._principal, self._kind, sent_bytes, monotonic_ms())
        while wait_ms and not is_stopping():
            await asyncio.sleep(min(wait_ms / 1_000, _LONGEST_PAUSE_S))
            wait_ms = self._quotas.charge(self._principal, self._kind, 0, monotonic_ms())
