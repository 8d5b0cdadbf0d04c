"""Refused deliveries: kept in memory, stored at most once a second, and limited per address."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Network

from app.errors.webhooks import TooManyRefusals
from app.storage.db.engine import Storage
from app.storage.sources import sources
from app.storage.sources.sources import MAX_REFUSALS, Refusal

_PER_MINUTE = 100
"""Refused deliveries of one address after which it is not verified any more, until the minute has passed."""
_MINUTE_MS = 60_000
_MAX_ADDRESSES = 10_000


class Refusals:
    """The refused deliveries that are not stored yet, and their number per address.

    Args:
        clock_ms: Monotonic clock in milliseconds.
    """

    def __init__(self, storage: Storage, clock_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._clock_ms = clock_ms
        self._pending: deque[tuple[int, Refusal]] = deque(maxlen=MAX_REFUSALS)
        self._by_address: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.total = 0

    def check(self, address: str) -> None:
        """Refuse a delivery of an address with too many refused deliveries.

        Raises:
            TooManyRefusals: With the time to wait.
        """
        began_ms, refused = self._by_address.get(_network(address), (0, 0))
        left_ms = began_ms + _MINUTE_MS - self._clock_ms()
        if refused >= _PER_MINUTE and left_ms > 0:
            raise TooManyRefusals("too many deliveries of this address were refused", retry_after_ms=left_ms)

    def add(self, source_id: int, refusal: Refusal, *, counts: bool = True) -> None:
        """Note a refused delivery, and let it count for its address."""
        self.total += 1
        self._pending.append((source_id, refusal))
        if not counts:
            return
        network, now_ms = _network(refusal.address), self._clock_ms()
        began_ms, refused = self._by_address.pop(network, (now_ms, 0))
        if now_ms - began_ms >= _MINUTE_MS:
            began_ms, refused = now_ms, 0
        self._by_address[network] = began_ms, refused + 1
        if len(self._by_address) > _MAX_ADDRESSES:
            self._by_address.popitem(last=False)

    async def store(self) -> bool:
        """Store what was refused since the last call. Return False: there is no more to do now."""
        if self._pending:
            pending = list(self._pending)
            self._pending.clear()
            await self._storage.write(sources.add_refusals, pending)
        return False


def _network(address: str) -> str:
    """Return what a sender has for itself: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        return str(IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
