"""Reads pages for streams: one read of the database for each page, whatever the number of streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from app.broker.log.fetcher import Fetcher
from app.broker.log.page_reader import OffsetReset, PageSize
from app.broker.waiting.signals import Signals, Watch
from app.domain.log.cursor import Cursor
from app.domain.log.offset_spec import At, OffsetSpec
from app.domain.log.record import StoredRecord
from app.domain.log.topic import TopicInfo
from app.errors.broker_error import BrokerError
from app.errors.log import CursorExpired, UnknownTopicOrPartition

if TYPE_CHECKING:
    from app.broker.log.streams import OpenStream

_PAGE = PageSize(250, 65_536, 1)
"""Bounds of a page, and so of what the buffer of a slow client holds."""
_RECORD_BYTES = 100
"""What the encoding of a record has besides key, value and headers."""


class StreamOffset(NamedTuple):
    """The next offset of a stream. Streams with equal values get the same page.

    Attributes:
        partition: None for all partitions of the topic.
        offsets: Next offset of the partition, or of each partition by number.
    """

    topic: str
    topic_id: int
    partition: int | None
    offsets: tuple[int, ...]
    reset: OffsetReset | None


class SharedPage:
    """A page that many streams send.

    Attributes:
        start_offset: Where the page begins.
        records: Each with its partition.
        next_offset: Where the next page begins.
        info: The topic as it was read.
        log_end_offsets: Log end of the partition, or of each partition.
        encoded: The bytes that the api has encoded the page to, by the name of the encoding.
    """

    __slots__ = ("encoded", "info", "log_end_offsets", "next_offset", "records", "start_offset")

    def __init__(
        self,
        start_offset: StreamOffset,
        records: list[tuple[int, StoredRecord]],
        next_offsets: Iterable[int],
        info: TopicInfo,
        log_end_offsets: Iterable[int],
    ) -> None:
        self.start_offset = start_offset
        self.records = records
        self.next_offset = start_offset._replace(offsets=tuple(next_offsets))
        self.info = info
        self.log_end_offsets = tuple(log_end_offsets)
        self.encoded: dict[str, bytes] = {}

    @property
    def size_bytes(self) -> int:
        """About the bytes of its encoding."""
        return sum(record.size_bytes + _RECORD_BYTES for _, record in self.records)

    @property
    def partition_ids(self) -> tuple[int, ...]:
        """Ids of the partitions that were read."""
        ids = self.info.partition_ids
        return ids if self.start_offset.partition is None else (ids[self.start_offset.partition],)


async def read_partition_page(
    fetcher: Fetcher, topic: str, topic_id: int | None, partition: int, start: OffsetSpec, reset: OffsetReset | None
) -> SharedPage:
    """Read a page of a partition without a wait. `topic_id` and the errors are those of `Fetcher.fetch`."""
    page = await fetcher.fetch(topic, partition, start, _PAGE, reset, topic_id=topic_id)
    offset = StreamOffset(topic, page.info.topic_id, partition, (page.start_offset,), reset)
    records = [(partition, record) for record in page.records]
    return SharedPage(offset, records, (page.next_offset,), page.info, (page.log_end_offset,))


async def read_topic_page(
    fetcher: Fetcher, topic: str, start: OffsetSpec | Cursor, reset: OffsetReset | None
) -> SharedPage:
    """Read a page of a topic without a wait. The errors are those of `Fetcher.fetch_topic`."""
    page, cursor = await fetcher.fetch_topic(topic, start, _PAGE, reset)
    offset = StreamOffset(topic, cursor.topic_id, None, tuple(page.start_offsets), reset)
    return SharedPage(offset, page.records, page.next_offsets, page.info, page.log_end_offsets)


async def read_page(fetcher: Fetcher, offset: StreamOffset) -> SharedPage:
    """Read the page at an offset without a wait. The errors are those of `Fetcher.fetch`."""
    topic, topic_id, partition, offsets, reset = offset
    if partition is None:
        return await read_topic_page(fetcher, topic, Cursor(topic_id, list(offsets)), reset)
    return await read_partition_page(fetcher, topic, topic_id, partition, At(offsets[0]), reset)


class SharedRead:
    """Reads page after page for all streams at one offset.

    It watches the partitions from before each read. At the log end it waits for an announcement without another read.

    Args:
        offset: Where the first page begins.
        retry_s: Pause before the next read while the database is not available.
        turns: Limits how many reads run at once.

    Attributes:
        offset: Where its streams are. Set by the caller after each page.
        streams: The streams that wait for the next page.
        task: Reads and sends the pages; its exception ends the streams.
    """

    __slots__ = (
        "_at_end",
        "_fetcher",
        "_joined",
        "_next_offset",
        "_retry_s",
        "_signals",
        "_turns",
        "_watch",
        "offset",
        "streams",
        "task",
    )

    task: asyncio.Task[None]

    def __init__(
        self, fetcher: Fetcher, signals: Signals, offset: StreamOffset, retry_s: float, turns: asyncio.Semaphore
    ) -> None:
        self._fetcher = fetcher
        self._signals = signals
        self._retry_s = retry_s
        self._turns = turns
        self._watch: Watch | None = None
        self._at_end = False
        self._joined = asyncio.Event()
        self._next_offset = offset
        self.offset = offset
        self.streams: set[OpenStream] = set()

    async def next(self) -> SharedPage | None:
        """Return the next page once it has a record; None if the server stops.

        Raises:
            UnknownTopicOrPartition: The topic was deleted.
            OffsetBelowLogStart: Retention deleted the next record, and no reset is given.
        """
        while not self._signals.closed:
            if self._at_end and self._watch is not None:
                await self._watch.wait()
                self._at_end = False
                continue
            page = await self._read_once()
            if page is not None and page.records:
                return page
        return None

    def join(self, streams: Iterable[OpenStream]) -> None:
        """Let streams wait for the next page."""
        self.streams.update(streams)
        for stream in streams:
            stream.read = self
        self._joined.set()

    async def wait_for_streams(self, timeout_s: float) -> bool:
        """Return once a stream waits for the next page, or False after a timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.streams:
                    self._joined.clear()
                    await self._joined.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.__exit__(None, None, None)
            self._watch = None

    async def _read_once(self) -> SharedPage | None:
        """Read a page; None after a pause if the database is not available, so that the streams stay open."""
        if self._watch is not None:
            self._watch.clear()
        try:
            async with self._turns:
                page = await self._read()
        except (CursorExpired, UnknownTopicOrPartition):
            raise UnknownTopicOrPartition("the topic was deleted") from None
        except BrokerError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(self._retry_s)
            return None
        self._next_offset = page.next_offset
        self._at_end = self._was_watched(page) and page.next_offset.offsets == page.log_end_offsets
        return page

    async def _read(self) -> SharedPage:
        return await read_page(self._fetcher, self._next_offset)

    def _was_watched(self, page: SharedPage) -> bool:
        """Watch the partitions of a page, and return whether they were watched already during the read."""
        watch = before = self._watch
        if watch is None or watch.partition_ids != page.partition_ids:
            self.close()
            watch = self._watch = self._signals.watch(page.partition_ids).__enter__()
        watch.log_end_offsets.update(zip(page.partition_ids, page.log_end_offsets, strict=True))
        if page.start_offset.partition is None:
            watch.topic_version = page.info.version
        return watch is before
