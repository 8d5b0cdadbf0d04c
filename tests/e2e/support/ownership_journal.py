"""Which consumer of a campaign claims which partition, and the invariants of ownership and order.

All consumers of a campaign are tasks of one process, so "at the same time" is exact. A claim on a partition begins
with the answer that assigns it. It ends when the consumer releases it, when the consumer is killed, or two thirds of
a session after the consumer sent the last answered call: the shortest session that the server guarantees.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROGRESS_S = 60.0


class Claim(NamedTuple):
    """A consumer's claim on a partition, and when it ends without another answer."""

    holder: str
    until: float


@dataclass
class OwnershipJournal:
    """The claims and the progress of a campaign; a violation raises in the consumer that causes it.

    Attributes:
        claims: By partition.
        processed_end: By partition: every record below this offset was processed.
        committed: By partition: the highest offset that is known to be committed.
        numbers: By origin: the numbers of the flights in the order of their first processing.
        repeats: Number of records that were processed again.
        takeovers: How often the holder of a partition changed.
    """

    claims: dict[int, Claim] = field(default_factory=dict)
    last_holder: dict[int, str] = field(default_factory=dict)
    processed_end: Counter[int] = field(default_factory=Counter)
    committed: Counter[int] = field(default_factory=Counter)
    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    processed: int = 0
    repeats: int = 0
    takeovers: int = 0
    samples: int = 0
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def claim(self, holder: str, partitions: Iterable[int], until: float) -> None:
        """Replace the claims of a consumer by the partitions of an answer."""
        self.release(holder)
        now = asyncio.get_running_loop().time()
        for partition in partitions:
            other = self.claims.get(partition)
            assert other is None or other.until <= now, f"{holder} is assigned partition {partition} of {other}"
            self.claims[partition] = Claim(holder, until)
            self.takeovers += self.last_holder.get(partition, holder) != holder
            self.last_holder[partition] = holder

    def release(self, holder: str) -> None:
        """End all claims of a consumer."""
        for partition in [partition for partition, claim in self.claims.items() if claim.holder == holder]:
            del self.claims[partition]

    def holds(self, holder: str, partition: int) -> bool:
        """Return whether a consumer has a claim on a partition now."""
        claim = self.claims.get(partition)
        return claim is not None and claim.holder == holder and claim.until > asyncio.get_running_loop().time()

    def check_page(self, records: Iterable[Mapping[str, Any]], floor: Mapping[int, int]) -> None:
        """Assert that a page starts at or above the committed offsets and skips no record.

        Args:
            records: Records of any partitions, in order within each partition.
            floor: The offsets that were known to be committed when the page was requested.
        """
        following: dict[int, int] = {}
        for record in records:
            partition, offset = record["partition"], record["offset"]
            if partition in following:
                assert offset == following[partition], f"{partition}: {offset} after {following[partition] - 1}"
            else:
                assert offset >= floor.get(partition, 0), f"{partition}: {offset} was committed: {floor}"
                assert offset <= self.processed_end[partition], f"{partition}: {offset} skips some"
            following[partition] = offset + 1

    def process(self, holder: str, record: Mapping[str, Any]) -> None:
        """Process a record of a partition on which the consumer has a claim."""
        partition, offset = record["partition"], record["offset"]
        assert self.holds(holder, partition)
        assert offset <= self.processed_end[partition], f"{partition}: {offset} skips some"
        self.processed += 1
        self._moved.set()
        if offset < self.processed_end[partition]:
            self.repeats += 1
            return
        self.processed_end[partition] = offset + 1
        self.numbers[record["key"]].append(record["value"]["number"])

    def note_committed(self, partition: int, offset: int) -> None:
        """Note an offset that the server reports as committed."""
        assert offset <= self.processed_end[partition], (
            f"{partition}: {offset} is committed, {self.processed_end[partition]} processed"
        )
        self.committed[partition] = max(self.committed[partition], offset)

    async def progress(self, records: int) -> None:
        """Wait until so many more records were processed."""
        goal = self.processed + records
        async with asyncio.timeout(PROGRESS_S):
            while self.processed < goal:
                self._moved.clear()
                await self._moved.wait()
