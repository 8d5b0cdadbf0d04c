"""Fetch: read, and where that is not enough, wait for an append and read again.

A waiting read holds no database connection. Streams are the same loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from app.broker.log.page_reader import (
    OffsetReset,
    PageSize,
    PartitionPage,
    TopicPage,
    read_partition,
    read_topic,
)
from app.broker.log.topics import StaleTopic, Topics, partition_id_of
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals
from app.domain.log.cursor import Cursor
from app.domain.log.offset_spec import At, OffsetSpec
from app.domain.log.topic import TopicInfo
from app.errors.log import CursorExpired, UnknownTopicOrPartition
from app.storage.db.engine import Storage, Tx

T = TypeVar("T")

_GONE = "this cursor is of another topic, or of one that was deleted; leave it out and start with offset=earliest"


class Fetcher:
    """Reads partitions and topics, waiting for records where asked."""

    def __init__(self, storage: Storage, topics: Topics, signals: Signals) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._reads = asyncio.Semaphore(storage.dialect.page_reads)

    async def fetch(
        self,
        topic: str,
        partition: int,
        position: OffsetSpec,
        size: PageSize,
        reset: OffsetReset | None = None,
        deadline: Deadline | None = None,
        topic_id: int | None = None,
    ) -> PartitionPage:
        """Return a page of a partition, once it has `min_bytes` or the deadline is over; see `fetch_as`."""
        return await self.fetch_as(_itself, topic, partition, position, size, reset, deadline, topic_id)

    async def fetch_as(
        self,
        shape: Callable[[PartitionPage], T],
        topic: str,
        partition: int,
        position: OffsetSpec,
        size: PageSize,
        reset: OffsetReset | None = None,
        deadline: Deadline | None = None,
        topic_id: int | None = None,
    ) -> T:
        """Return what `shape` makes of a page of a partition, once it has `min_bytes` or the deadline is over.

        `shape` runs in the thread that has read the page: there the event loop does not wait for it, nor does it
        wait for the event loop between a page's records.

        The position is resolved once, before any wait. With `topic_id` it belongs to that topic, and to none that
        was created again under the name.

        Raises:
            CursorExpired: The topic of `topic_id` is gone.
            UnknownTopicOrPartition: There is none, or it was deleted during the wait.
            OffsetBelowLogStart, OffsetAboveLogEnd: Without `reset`, with the bounds.
        """
        info = await self._with_partition(topic, partition, topic_id)
        resolved = False
        while True:
            partition_id = info.partition_ids[partition]
            with self._signals.watch([partition_id]) as watch:
                while True:
                    watch.clear()
                    last = deadline is None or deadline.expired or self._signals.closed
                    peek = not last and size.min_bytes > 1
                    try:
                        async with self._reads:
                            page, shaped = await self._storage.read(
                                _read, shape, info, partition, position, size, reset, last=last, peek=peek
                            )
                    except UnknownTopicOrPartition:
                        if resolved or topic_id is not None:
                            self._topics.evict(info)
                        if topic_id is not None:
                            raise CursorExpired(_GONE) from None
                        if resolved:
                            raise
                        info = await self._instead_of(info, partition)
                        break
                    if deadline is None or shaped is not None:
                        return cast("T", shaped)
                    position, resolved = At(page.start_offset), True
                    watch.log_end_offsets[partition_id] = page.log_end_offset
                    await deadline.wait(watch)

    async def fetch_topic(
        self,
        topic: str,
        start: OffsetSpec | Cursor,
        size: PageSize,
        reset: OffsetReset | None = None,
        deadline: Deadline | None = None,
    ) -> tuple[TopicPage, Cursor]:
        """Return a page of all partitions, merged by time, and the cursor to go on with.

        The order within each partition is kept, and each partition with unread records has a share of the page.

        Raises:
            UnknownTopicOrPartition: There is none, or it was deleted during the wait.
            CursorExpired: The topic of the cursor is gone.
            OffsetBelowLogStart, OffsetAboveLogEnd: Without `reset`, with the partition and its bounds.
        """
        info = await self._of_cursor(topic, start)
        resolved = False
        while True:
            with self._signals.watch(info.partition_ids) as watch:
                while True:
                    watch.clear()
                    try:
                        async with self._reads:
                            page = await self._storage.read(read_topic, info, start, size, reset)
                    except StaleTopic:
                        info = await self._changed(info, start, resolved=resolved)
                        break
                    if page.enough or deadline is None or deadline.expired or self._signals.closed:
                        return page, Cursor(info.topic_id, page.next_offsets)
                    start, resolved = Cursor(info.topic_id, page.starts), True
                    watch.topic_version = info.version
                    watch.log_end_offsets.update(zip(info.partition_ids, page.log_end_offsets, strict=True))
                    await deadline.wait(watch)

    async def _with_partition(self, topic: str, partition: int, topic_id: int | None) -> TopicInfo:
        info = await (self._topics.get(topic) if topic_id is None else self._of_id(topic, topic_id))
        if not 0 <= partition < info.partitions:
            info = await self._topics.refresh(topic)
        partition_id_of(info, partition)
        return info

    async def _instead_of(self, old: TopicInfo, partition: int) -> TopicInfo:
        """Return the topic that has the name of one that is gone."""
        info = await self._topics.refresh(old.name)
        partition_id_of(info, partition)
        return info

    async def _of_cursor(self, topic: str, start: OffsetSpec | Cursor) -> TopicInfo:
        if not isinstance(start, Cursor):
            return await self._topics.get(topic)
        return await self._of_id(topic, start.topic_id)

    async def _of_id(self, topic: str, topic_id: int) -> TopicInfo:
        info = await self._topics.find(topic)
        if info is not None and info.topic_id != topic_id:
            info = await self._topics.refresh(topic)
        if info is None or info.topic_id != topic_id:
            raise CursorExpired(_GONE)
        return info

    async def _changed(self, old: TopicInfo, start: OffsetSpec | Cursor, *, resolved: bool) -> TopicInfo:
        """Return the topic as it is now: with more partitions, or another one if no read has begun."""
        try:
            info = await self._topics.refresh(old.name)
        except UnknownTopicOrPartition:
            if isinstance(start, Cursor) and not resolved:
                raise CursorExpired(_GONE) from None
            raise
        if info.topic_id != old.topic_id:
            if resolved:
                raise UnknownTopicOrPartition("the topic was deleted")
            if isinstance(start, Cursor):
                raise CursorExpired(_GONE)
        return info


def _itself(page: PartitionPage) -> PartitionPage:
    return page


def _read(
    tx: Tx,
    shape: Callable[[PartitionPage], T],
    info: TopicInfo,
    partition: int,
    position: OffsetSpec,
    size: PageSize,
    reset: OffsetReset | None,
    *,
    last: bool,
    peek: bool,
) -> tuple[PartitionPage, T | None]:
    """Return a page, and its shape if it is enough or the last that is read."""
    page = read_partition(tx, info, partition, position, size, reset, peek=peek)
    return page, shape(page) if page.enough or last else None
