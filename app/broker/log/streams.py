"""Streams: a fetch in a loop, shared by all that are at the same place.

However many streams wait at one place, one read waits there for them. An append wakes that read, its page is read
and encoded once, and all go on with it: those whose clients keep up at once, one after the other, without waking
their tasks. No page is kept for later: each is one snapshot, taken for those who waited.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from app.broker.log.fetcher import Fetcher
from app.broker.log.page_reader import OffsetReset
from app.broker.log.stream_reader import SharedPage, StreamOffset, Tail, read_of_partition, read_of_topic
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals, Watch
from app.domain.log.cursor import Cursor, PartitionCursor
from app.domain.log.offset_spec import At, OffsetSpec
from app.errors.log import InvalidCursor

_EARLY = 1 / 30
_KEPT_S = 1.0
"""How long a tail is kept on which nobody waits: for those who are still sending its last page."""


class Streams:
    """The open streams of this node.

    Args:
        comment_interval_ms: How often a stream that may is to say that it lives.
    """

    def __init__(self, fetcher: Fetcher, signals: Signals, *, comment_interval_ms: int) -> None:
        self._fetcher = fetcher
        self.signals = signals
        self.pulse = IntervalTimer(comment_interval_ms / 1000)
        self.open = 0
        """Number of streams."""
        self._flights: dict[StreamOffset, SharedRead] = {}
        self._kept: dict[StreamOffset, Tail] = {}

    async def start(
        self,
        topic: str,
        partition: int | None,
        start: OffsetSpec | Cursor | PartitionCursor,
        rest: OffsetSpec,
        reset: OffsetReset | None,
    ) -> SharedPage:
        """Return the first page of a stream, which may be empty, without any wait.

        Args:
            topic: Its name.
            partition: None for all.
            start: Where to start, or a place of either kind of stream to go on at.
            rest: Where the partitions start of which a place says nothing.
            reset: Where to go on instead of the refusals of offsets.

        Raises:
            UnknownTopicOrPartition, CursorExpired, InvalidCursor, OffsetBelowLogStart, OffsetAboveLogEnd
        """
        if partition is None:
            start = start.to_cursor(rest) if isinstance(start, PartitionCursor) else start
            return await read_of_topic(self._fetcher, topic, start, reset)
        topic_id = None
        if isinstance(start, Cursor | PartitionCursor):
            topic_id, start = start.topic_id, _within(start, partition)
        return await read_of_partition(self._fetcher, topic, topic_id, partition, start, reset)

    def join(self, spot: StreamOffset, followers: Iterable[Follower]) -> None:
        """Let followers wait for the page at a spot, together with all who do."""
        flight = self._flights.get(spot)
        if flight is None:
            tail = self._kept.pop(spot, None) or Tail(self._fetcher, self.signals, spot)
            flight = self._flights[spot] = SharedRead(spot, tail)
            flight.page.add_done_callback(lambda _: self._land(flight))
        flight.followers.update(followers)
        for follower in followers:
            follower.flight = flight

    def leave(self, flight: SharedRead, follower: Follower) -> None:
        """Wait no longer; nobody reads where nobody waits."""
        flight.followers.discard(follower)
        if not flight.followers:
            self._forget(flight)
            flight.page.cancel()

    def _land(self, flight: SharedRead) -> None:
        """Hand the page to all who wait for it: first to those whose clients keep up, then wake the others."""
        self._forget(flight)
        waiting, flight.followers = flight.followers, set()
        served: list[Follower] = []
        page = flight.result()
        try:
            if page is not None:
                served += (follower for follower in waiting if follower.serve(page))
        finally:
            for follower in waiting.difference(served):
                follower.fire()
        if page is None:
            flight.tail.close()
        else:
            self._go_on(page.following, flight.tail, served)

    def _go_on(self, spot: StreamOffset, tail: Tail, followers: list[Follower]) -> None:
        """Let a tail read on for followers; without any, keep it for a moment."""
        if spot in self._flights or spot in self._kept:
            tail.close()
        else:
            self._kept[spot] = tail
        if followers:
            self.join(spot, followers)
        elif self._kept.get(spot) is tail:
            asyncio.get_running_loop().call_later(_KEPT_S, self._drop, spot, tail)

    def _drop(self, spot: StreamOffset, tail: Tail) -> None:
        if self._kept.get(spot) is tail:
            del self._kept[spot]
            tail.close()

    def _forget(self, flight: SharedRead) -> None:
        if self._flights.get(flight.spot) is flight:
            del self._flights[flight.spot]


class SharedRead:
    """A read under way, and those who wait for it."""

    __slots__ = ("followers", "page", "spot", "tail")

    def __init__(self, spot: StreamOffset, tail: Tail) -> None:
        self.spot = spot
        self.tail = tail
        self.page = asyncio.ensure_future(tail.next())
        self.followers: set[Follower] = set()

    def result(self) -> SharedPage | None:
        """Return the page, if there is one."""
        # To ask for the exception keeps asyncio from reporting it where all who waited have just left.
        if self.page.cancelled() or self.page.exception() is not None:
            return None
        return self.page.result()


class Follower:
    """One stream: where it is, and its waiting for what comes next. To be entered with `with`.

    Args:
        streams: Those of the node.
        spot: Where it goes on.
        deadline: When it ends, and whose client may go away.
        send: Sends a page at once, or returns False if `next` is to return it.
        comments: Whether it wants to be woken to say that it lives.
    """

    __slots__ = ("_comment_due", "_comments", "_deadline", "_send", "_spot", "_streams", "_watch", "flight")

    def __init__(
        self,
        streams: Streams,
        spot: StreamOffset,
        deadline: Deadline,
        send: Callable[[SharedPage], bool],
        *,
        comments: bool,
    ) -> None:
        self._streams = streams
        self._spot = spot
        self._deadline = deadline
        self._send = send
        self._comments = comments
        self._comment_due = False
        self._watch = Watch(streams.signals, ())
        self.flight: SharedRead | None = None
        """What it waits for."""

    def __enter__(self) -> Self:
        self._streams.open += 1
        if self._comments:
            self._streams.pulse.add(self._beat)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.open -= 1
        if self._comments:
            self._streams.pulse.remove(self._beat)
        if self.flight is not None:
            self._streams.leave(self.flight, self)

    @property
    def over(self) -> bool:
        """Whether its time is over, its client gone, or the server stopping."""
        return self._streams.signals.closed or self._deadline.expired

    async def next(self) -> SharedPage | None:
        """Return the next page that is not sent at once, or None if it is over or it is time for a comment.

        Raises:
            UnknownTopicOrPartition: The topic was deleted.
            OffsetBelowLogStart: Retention has overtaken the stream, and no reset was wished for.
        """
        watch = self._watch
        while True:
            watch.clear()
            if self.flight is not None and self.flight.page.done():
                flight, self.flight = self.flight, None
                flight.followers.discard(self)  # it may still be to land, and is not to serve us again
                if (page := flight.page.result()) is not None:
                    self._spot = page.following
                    return page
            elif self.over or self._comment_due:
                self._comment_due = False
                return None
            elif self.flight is None:
                self._streams.join(self._spot, [self])
            else:
                await self._deadline.wait(watch)

    def serve(self, page: SharedPage) -> bool:
        """Send a page at once if the client keeps up, and return whether it is sent."""
        if self._send(page):
            self._spot = page.following
            return True
        return False

    def fire(self) -> None:
        """Wake the stream."""
        self._watch.wake()

    def _beat(self) -> None:
        self._comment_due = True
        self.fire()


class IntervalTimer:
    """Calls each of many once in an interval, all by one timer.

    Args:
        interval_s: Time between two calls of the same; up to a thirtieth early, so that many share a moment.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due: OrderedDict[Callable[[], None], float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Callable[[], None]) -> None:
        """Call from now on."""
        loop = asyncio.get_running_loop()
        self._due[call] = loop.time() + self._interval_s
        if self._timer is None:
            self._timer = loop.call_later(self._interval_s, self._tick)

    def remove(self, call: Callable[[], None]) -> None:
        """Call no more."""
        self._due.pop(call, None)
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        """Call those who are due. All have one interval, so that the first in the dictionary is the next."""
        loop = asyncio.get_running_loop()
        horizon = loop.time() + self._interval_s * _EARLY
        while (first := next(iter(self._due.items())))[1] <= horizon:
            call, due = first
            self._due[call] = due + self._interval_s
            self._due.move_to_end(call)
            call()
        self._timer = loop.call_at(first[1], self._tick)


def _within(start: Cursor | PartitionCursor, partition: int) -> OffsetSpec:
    """Return where a partition goes on.

    Raises:
        InvalidCursor: The place is one of another partition.
    """
    if isinstance(start, Cursor):
        return At(start.offsets[partition]) if partition < len(start.offsets) else start.rest
    if start.partition != partition:
        raise InvalidCursor(f"the place is one in partition {start.partition}; go on there, or start without one")
    return At(start.offset)
