"""Reading page after page for streams, with one look at the database for each page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from app.broker.log.fetcher import Fetcher
from app.broker.log.page_reader import OffsetReset, PageSize
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals, Watch
from app.domain.log.cursor import Cursor
from app.domain.log.offset_spec import At, OffsetSpec
from app.domain.log.record import StoredRecord
from app.domain.log.topic import TopicInfo
from app.errors.broker_error import BrokerError
from app.errors.log import CursorExpired, UnknownTopicOrPartition

_PAGE = PageSize(250, 65_536, 1)
"""What a stream holds at once. A slow client has one page in its buffer and nothing more."""
_PAUSE_S = 0.5


class StreamOffset(NamedTuple):
    """Where a stream is: two that are at the same spot get the same page.

    Attributes:
        partition: None for all partitions of the topic.
        offsets: Next offset of the partition, or of each, by number.
    """

    topic: str
    topic_id: int
    partition: int | None
    offsets: tuple[int, ...]
    reset: OffsetReset | None


class SharedPage:
    """A page that many streams send.

    Attributes:
        spot: Where it begins.
        records: With the partition of each.
        following: Where the next one begins.
        info: The topic as it was read.
        ends: Log end of the partition, or of each.
        forms: The bytes that the api has made of it, by the name of the form.
    """

    __slots__ = ("ends", "following", "forms", "info", "records", "spot")

    def __init__(
        self,
        spot: StreamOffset,
        records: list[tuple[int, StoredRecord]],
        following: Iterable[int],
        info: TopicInfo,
        ends: Iterable[int],
    ) -> None:
        self.spot = spot
        self.records = records
        self.following = spot._replace(offsets=tuple(following))
        self.info = info
        self.ends = tuple(ends)
        self.forms: dict[str, bytes] = {}

    @property
    def partition_ids(self) -> tuple[int, ...]:
        """Ids of the partitions that were read."""
        ids = self.info.partition_ids
        return ids if self.spot.partition is None else (ids[self.spot.partition],)


async def read_of_partition(
    fetcher: Fetcher, topic: str, topic_id: int | None, partition: int, position: OffsetSpec, reset: OffsetReset | None
) -> SharedPage:
    """Read what is there of a partition. `topic_id` and what is raised are those of `Fetcher.fetch`."""
    page = await fetcher.fetch(topic, partition, position, _PAGE, reset, topic_id=topic_id)
    spot = StreamOffset(topic, page.info.topic_id, partition, (page.start_offset,), reset)
    records = [(partition, record) for record in page.records]
    return SharedPage(spot, records, (page.next_offset,), page.info, (page.log_end_offset,))


async def read_of_topic(
    fetcher: Fetcher, topic: str, start: OffsetSpec | Cursor, reset: OffsetReset | None
) -> SharedPage:
    """Read what is there of a topic. What is raised is that of `Fetcher.fetch_topic`."""
    page, cursor = await fetcher.fetch_topic(topic, start, _PAGE, reset)
    spot = StreamOffset(topic, cursor.topic_id, None, tuple(page.starts), reset)
    return SharedPage(spot, page.records, page.next_offsets, page.info, page.log_end_offsets)


class Tail:
    """Reads on from a spot. It watches from before each read, so that at the end it waits without another look.

    Args:
        spot: Where the next page begins.
    """

    def __init__(self, fetcher: Fetcher, signals: Signals, spot: StreamOffset) -> None:
        self._fetcher = fetcher
        self._signals = signals
        self._spot = spot
        self._deadline = Deadline(None)
        self._watch: Watch | None = None
        self._at_end = False

    async def next(self) -> SharedPage | None:
        """Return the next page, once there is one; None if the server stops.

        Raises:
            UnknownTopicOrPartition: The topic was deleted.
            OffsetBelowLogStart: Retention was faster, and no reset was wished for.
        """
        while not self._signals.closed:
            if self._at_end and self._watch is not None:
                await self._deadline.wait(self._watch)
                self._at_end = False
                continue
            page = await self._look()
            if page is not None and page.records:
                return page
        return None

    def close(self) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.__exit__(None, None, None)
            self._watch = None

    async def _look(self) -> SharedPage | None:
        """Read once; None if the database is away for a moment, of which a thousand clients need not hear."""
        if self._watch is not None:
            self._watch.clear()
        try:
            page = await self._read(self._spot)
        except (CursorExpired, UnknownTopicOrPartition):
            raise UnknownTopicOrPartition("the topic was deleted") from None
        except BrokerError as refusal:
            if not refusal.retriable:
                raise
            await asyncio.sleep(_PAUSE_S)
            return None
        self._spot = page.following
        self._at_end = self._follows(page) and page.following.offsets == page.ends
        return page

    async def _read(self, spot: StreamOffset) -> SharedPage:
        if spot.partition is None:
            cursor = Cursor(spot.topic_id, list(spot.offsets))
            return await read_of_topic(self._fetcher, spot.topic, cursor, spot.reset)
        at = At(spot.offsets[0])
        return await read_of_partition(self._fetcher, spot.topic, spot.topic_id, spot.partition, at, spot.reset)

    def _follows(self, page: SharedPage) -> bool:
        """Watch what was read, and return whether it was watched already while it was read."""
        watch = before = self._watch
        if watch is None or watch.partition_ids != page.partition_ids:
            self.close()
            watch = self._watch = self._signals.watch(page.partition_ids).__enter__()
        watch.log_end_offsets.update(zip(page.partition_ids, page.ends, strict=True))
        if page.spot.partition is None:
            watch.topic_version = page.info.version
        return watch is before
