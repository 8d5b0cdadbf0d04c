"""What the consumers of a campaign believe and do, and what must be true of it at every moment.

All consumers of a campaign are tasks of one process, so that "at the same time" is exact. A client's claim on a
partition begins with an answer that gives it, and ends when it says so itself, when it is killed, or two thirds of
a session after it sent the last call that was answered: the least the server promises.
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
    """Who believes to own a partition, and how long without another answer."""

    holder: str
    until: float


@dataclass
class Journal:
    """The account of a campaign; each violation raises at once in the client that sees it.

    Attributes:
        claims: By partition.
        processed_end: Below this offset every record of the partition was processed.
        committed: Offsets that are known to be committed, the highest.
        numbers: Numbers of the flights of each origin, in the order in which they were first processed.
        repeats: Records that were processed again.
        takeovers: How often a partition was claimed by another than before.
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
        """Take the partitions that an answer names, and no others."""
        self.release(holder)
        now = asyncio.get_running_loop().time()
        for partition in partitions:
            other = self.claims.get(partition)
            assert other is None or other.until <= now, f"{holder} is given partition {partition}, which has {other}"
            self.claims[partition] = Claim(holder, until)
            self.takeovers += self.last_holder.get(partition, holder) != holder
            self.last_holder[partition] = holder

    def release(self, holder: str) -> None:
        """End all claims of a client, because it says so or was killed."""
        for partition in [partition for partition, claim in self.claims.items() if claim.holder == holder]:
            del self.claims[partition]

    def holds(self, holder: str, partition: int) -> bool:
        """Tell whether a client may still believe that it owns a partition."""
        claim = self.claims.get(partition)
        return claim is not None and claim.holder == holder and claim.until > asyncio.get_running_loop().time()

    def check_page(self, records: Iterable[Mapping[str, Any]], floor: Mapping[int, int]) -> None:
        """Check that a page goes on where something is committed, and leaves nothing out.

        Args:
            records: Of any partitions, in order within each.
            floor: What was known to be committed when the page was asked for.
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
        """Process a record of a partition that the client owns."""
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
        """Note what the server says is committed."""
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
