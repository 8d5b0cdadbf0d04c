"""The ends of partitions in memory, where only one process appends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.domain.log.append import PartitionEnd

_MAX_ENDS = 10_000


class LogEnds:
    """The end of each partition as this process left it.

    An append changes the ends before its transaction commits, so the storage clears them when a transaction fails.
    """

    def __init__(self) -> None:
        self._ends: dict[int, PartitionEnd] = {}

    def missing(self, partition_ids: Sequence[int]) -> Sequence[int]:
        """Return the partitions whose end is to be read from the database."""
        ends = self._ends
        missing = [partition_id for partition_id in partition_ids if partition_id not in ends]
        if missing and len(ends) > _MAX_ENDS:
            ends.clear()
            return partition_ids
        return missing

    def keep(self, ends: Mapping[int, PartitionEnd]) -> None:
        """Keep ends that were read from the database."""
        self._ends.update(ends)

    def of(self, partition_ids: Sequence[int]) -> dict[int, PartitionEnd]:
        """Return the kept ends of some partitions, to be changed by the append; a deleted partition is missing."""
        ends = self._ends
        return {partition_id: ends[partition_id] for partition_id in partition_ids if partition_id in ends}

    def drop(self, partition_ids: Iterable[int]) -> None:
        """Drop the ends of partitions whose topic changes."""
        for partition_id in partition_ids:
            self._ends.pop(partition_id, None)

    def clear(self) -> None:
        """Drop all ends."""
        self._ends.clear()
