"""Fetch: read a page; if it is not enough, wait for an append and read again.

A waiting read holds no database connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from app.broker.log.page_reader import OffsetReset, PageSize, PartitionPage, TopicPage, read_partition, read_topic
from app.broker.log.page_reads import PageCheck, PageReads
from app.broker.log.topics import StaleTopic, Topics, partition_id_of
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals
from app.domain.log.cursor import Cursor
from app.domain.log.offset_spec import At, OffsetSpec
from app.domain.log.topic import TopicInfo
from app.errors.log import CursorExpired, UnknownTopicOrPartition
from app.storage.db.transaction import Tx

T = TypeVar("T")

_FOREIGN_CURSOR = "the cursor is of another topic or of a deleted one; omit it and start with offset=earliest"


class Fetcher:
    """Reads partitions and topics, and waits for records until a deadline if one is given."""

    def __init__(self, page_reads: PageReads, topics: Topics, signals: Signals) -> None:
        self._reads = page_reads
        self._topics = topics
        self._signals = signals

    async def fetch(
        self,
        topic: str,
        partition: int,
        start: OffsetSpec,
        size: PageSize,
        reset: OffsetReset | None = None,
        deadline: Deadline | None = None,
        topic_id: int | None = None,
    ) -> PartitionPage:
        """Return a page of a partition once it has `min_bytes` or the deadline has passed; see `fetch_encoded`."""
        return await self.fetch_encoded(_itself, topic, partition, start, size, reset, deadline, topic_id)

    async def fetch_encoded(
        self,
        encode: Callable[[PartitionPage], T],
        topic: str,
        partition: int,
        start: OffsetSpec,
        size: PageSize,
        reset: OffsetReset | None = None,
        deadline: Deadline | None = None,
        topic_id: int | None = None,
        check: PageCheck | None = None,
    ) -> T:
        """Return an encoded page of a partition once it has `min_bytes` or the deadline has passed.

        `encode` runs in the worker thread that read the page, so that it does not block the event loop.

        The start is resolved to an offset once, before any wait. With `topic_id`, the read is of that topic only, not
        of a later one of the same name. `check` is called before a large page is read.

        Raises:
            CursorExpired: The topic of `topic_id` was deleted.
            UnknownTopicOrPartition: It does not exist, or was deleted during the wait.
            OffsetBelowLogStart, OffsetAboveLogEnd: Without `reset`, with the bounds.
        """
        info = await self._with_partition(topic, partition, topic_id)
        while True:
            try:
                return await self._read_until_enough(encode, info, partition, start, size, reset, deadline, check)
            except UnknownTopicOrPartition:
                if topic_id is None:
                    raise
                self._topics.evict(info)
                raise CursorExpired(_FOREIGN_CURSOR) from None
            except StaleTopic:
                if topic_id is not None:
                    self._topics.evict(info)
                    raise CursorExpired(_FOREIGN_CURSOR) from None
                info = await self._recreated(info, partition)

    async def _read_until_enough(
        self,
        encode: Callable[[PartitionPage], T],
        info: TopicInfo,
        partition: int,
        start: OffsetSpec,
        size: PageSize,
        reset: OffsetReset | None,
        deadline: Deadline | None,
        check: PageCheck | None,
    ) -> T:
        """Read a page until it is enough or the last.

        Raises:
            StaleTopic: The topic was deleted before the first read.
            UnknownTopicOrPartition: The topic was deleted during the wait.
        """
        partition_id = info.partition_ids[partition]
        waited = False
        with self._signals.watch([partition_id]) as watch:
            while True:
                watch.clear()
                last = self._is_last(deadline)
                peek = not last and size.min_bytes > 1
                try:
                    page, encoded = await self._reads.read(
                        size.max_bytes, check, _read, encode, info, partition, start, size, reset, last=last, peek=peek
                    )
                except UnknownTopicOrPartition:
                    if not waited:
                        raise StaleTopic from None
                    self._topics.evict(info)
                    raise
                if deadline is None or encoded is not None:
                    return cast("T", encoded)
                start, waited = At(page.start_offset), True
                watch.log_end_offsets[partition_id] = page.log_end_offset
                await deadline.wait(watch)

    async def fetch_topic(
        self,
        topic: str,
        start: OffsetSpec | Cursor,
        size: PageSize,
        reset: OffsetReset | None = None,
        deadline: Deadline | None = None,
        check: PageCheck | None = None,
    ) -> tuple[TopicPage, Cursor]:
        """Return a page of all partitions, merged by time, and the cursor of the next page.

        The order within each partition is kept, and each partition with unread records has a share of the page.

        Raises:
            UnknownTopicOrPartition: The topic does not exist, or was deleted during the wait.
            CursorExpired: The topic of the cursor was deleted.
            OffsetBelowLogStart, OffsetAboveLogEnd: Without `reset`, with the partition and its bounds.
        """
        info = await self._topic_of(topic, start)
        waited = False
        while True:
            with self._signals.watch(info.partition_ids) as watch:
                while True:
                    watch.clear()
                    try:
                        page = await self._reads.read(size.max_bytes, check, read_topic, info, start, size, reset)
                    except StaleTopic:
                        info = await self._changed(info, start, waited=waited)
                        break
                    if deadline is None or page.enough or self._is_last(deadline):
                        return page, Cursor(info.topic_id, page.next_offsets)
                    start, waited = Cursor(info.topic_id, page.start_offsets), True
                    watch.topic_version = info.version
                    watch.log_end_offsets.update(zip(info.partition_ids, page.log_end_offsets, strict=True))
                    await deadline.wait(watch)

    def _is_last(self, deadline: Deadline | None) -> bool:
        """Return whether the next read is the last one, whatever it finds."""
        return deadline is None or deadline.expired or self._signals.closed

    async def _with_partition(self, topic: str, partition: int, topic_id: int | None) -> TopicInfo:
        info = await (self._topics.get(topic) if topic_id is None else self._of_id(topic, topic_id))
        if not 0 <= partition < info.partitions:
            info = await self._topics.refresh(topic)
        partition_id_of(info, partition)
        return info

    async def _recreated(self, deleted: TopicInfo, partition: int) -> TopicInfo:
        """Return the topic that has the name of a deleted one now."""
        info = await self._topics.refresh(deleted.name)
        partition_id_of(info, partition)
        return info

    async def _topic_of(self, topic: str, start: OffsetSpec | Cursor) -> TopicInfo:
        return await (self._of_id(topic, start.topic_id) if isinstance(start, Cursor) else self._topics.get(topic))

    async def _of_id(self, topic: str, topic_id: int) -> TopicInfo:
        info = await self._topics.find(topic)
        if info is not None and info.topic_id != topic_id:
            info = await self._topics.refresh(topic)
        if info is None or info.topic_id != topic_id:
            raise CursorExpired(_FOREIGN_CURSOR)
        return info

    async def _changed(self, before: TopicInfo, start: OffsetSpec | Cursor, *, waited: bool) -> TopicInfo:
        """Return the topic after a change: with more partitions, or a new topic of the same name before any wait."""
        try:
            info = await self._topics.refresh(before.name)
        except UnknownTopicOrPartition:
            if isinstance(start, Cursor) and not waited:
                raise CursorExpired(_FOREIGN_CURSOR) from None
            raise
        if info.topic_id != before.topic_id:
            if waited:
                raise UnknownTopicOrPartition("the topic was deleted")
            if isinstance(start, Cursor):
                raise CursorExpired(_FOREIGN_CURSOR)
        return info


def _itself(page: PartitionPage) -> PartitionPage:
    return page


def _read(
    tx: Tx,
    encode: Callable[[PartitionPage], T],
    info: TopicInfo,
    partition: int,
    start: OffsetSpec,
    size: PageSize,
    reset: OffsetReset | None,
    *,
    last: bool,
    peek: bool,
) -> tuple[PartitionPage, T | None]:
    """Return a page, encoded if it is enough or the last."""
    page = read_partition(tx, info, partition, start, size, reset, peek=peek)
    return page, encode(page) if page.enough or last else None
