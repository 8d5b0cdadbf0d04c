"""Who waits for which partition, and waking them. Used on the event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self


class Watch:
    """One reader's interest in some partitions, from before its first read.

    An announcement between a read and the wait that follows it is not lost: it ends that wait at once.
    """

    __slots__ = ("_future", "_signals", "partition_ids", "seen", "version")

    def __init__(self, signals: Signals, partition_ids: Iterable[int]) -> None:
        self._signals = signals
        self._future: asyncio.Future[None] | None = None
        self.partition_ids = tuple(partition_ids)
        self.seen: dict[int, int] = {}
        """Log end of each partition as last read, for the poll that finds lost notices."""
        self.version: int | None = None
        """Version of the topic as last read, where the reader cares for new partitions."""

    def __enter__(self) -> Self:
        self._signals._add(self)  # noqa: SLF001 - the two are one piece
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals._remove(self)  # noqa: SLF001 - the two are one piece

    def arm(self) -> None:
        """Forget announcements so far; to be called before each read."""
        self._future = None if self._future is None or self._future.done() else self._future

    def fire(self, *_: object) -> None:
        """Wake the reader."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Return at the first announcement since `arm`."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await self._future


Listener = Callable[[int | None], None]
"""Told of each announcement of what is no partition; of None where announcements may have been missed."""


class Signals:
    """Announces appends and changes of partitions to those who watch them.

    Args:
        forward: Called with the partitions announced on this node, to tell other nodes.

    Attributes:
        complete: Whether this node hears all announcements: from the first on if there are no other nodes.
    """

    def __init__(self, forward: Callable[[Iterable[int]], None] | None = None) -> None:
        self._watches: dict[int, set[Watch]] = {}
        self._followers: list[Listener] = []
        self._forward = forward
        self.complete = forward is None
        self.closed = False

    def watch(self, partition_ids: Iterable[int]) -> Watch:
        """Return a watch, to be entered with `with`."""
        return Watch(self, partition_ids)

    def follow(self, follower: Listener) -> None:
        """Tell a follower from now on."""
        self._followers.append(follower)

    def announce(self, partition_ids: Iterable[int]) -> None:
        """Wake the readers of partitions that this node changed, here and on other nodes."""
        if self._forward is not None:
            self._forward(partition_ids)
        self.wake(partition_ids)

    def wake(self, partition_ids: Iterable[int]) -> None:
        """Wake the readers of this node."""
        for partition_id in partition_ids:
            if partition_id < 0:
                self._tell(partition_id)
            if watches := self._watches.get(partition_id):
                for watch in watches:
                    watch.fire()

    def wake_all(self) -> None:
        """Wake every reader, after notices may have been lost."""
        self._tell(None)
        self.wake(tuple(self._watches))

    def wake_behind(self, present: Mapping[int, tuple[int, int]]) -> None:
        """Wake the readers that have seen something else, or whose partition is missing.

        Args:
            present: Version of the topic and log end of each partition.
        """
        for partition_id, watches in self._watches.items():
            version, end = present.get(partition_id, (-1, -1))
            for watch in watches:
                if watch.seen.get(partition_id, end) != end or watch.version not in {None, version}:
                    watch.fire()

    def watched(self) -> list[int]:
        """Return the ids of the partitions that somebody watches."""
        return list(self._watches)

    @property
    def waiting(self) -> int:
        """Number of readers that watch a partition."""
        return len({watch for watches in self._watches.values() for watch in watches})

    def close(self) -> None:
        """End all waits, now and from now on."""
        self.closed = True
        self.wake_all()

    def _tell(self, watch_id: int | None) -> None:
        for follower in self._followers:
            follower(watch_id)

    def _add(self, watch: Watch) -> None:
        for partition_id in watch.partition_ids:
            self._watches.setdefault(partition_id, set()).add(watch)

    def _remove(self, watch: Watch) -> None:
        for partition_id in watch.partition_ids:
            watches = self._watches[partition_id]
            watches.discard(watch)
            if not watches:
                del self._watches[partition_id]
