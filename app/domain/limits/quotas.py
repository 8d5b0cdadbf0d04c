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


class Limit(NamedTuple):
    """One limit of a principal as its client sees it.

    Attributes:
        name: Such as `produce-bytes`.
        unit: The unit of the draft of the RateLimit fields: `requests` or `content-bytes`.
        most: What the window allows.
    """

    name: str
    unit: str
    most: int


class Account:
    """The buckets of a principal for one kind of request.

    Attributes:
        fields: What is the same in all answers, kept here by the caller.
    """

    __slots__ = ("_bytes", "_bytes_per_s", "_kind", "_requests", "_requests_per_s", "fields")

    def __init__(self, kind: QuotaKind, requests_per_s: int, bytes_per_s: int, now_ms: int) -> None:
        self._kind = kind
        self._requests_per_s = requests_per_s
        self._bytes_per_s = bytes_per_s
        self._requests = token_bucket.full(requests_per_s, now_ms)
        self._bytes = token_bucket.full(bytes_per_s, now_ms)
        self.fields: tuple[bytes, bytes] | None = None

    def admit(self, now_ms: int) -> tuple[str, int] | None:
        """Count a request. Return the limit that forbids it and the wait in ms, or None if it may run."""
        if wait_ms := self.charge(0, now_ms):
            return f"{self._kind}-bytes", wait_ms
        if self._requests_per_s:
            requests = token_bucket.refill(self._requests, self._requests_per_s, now_ms)
            if wait_ms := token_bucket.wait_ms(requests, self._requests_per_s, 1):
                return f"{self._kind}-requests", wait_ms
            self._requests = token_bucket.take(requests, 1)
        return None

    def charge(self, size_bytes: int, now_ms: int) -> int:
        """Count bytes. Return how long the principal has to wait in ms before it sends or reads more."""
        if not self._bytes_per_s:
            return 0
        self._bytes = token_bucket.take(token_bucket.refill(self._bytes, self._bytes_per_s, now_ms), size_bytes)
        return token_bucket.wait_ms(self._bytes, self._bytes_per_s, 1)

    @property
    def limits(self) -> list[Limit]:
        """The limits that are set."""
        found = [
            Limit(f"{self._kind}-requests", "requests", self._requests_per_s * WINDOW_S),
            Limit(f"{self._kind}-bytes", "content-bytes", self._bytes_per_s * WINDOW_S),
        ]
        return [limit for limit in found if limit.most]

    def left(self, now_ms: int) -> tuple[int, ...]:
        """Return for each of the limits what is left, and the seconds until it is whole again."""
        left: tuple[int, ...] = ()
        if per_s := self._requests_per_s:
            left = _left(token_bucket.refill(self._requests, per_s, now_ms), per_s)
        if per_s := self._bytes_per_s:
            left += _left(token_bucket.refill(self._bytes, per_s, now_ms), per_s)
        return left


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
        self._accounts: dict[tuple[str, QuotaKind], Account] = {}
        self.refused: dict[str, int] = {}

    def account(self, principal: str, kind: QuotaKind, now_ms: int) -> Account:
        """Return the account of a principal, and make it the last of the table."""
        account = self._accounts.pop((principal, kind), None)
        if account is None:
            quota = self._of_principals.get(principal, self._default)
            account = Account(kind, *quota.rates(kind), now_ms)
            if len(self._accounts) >= MOST_ACCOUNTS:
                del self._accounts[next(iter(self._accounts))]
        self._accounts[principal, kind] = account
        return account

    def count_refusal(self, limit: str) -> None:
        """Count a refused request."""
        self.refused[limit] = self.refused.get(limit, 0) + 1


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


def _left(bucket: Bucket, per_s: int) -> tuple[int, int]:
    return bucket.tokens, -(-token_bucket.wait_ms(bucket, per_s, per_s * WINDOW_S) // 1_000)
