"""What limits the workers of a node together: the lease of the node, and the memory of the records that they hold."""

from __future__ import annotations

import math
import time

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of the records of one webhook that are ready or under way."""


class Lease:
    """Until when this node may send, by its monotonic clock. After a pause of the process nothing begins.

    Attributes:
        until_s: The end; with a database of its own a node needs no lease.
    """

    __slots__ = ("until_s",)

    def __init__(self) -> None:
        self.until_s = math.inf

    @property
    def lasts(self) -> bool:
        """Whether no other node can have taken the webhooks."""
        return time.monotonic() < self.until_s


class HeldMemory:
    """The bytes of the records that all webhooks hold.

    Args:
        max_bytes: Their limit. Above it a webhook that holds nothing still gets one record.

    Attributes:
        bytes: What they hold now.
    """

    __slots__ = ("_max_bytes", "bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0

    def room(self, held_bytes: int) -> int:
        """Return how many bytes more a webhook may hold."""
        room = min(MAX_BYTES - held_bytes, self._max_bytes - self.bytes)
        return max(room, 0 if held_bytes else 1)
