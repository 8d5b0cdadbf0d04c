"""Quotas of principals: requests and bytes a second, for produce and for fetch, on one node."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Literal, NamedTuple

from app.domain.limits import token_bucket
from app.domain.limits.token_bucket import WINDOW_S, Bucket

QuotaKind = Literal["produce", "fetch"]
MOST_ACCOUNTS = 10_000
"""Beyond this number, the account that was used longest ago is dropped, and starts full when it is used again."""


class Quota(NamedTuple):
    """What a principal may use in each second; 0 for no limit."""

    produce_requests_per_s: int = 0
    produce_bytes_per_s: int = 0
    fetch_requests_per_s: int = 0
    fetch_bytes_per_s: int = 0

    def rates(self, kind: QuotaKind) -> tuple[int, int]:
        """Return the requests and the bytes a second of a kind."""
        if kind == "produce":
            return self.produce_requests_per_s, self.produce_bytes_per_s
        return self.fetch_requests_per_s, self.fetch_bytes_per_s


class QuotaState(NamedTuple):
    """One limit of a principal as its client sees it.

    Attributes:
        name: Such as `produce-bytes`.
        unit: The unit of the draft of the RateLimit fields: `requests` or `content-bytes`.
        limit: What the window allows.
        left: What is left of it.
        reset_s: Time until it is whole again.
    """

    name: str
    unit: str
    limit: int
    left: int
    reset_s: int


class _Account:
    """The buckets of a principal for one kind of request."""

    __slots__ = ("bytes", "bytes_per_s", "requests", "requests_per_s")

    def __init__(self, requests_per_s: int, bytes_per_s: int, now_ms: int) -> None:
        self.requests_per_s = requests_per_s
        self.bytes_per_s = bytes_per_s
        self.requests = token_bucket.full(requests_per_s, now_ms)
        self.bytes = token_bucket.full(bytes_per_s, now_ms)

    def refill(self, now_ms: int) -> None:
        if self.requests_per_s:
            self.requests = token_bucket.refill(self.requests, self.requests_per_s, now_ms)
        if self.bytes_per_s:
            self.bytes = token_bucket.refill(self.bytes, self.bytes_per_s, now_ms)

    def requests_wait_ms(self) -> int:
        return token_bucket.wait_ms(self.requests, self.requests_per_s, 1) if self.requests_per_s else 0

    def bytes_wait_ms(self) -> int:
        # A request of any size begins with a full second of bytes or less, so that none waits forever.
        return token_bucket.wait_ms(self.bytes, self.bytes_per_s, 1) if self.bytes_per_s else 0


class Quotas:
    """The accounts of all principals on this node.

    Args:
        default: The quota of each principal, and of each address without a key.
        of_principals: The quotas of some principals, instead.

    Attributes:
        refused: Number of refused requests by limit, such as `produce-bytes`.
    """

    def __init__(self, default: Quota, of_principals: Mapping[str, Quota]) -> None:
        self._default = default
        self._of_principals = of_principals
        self._accounts: dict[tuple[str, QuotaKind], _Account] = {}
        self.refused: dict[str, int] = {}

    def admit(self, principal: str, kind: QuotaKind, now_ms: int) -> tuple[str, int] | None:
        """Count a request. Return the limit that forbids it and the wait in ms, or None if it may run."""
        account = self._account(principal, kind, now_ms)
        for name, wait_ms in (("requests", account.requests_wait_ms()), ("bytes", account.bytes_wait_ms())):
            if wait_ms:
                limit = f"{kind}-{name}"
                self.refused[limit] = self.refused.get(limit, 0) + 1
                return limit, wait_ms
        account.requests = token_bucket.take(account.requests, 1)
        return None

    def charge(self, principal: str, kind: QuotaKind, size_bytes: int, now_ms: int) -> int:
        """Count bytes. Return how long the principal has to wait in ms before it sends or reads more."""
        account = self._account(principal, kind, now_ms)
        account.bytes = token_bucket.take(account.bytes, size_bytes)
        return account.bytes_wait_ms()

    def states(self, principal: str, kind: QuotaKind, now_ms: int) -> list[QuotaState]:
        """Return the limits of a principal for a kind of request."""
        account = self._account(principal, kind, now_ms)
        return [
            *_state(f"{kind}-requests", "requests", account.requests, account.requests_per_s),
            *_state(f"{kind}-bytes", "content-bytes", account.bytes, account.bytes_per_s),
        ]

    def _account(self, principal: str, kind: QuotaKind, now_ms: int) -> _Account:
        """Return an account as of now, and make it the last of the table."""
        account = self._accounts.pop((principal, kind), None)
        if account is None:
            quota = self._of_principals.get(principal, self._default)
            account = _Account(*quota.rates(kind), now_ms)
            if len(self._accounts) >= MOST_ACCOUNTS:
                del self._accounts[next(iter(self._accounts))]
        self._accounts[principal, kind] = account
        account.refill(now_ms)
        return account


def quotas_of(default: Quota, of_principals: Mapping[str, Quota]) -> Quotas | None:
    """Return the accounts, or None if nothing is limited."""
    return Quotas(default, of_principals) if any(default) or any(map(any, of_principals.values())) else None


def client_key(address: str) -> str:
    """Return what an address without a key counts as: itself, or for IPv6 the network of its site (/64)."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"


def _state(name: str, unit: str, bucket: Bucket, per_s: int) -> list[QuotaState]:
    if not per_s:
        return []
    limit = per_s * WINDOW_S
    reset_s = -(-token_bucket.wait_ms(bucket, per_s, limit) // 1_000)
    return [QuotaState(name, unit, limit, bucket.tokens, reset_s)]
