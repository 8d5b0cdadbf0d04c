"""Streams: a fetch in a loop, shared by all streams at the same offset.

However many streams wait at one offset, one read waits there for all of them. An append wakes that read. Its page is
read and encoded once, and sent to the streams whose clients keep up without waking their tasks. The tasks of the others
are woken and send it themselves. A page is not kept after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from types import TracebackType
from typing import Self

from app.broker.log.fetcher import Fetcher
from app.broker.log.page_reader import OffsetReset
from app.broker.log.stream_reader import (
    SharedPage,
    SharedRead,
    StreamOffset,
    read_page,
    read_partition_page,
    read_topic_page,
)
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.interval_timer import IntervalTimer
from app.broker.waiting.signals import Signals, Watch
from app.broker.waiting.work_gate import WorkGate
from app.domain.log.cursor import Cursor, PartitionCursor
from app.domain.log.offset_spec import At, OffsetSpec
from app.errors.log import InvalidCursor

_READS_AT_ONCE = 4
"""Reads of streams that run or wait for a worker thread, so that other reads do not queue behind all streams."""

_WRITES_AT_ONCE = 4


class Streams:
    """The open streams of this node.

    Args:
        comment_interval_ms: Time between two comments of a stream.
        unread_bytes: Limit of the large pages that clients have not read, together.
        retry_ms: Pause before the next read while the database is not available.
        idle_ms: How long a read without streams is kept, for streams that are still sending its last page.

    Attributes:
        open: Number of open streams.
        unread: Turns of the large pages that clients have not read.
        write_turns: Limits how many large pages are encoded and written in one round of the event loop.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        signals: Signals,
        *,
        comment_interval_ms: int,
        unread_bytes: int,
        retry_ms: int = 500,
        idle_ms: int = 1_000,
    ) -> None:
        self._fetcher = fetcher
        self.signals = signals
        self.open = 0
        self.unread = WorkGate(unread_bytes)
        self.write_turns = asyncio.Semaphore(_WRITES_AT_ONCE)
        self.comment_timer = IntervalTimer(comment_interval_ms / 1000)
        self._retry_s = retry_ms / 1000
        self._idle_s = idle_ms / 1000
        self._reads: dict[StreamOffset, SharedRead] = {}
        self._turns = asyncio.Semaphore(_READS_AT_ONCE)

    @property
    def reads(self) -> int:
        """Number of shared reads that streams wait for."""
        return sum(1 for read in self._reads.values() if read.streams)

    async def start(
        self,
        topic: str,
        partition: int | None,
        start: OffsetSpec | Cursor | PartitionCursor,
        rest: OffsetSpec,
        reset: OffsetReset | None,
    ) -> SharedPage:
        """Return the first page of a stream without a wait; it may be empty.

        Args:
            topic: Name of the topic.
            partition: None for all partitions.
            start: Where to start: an offset, or a cursor of a topic or of a partition.
            rest: Where partitions start that the cursor does not contain.
            reset: Where to read if the offset is out of range.

        Raises:
            UnknownTopicOrPartition, CursorExpired, InvalidCursor, OffsetBelowLogStart, OffsetAboveLogEnd
        """
        async with self._turns:
            if partition is None:
                start = start.to_cursor(rest) if isinstance(start, PartitionCursor) else start
                return await read_topic_page(self._fetcher, topic, start, reset)
            topic_id = None
            if isinstance(start, Cursor | PartitionCursor):
                topic_id, start = start.topic_id, _offset_in(start, partition)
            return await read_partition_page(self._fetcher, topic, topic_id, partition, start, reset)

    async def read(self, offset: StreamOffset) -> SharedPage:
        """Return the page at an offset without a wait.

        Raises:
            UnknownTopicOrPartition, OffsetBelowLogStart
        """
        async with self._turns:
            return await read_page(self._fetcher, offset)

    def join(self, offset: StreamOffset, streams: Collection[OpenStream]) -> None:
        """Let streams wait for the page at an offset, together with the streams that wait for it already."""
        read = self._reads.get(offset)
        if read is None:
            read = self._reads[offset] = SharedRead(self._fetcher, self.signals, offset, self._retry_s, self._turns)
            read.task = asyncio.create_task(self._run(read))
            read.task.add_done_callback(partial(self._end, read))
        read.join(streams)

    def leave(self, read: SharedRead, stream: OpenStream) -> None:
        """End the wait of a stream. The read ends with its last stream."""
        read.streams.discard(stream)
        if not read.streams:
            self._remove(read)
            read.task.cancel()

    async def _run(self, read: SharedRead) -> None:
        """Read page after page while streams wait for them."""
        try:
            while (page := await read.next()) is not None:
                self._send(page, read.streams)
                self._remove(read)
                read.offset = page.next_offset
                del page  # a read that waits keeps no page
                other = self._reads.setdefault(read.offset, read)
                if other is not read:
                    streams, read.streams = read.streams, set()
                    other.join(streams)
                    return
                if not read.streams and not await read.wait_for_streams(self._idle_s):
                    return
        finally:
            self._remove(read)  # before `_end`, so that no stream joins a read that has ended

    def _send(self, page: SharedPage, streams: set[OpenStream]) -> None:
        """Send a page to the streams whose clients keep up; remove the others and let their tasks send it."""
        for stream in tuple(streams):
            try:
                sent = stream.send(page)
            except Exception as error:  # noqa: BLE001 - the fault of one stream must not reach the others
                sent = False
                context = {"message": "a stream could not send a page at once", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            if not sent:
                streams.discard(stream)
                stream.receive(page)

    def _end(self, read: SharedRead, task: asyncio.Task[None]) -> None:
        """Close a read that ended, and wake its streams, which take the exception from its task."""
        read.close()
        if not task.cancelled():
            task.exception()  # marks it as retrieved, as all streams may have left
        for stream in read.streams:
            stream.wake()

    def _remove(self, read: SharedRead) -> None:
        if self._reads.get(read.offset) is read:
            del self._reads[read.offset]


class OpenStream:
    """One stream: its next offset, and its wait for the next page. Enter it with `with`.

    Args:
        streams: The streams of the node.
        offset: Where the next page begins.
        deadline: When the stream ends.
        send: Sends a page at once, or returns False so that `next` returns the page.
        comments: Whether `next` also returns when a comment is due.

    Attributes:
        read: The read whose next page it waits for.
    """

    __slots__ = ("_comment_due", "_comments", "_deadline", "_offset", "_page", "_send", "_streams", "_watch", "read")

    def __init__(
        self,
        streams: Streams,
        offset: StreamOffset,
        deadline: Deadline,
        send: Callable[[SharedPage], bool],
        *,
        comments: bool,
    ) -> None:
        self._streams = streams
        self._offset = offset
        self._deadline = deadline
        self._send = send
        self._comments = comments
        self._comment_due = False
        self._page: SharedPage | None = None
        self._watch = Watch(streams.signals, ())
        self.read: SharedRead | None = None

    def __enter__(self) -> Self:
        self._streams.open += 1
        if self._comments:
            self._streams.comment_timer.add(self._require_comment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.open -= 1
        if self._comments:
            self._streams.comment_timer.remove(self._require_comment)
        if self.read is not None:
            self._streams.leave(self.read, self)

    @property
    def expired(self) -> bool:
        """Whether its deadline has passed, its client has disconnected or the server stops."""
        return self._streams.signals.closed or self._deadline.expired

    async def next(self) -> SharedPage | None:
        """Return the next page that is not sent at once; None if the stream has expired or a comment is due.

        Raises:
            UnknownTopicOrPartition: The topic was deleted.
            OffsetBelowLogStart: Retention deleted the next record, and no reset is given.
        """
        while True:
            self._watch.clear()
            if (page := self._page) is not None:
                self._page = None
                return page
            if self.read is not None and self.read.task.done():
                task, self.read = self.read.task, None
                task.result()
            elif self.expired or self._comment_due:
                self._comment_due = False
                return None
            elif self.read is None:
                self._streams.join(self._offset, (self,))
            else:
                await self._deadline.wait(self._watch)

    def send(self, page: SharedPage) -> bool:
        """Send a page at once if the client keeps up, and return whether it was sent."""
        if self._send(page):
            self._offset = page.next_offset
            return True
        return False

    def move(self, offset: StreamOffset) -> None:
        """Set where the next page begins, after a page was read again."""
        self._offset = offset

    def receive(self, page: SharedPage) -> None:
        """Return a page from `next`."""
        self._page, self._offset = page, page.next_offset
        self.read = None
        self.wake()

    def wake(self) -> None:
        """Continue `next`."""
        self._watch.wake()

    def _require_comment(self) -> None:
        self._comment_due = True
        self.wake()


def _offset_in(cursor: Cursor | PartitionCursor, partition: int) -> OffsetSpec:
    """Return the offset of a partition in a cursor.

    Raises:
        InvalidCursor: The cursor is of another partition.
    """
    if isinstance(cursor, Cursor):
        return At(cursor.offsets[partition]) if partition < len(cursor.offsets) else cursor.rest
    if cursor.partition != partition:
        raise InvalidCursor(f"the cursor is of partition {cursor.partition}; read that partition, or send no cursor")
    return At(cursor.offset)
