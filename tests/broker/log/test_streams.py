"""Streams of one process: what they read, how often, and what they leave behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from app.broker.log.fetcher import Fetcher
from app.broker.log.producer import ProduceRequest
from app.broker.log.stream_reader import Tail
from app.broker.log.streams import Follower, IntervalTimer, Streams
from app.broker.log.topics import TopicRequest
from app.broker.waiting.deadline import Deadline
from app.domain.log.cursor import Cursor, PartitionCursor
from app.domain.log.offset_spec import At, Earliest, Latest
from app.domain.log.record import Record
from app.errors.database import ServiceUnavailable
from app.errors.log import InvalidCursor, OffsetBelowLogStart, UnknownTopicOrPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.api.services import Services
    from app.broker.log.stream_reader import SharedPage
    from app.storage.db.engine import Storage
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

MANY = 200
LATEST = Latest()


class CountedStorage:
    """The storage, and how often it was read; fails as often as it is told to."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.dialect = storage.dialect
        self.reads = 0
        self.failing = 0

    async def read(self, *arguments: Any, **named: Any) -> Any:
        self.reads += 1
        if self.failing:
            self.failing -= 1
            raise ServiceUnavailable("away")
        return await self._storage.read(*arguments, **named)


class Node:
    """The streams of an application, with a count of their reads."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.storage = CountedStorage(services.storage)
        fetcher = Fetcher(cast("Storage", self.storage), services.topics, services.signals)
        self.streams = Streams(fetcher, services.signals, comment_interval_ms=15_000)

    async def produce(self, *values: bytes, partition: int = 0) -> None:
        records = [Record(partition, -1, None, value, None, 0) for value in values]
        await self.services.producer.produce(ProduceRequest("orders", None, records, 10 * len(values)))


class Reader:
    """A stream and the values it has had; `prompt` ones take their pages at once."""

    def __init__(self, streams: Streams, first: SharedPage, *, prompt: bool) -> None:
        self.values: list[bytes | None] = [record.value for _, record in first.records]
        self.prompt = prompt
        self._streams = streams
        self._first = first
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        deadline = Deadline(None, self._gone)
        with Follower(self._streams, self._first.following, deadline, self._take, comments=True) as follower:
            while (page := await follower.next()) is not None:
                self._have(page)

    def _take(self, page: SharedPage) -> bool:
        if self.prompt:
            self._have(page)
        return self.prompt

    def _have(self, page: SharedPage) -> None:
        self.values += [record.value for _, record in page.records]

    def leave(self) -> None:
        self._gone.set_result(None)


@pytest.fixture
async def node(migrated_url: str, serve: Serve) -> Node:
    """An application with a topic `orders` of two partitions, on either engine."""
    application, _ = await serve(database_url=migrated_url, poll_interval_ms=600_000)
    await application.services.topics.create("orders", TopicRequest(2, {}))
    return Node(application.services)


async def readers(node: Node, number: int, partition: int | None = 0, *, prompt: bool = True) -> list[Reader]:
    found = []
    for _ in range(number):
        page = await node.streams.start("orders", partition, LATEST, LATEST, None)
        found.append(Reader(node.streams, page, prompt=prompt))
    await at_rest(node)
    return found


async def at_rest(node: Node) -> None:
    """Return when the one read of all streams waits."""
    await until(lambda: len(node.streams._flights) == 1)
    (flight,) = node.streams._flights.values()
    await until(lambda: flight.tail._at_end)


async def until(enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not enough():
            await asyncio.sleep(0)


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("partition", [0, None])
async def test_one_append_is_read_once_for_all_streams(node: Node, partition: int | None, prompt: bool) -> None:
    streams = await readers(node, MANY, partition, prompt=prompt)
    before = node.storage.reads

    for number in range(1, 6):
        await node.produce(b"%d" % number)
        await until(lambda number=number: all(len(stream.values) == number for stream in streams))  # type: ignore[misc] # a lambda with a default

    assert node.storage.reads - before == 5
    assert {tuple(stream.values) for stream in streams} == {(b"1", b"2", b"3", b"4", b"5")}
    assert node.streams.open == MANY
    for stream in streams:
        stream.leave()
    await asyncio.gather(*(stream.task for stream in streams))
    assert (node.streams.open, node.streams._flights) == (0, {})


async def test_streams_that_come_to_the_same_place_from_different_sides_read_together(node: Node) -> None:
    await node.produce(*[b"old"] * 600)
    behind = Reader(node.streams, await node.streams.start("orders", 0, At(1), LATEST, None), prompt=True)
    further = Reader(node.streams, await node.streams.start("orders", 0, At(333), LATEST, None), prompt=False)
    await until(lambda: (len(behind.values), len(further.values)) == (599, 267))
    await at_rest(node)
    before = node.storage.reads

    await node.produce(b"new")
    await until(lambda: behind.values[-1] == further.values[-1] == b"new")

    assert node.storage.reads - before == 1


async def test_a_record_that_comes_while_the_page_is_handed_out_is_not_slept_through(node: Node) -> None:
    (stream,) = await readers(node, 1)

    for number in range(50):
        await asyncio.gather(node.produce(b"%d" % number), node.produce(b"%d" % number))

    await until(lambda: len(stream.values) == 100)


async def test_a_lost_notice_is_found_by_the_poll(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    (stream,) = await readers(node, 1, None)
    info = await node.services.topics.get("orders")
    with monkeypatch.context() as lost:
        lost.setattr(node.services.signals, "wake", lambda _: None)
        await node.produce(b"quiet")

    present = dict.fromkeys(info.partition_ids, (info.version, 0)) | {info.partition_ids[0]: (info.version, 1)}
    node.services.signals.wake_outdated(present)

    await until(lambda: stream.values == [b"quiet"])


async def test_partitions_added_are_read_from_their_start(node: Node) -> None:
    (stream,) = await readers(node, 1, None)

    await node.services.topics.change("orders", TopicRequest(4, {}))
    await node.produce(b"new", partition=3)
    await node.produce(b"newer", partition=3)

    await until(lambda: stream.values == [b"new", b"newer"])


async def test_a_database_that_is_away_for_a_moment_is_waited_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.broker.log.stream_reader._PAUSE_S", 0.01)
    (stream,) = await readers(node, 1)

    node.storage.failing = 3
    await node.produce(b"1")

    await until(lambda: stream.values == [b"1"])
    assert not stream.task.done()


@pytest.mark.parametrize("partition", [0, None])
async def test_a_topic_that_is_deleted_ends_its_streams_even_if_it_is_made_again(
    node: Node, partition: int | None
) -> None:
    (stream,) = await readers(node, 1, partition)

    await node.services.topics.delete("orders")
    await node.services.topics.create("orders", TopicRequest(2, {}))
    await node.produce(b"another topic")

    with pytest.raises(UnknownTopicOrPartition):
        await stream.task
    assert stream.values == []
    assert (node.streams.open, node.services.signals.waiting) == (0, 0)


async def test_a_stream_that_retention_overtakes_is_told_or_reset(node: Node) -> None:
    await node.produce(*[b"old"] * 600)
    told = await node.streams.start("orders", 0, At(0), LATEST, None)
    reset = await node.streams.start("orders", 0, At(0), LATEST, "earliest")
    await node.services.topics.delete_before("orders", 0, 599)

    with pytest.raises(OffsetBelowLogStart) as refusal:
        await Reader(node.streams, told, prompt=True).task
    assert refusal.value.facts == {"partition": 0, "log_start_offset": 599, "log_end_offset": 600}
    stream = Reader(node.streams, reset, prompt=True)
    await until(lambda: len(stream.values) == 251)


async def test_places_are_good_for_both_kinds_of_stream(node: Node) -> None:
    await node.produce(b"a0", b"a1")
    await node.produce(b"b0", b"b1", partition=1)
    topic_id = (await node.services.topics.get("orders")).topic_id

    async def starts(partition: int | None, start: Cursor | PartitionCursor, rest: Any = LATEST) -> list[bytes]:
        page = await node.streams.start("orders", partition, start, rest, None)
        return sorted(record.value or b"" for _, record in page.records)

    assert await starts(0, Cursor(topic_id, [1, 0])) == [b"a1"]
    assert await starts(1, Cursor(topic_id, [1])) == [b"b0", b"b1"]
    assert await starts(1, PartitionCursor(topic_id, 1, 1)) == [b"b1"]
    assert await starts(None, PartitionCursor(topic_id, 1, 1)) == [b"b1"]
    assert await starts(None, PartitionCursor(topic_id, 0, 1)) == [b"a1"]
    assert await starts(None, PartitionCursor(topic_id, 0, 1), Earliest()) == [b"a1", b"b0", b"b1"]
    with pytest.raises(InvalidCursor):
        await starts(0, PartitionCursor(topic_id, 1, 1))


async def test_a_read_that_nobody_waits_for_is_ended_and_another_may_begin_at_once(node: Node) -> None:
    (stream,) = await readers(node, 1)
    stream.leave()
    await stream.task
    assert node.streams._flights == {}

    (again,) = await readers(node, 1)
    await node.produce(b"1")

    await until(lambda: again.values == [b"1"])


async def test_a_page_that_cannot_be_sent_at_once_silences_nobody(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = await readers(node, 3)

    def broken(_: SharedPage) -> bool:
        raise ZeroDivisionError

    (flight,) = node.streams._flights.values()
    for follower in flight.followers:
        monkeypatch.setattr(follower, "_send", broken)
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    await node.produce(b"1")

    await until(lambda: all(stream.values == [b"1"] for stream in streams))
    asyncio.get_running_loop().set_exception_handler(None)
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


@pytest.mark.parametrize("prompt", [True, False])
async def test_a_stream_that_wakes_as_its_page_comes_has_it_once(
    node: Node, monkeypatch: pytest.MonkeyPatch, prompt: bool
) -> None:
    read = Tail.next

    async def read_and_wake_all(tail: Tail) -> SharedPage | None:
        page = await read(tail)
        for flight in node.streams._flights.values():
            for follower in flight.followers:
                follower.fire()  # as a comment does that is due; it runs before the page is handed out
        return page

    monkeypatch.setattr(Tail, "next", read_and_wake_all)
    some = await readers(node, 2, prompt=prompt)
    await node.produce(b"1")
    await until(lambda: all(each.values for each in some))
    await node.produce(b"2")
    await until(lambda: all(b"2" in each.values for each in some))
    await at_rest(node)

    assert [each.values for each in some] == [[b"1", b"2"]] * 2


async def test_a_tail_that_nobody_comes_to_is_not_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.broker.log.streams._KEPT_S", 0.01)
    (stream,) = await readers(node, 1, prompt=False)
    monkeypatch.setattr(stream, "_have", lambda _: stream.leave())

    await node.produce(b"1")
    await stream.task

    await until(lambda: node.streams._kept == {} and node.services.signals.waiting == 0)


async def test_a_stopping_node_ends_its_streams(node: Node) -> None:
    streams = [*await readers(node, 3), *await readers(node, 3, prompt=False)]

    node.services.signals.close()

    await asyncio.gather(*(stream.task for stream in streams))
    assert node.streams.open == 0


async def test_a_pulse_calls_each_once_in_an_interval_and_nobody_who_left() -> None:
    pulse = IntervalTimer(0.02)
    calls: list[str] = []
    first, second = (lambda: calls.append("first")), (lambda: calls.append("second"))
    pulse.add(first)
    pulse.add(second)

    await until(lambda: calls == ["first", "second"])
    pulse.remove(first)
    await until(lambda: calls == ["first", "second", "second"])
    pulse.remove(second)

    assert pulse._timer is None
