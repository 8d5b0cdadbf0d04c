"""The quota of one request, and the RateLimit fields of its answer.

Source: draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.broker.waiting.deadline import monotonic_ms
from app.domain.limits.quotas import Limit, QuotaKind, Quotas
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

    __slots__ = ("_account", "_counts_received", "_principal", "_quotas")

    def __init__(self, quotas: Quotas, kind: QuotaKind, principal: str) -> None:
        self._quotas = quotas
        self._account = quotas.account(principal, kind, monotonic_ms())
        self._counts_received = kind == "produce"
        self._principal = principal

    def admit(self) -> None:
        """Count the request.

        Raises:
            ThrottlingQuotaExceeded: The principal has used its quota.
        """
        refused = self._account.admit(monotonic_ms())
        if refused is not None:
            limit, wait_ms = refused
            self._quotas.count_refusal(limit)
            setting = f"MILLRACE_QUOTA_{limit.upper().replace('-', '_')}_PER_S"
            detail = (
                f"{self._principal} has used its quota {limit} ({setting} or MILLRACE_PRINCIPAL_QUOTAS); "
                "nothing was done, send this request again later"
            )
            raise ThrottlingQuotaExceeded(detail, retry_after_ms=wait_ms)

    def settle(self, received_bytes: int, sent_bytes: int) -> list[Header]:
        """Count the bytes of the request, and return the fields of its answer."""
        now_ms = monotonic_ms()
        self._account.charge(received_bytes if self._counts_received else sent_bytes, now_ms)
        if (fields := self._account.fields) is None:
            fields = self._account.fields = _fields(self._account.limits)
        policy, left = fields
        return [(b"ratelimit-policy", policy), (b"ratelimit", left % self._account.left(now_ms))] if policy else []

    async def pace(self, sent_bytes: int, is_stopping: Callable[[], bool]) -> None:
        """Count what a stream has sent, and wait until its principal may be sent more."""
        wait_ms = self._account.charge(sent_bytes, monotonic_ms())
        while wait_ms and not is_stopping():
            await asyncio.sleep(min(wait_ms / 1_000, _LONGEST_PAUSE_S))
            wait_ms = self._account.charge(0, monotonic_ms())


def _fields(limits: Sequence[Limit]) -> tuple[bytes, bytes]:
    """Return the policy of some limits, and the form of what is left of them."""
    policy = ", ".join(f'"{name}";q={most};qu="{unit}";w={WINDOW_S}' for name, unit, most in limits)
    left = ", ".join(f'"{limit.name}";r=%d;t=%d' for limit in limits)
    return policy.encode(), left.encode()
