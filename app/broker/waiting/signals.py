"""Announcements of appends and changes, which wake the readers of a partition. Used on the event loop only.

An announcement is an event within a node; a notification is what one node sends to the others about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self


class Watch:
    """Registers one reader for the announcements of some partitions, from before its first read.

    An announcement between a read and the wait after it ends that wait at once.

    Attributes:
        log_end_offsets: Log end of each partition at the last read; the poll compares it to find lost notifications.
        topic_version: Version of the topic at the last read, if the reader needs to see new partitions.
    """

    __slots__ = ("_future", "_signals", "log_end_offsets", "partition_ids", "topic_version")

    def __init__(self, signals: Signals, partition_ids: Iterable[int]) -> None:
        self._signals = signals
        self._future: asyncio.Future[None] | None = None
        self.partition_ids = tuple(partition_ids)
        self.log_end_offsets: dict[int, int] = {}
        self.topic_version: int | None = None

    def __enter__(self) -> Self:
        self._signals._add(self)  # noqa: SLF001 - a watch is a part of its signals
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals._remove(self)  # noqa: SLF001 - a watch is a part of its signals

    @property
    def parked(self) -> bool:
        """Whether the reader waits for an announcement."""
        return self._future is not None and not self._future.done()

    def clear(self) -> None:
        """Drop the announcements so far; call it before each read."""
        if self._future is not None and self._future.done():
            self._future = None

    def wake(self, *_: object) -> None:
        """End the wait of the reader, or its next one. Accepts the argument of a future's callback."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Return at the first announcement since `clear`."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await self._future


Listener = Callable[[int | None], None]
"""Called with each announced id that is not of a partition; with None when notifications may have been lost."""


class Signals:
    """Announces appends and changes of partitions to their readers.

    Negative ids stand for other things than partitions, such as groups and queues.

    Attributes:
        notify: Called with the ids announced on this node, to notify the other nodes; None without other nodes.
        receives_all: Whether no notification can be lost now; always true without other nodes.
        closed: Whether the server stops: no read waits any more.
    """

    def __init__(self, notify: Callable[[Iterable[int]], None] | None = None) -> None:
        self._watches: dict[int, set[Watch]] = {}
        self._listeners: list[Listener] = []
        self.notify = notify
        self.receives_all = notify is None
        self.closed = False

    def watch(self, partition_ids: Iterable[int]) -> Watch:
        """Return a watch, to be entered with `with`."""
        return Watch(self, partition_ids)

    def add_listener(self, listener: Listener) -> None:
        """Call a listener from now on."""
        self._listeners.append(listener)

    def announce(self, partition_ids: Iterable[int]) -> None:
        """Announce partitions that this node changed, and notify the other nodes."""
        if self.notify is not None:
            self.notify(partition_ids)
        self.wake(partition_ids)

    def wake(self, partition_ids: Iterable[int]) -> None:
        """Announce partitions to the readers of this node only."""
        for partition_id in partition_ids:
            if partition_id < 0:
                self._call_listeners(partition_id)
            if watches := self._watches.get(partition_id):
                for watch in watches:
                    watch.wake()

    def wake_all(self) -> None:
        """Wake all readers of this node, after notifications may have been lost."""
        self._call_listeners(None)
        self.wake(tuple(self._watches))

    def wake_outdated(self, current: Mapping[int, tuple[int, int]]) -> None:
        """Wake the readers whose last read differs from the current state, or whose partition is missing in it.

        Args:
            current: Version of the topic and log end of each partition.
        """
        for partition_id, watches in self._watches.items():
            version, end = current.get(partition_id, (-1, -1))
            for watch in watches:
                if watch.log_end_offsets.get(partition_id, end) != end or watch.topic_version not in {None, version}:
                    watch.wake()

    def watched_ids(self) -> list[int]:
        """Return the ids that have a reader."""
        return list(self._watches)

    @property
    def waiting(self) -> int:
        """Number of reads that wait, or read again before they wait."""
        return len(self._readers())

    @property
    def parked(self) -> int:
        """Number of reads that wait and have nothing else to do."""
        return sum(watch.parked for watch in self._readers())

    def close(self) -> None:
        """End all waits, now and from now on."""
        self.closed = True
        self.wake_all()

    def _readers(self) -> set[Watch]:
        return {watch for watches in self._watches.values() for watch in watches}

    def _call_listeners(self, announced_id: int | None) -> None:
        for listener in self._listeners:
            listener(announced_id)

    def _add(self, watch: Watch) -> None:
        for partition_id in watch.partition_ids:
            self._watches.setdefault(partition_id, set()).add(watch)

    def _remove(self, watch: Watch) -> None:
        for partition_id in watch.partition_ids:
            watches = self._watches[partition_id]
            watches.discard(watch)
            if not watches:
                del self._watches[partition_id]
