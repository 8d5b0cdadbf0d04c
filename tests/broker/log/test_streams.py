"""Streams of one node: what they read, how often, and what they keep."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from app.broker.log.fetcher import Fetcher
from app.broker.log.page_reads import PageReads
from app.broker.log.producer import ProduceRequest
from app.broker.log.stream_reader import SharedPage
from app.broker.log.streams import OpenStream, Streams
from app.broker.log.topics import TopicRequest
from app.broker.waiting.deadline import Deadline
from app.domain.log.cursor import Cursor, PartitionCursor
from app.domain.log.offset_spec import At, Earliest, Latest
from app.domain.log.record import Record
from app.errors.database import ServiceUnavailable
from app.errors.log import InvalidCursor, OffsetBelowLogStart, UnknownTopicOrPartition
from tests.broker.log.silent_node import SilentNode
from tests.broker.node import parked
from tests.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.api.services import Services
    from app.storage.db.engine import Storage
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

MANY = 200
LATEST = Latest()


class ObservedStorage:
    """The storage with a count of its reads.

    Attributes:
        failures: The number of reads that fail from now on.
        after_read: Called on the event loop after each read, before its caller continues.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.dialect = storage.dialect
        self.reads = 0
        self.failures = 0
        self.after_read: Callable[[], None] = lambda: None

    async def read(self, *arguments: Any, **named: Any) -> Any:
        self.reads += 1
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("away")
        result = await self._storage.read(*arguments, **named)
        self.after_read()
        return result


class Node:
    """The streams of an application that has the topic `orders` with two partitions."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.storage = ObservedStorage(services.storage)
        self._fetcher = Fetcher(
            PageReads(cast("Storage", self.storage), services.memory.work), services.topics, services.signals
        )
        self.streams = self.new_streams()

    def new_streams(self, *, comment_interval_ms: int = 15_000, **intervals_ms: int) -> Streams:
        return Streams(
            self._fetcher,
            self.services.signals,
            comment_interval_ms=comment_interval_ms,
            unread_bytes=1 << 20,
            **intervals_ms,
        )

    async def produce(self, *values: bytes, partition: int = 0) -> None:
        await self.services.producer.produce(produce_request(*values, partition=partition))

    async def at_rest(self) -> None:
        """Return when one read waits for all streams."""
        await until_true(lambda: self.streams.reads == 1)
        await parked(self.services)


def produce_request(*values: bytes, partition: int = 0) -> ProduceRequest:
    records = [Record(partition, -1, None, value, None, 0) for value in values]
    return ProduceRequest("orders", None, records, 10 * len(values))


class Reader:
    """A client of a stream, and the values it has received.

    Args:
        prompt: Whether the client keeps up, so that pages are sent at once.
    """

    def __init__(self, streams: Streams, first: SharedPage, *, prompt: bool) -> None:
        self.values: list[bytes | None] = [record.value for _, record in first.records]
        self.prompt = prompt
        self._disconnect: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        deadline = Deadline(None, self._disconnect)
        self.stream = OpenStream(streams, first.next_offset, deadline, self.send, comments=True)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with self.stream:
            while not self.stream.expired:
                if (page := await self.stream.next()) is not None:
                    self.receive(page)

    def send(self, page: SharedPage) -> bool:
        if self.prompt:
            self.receive(page)
        return self.prompt

    def receive(self, page: SharedPage) -> None:
        self.values += [record.value for _, record in page.records]

    def disconnect(self) -> None:
        self._disconnect.set_result(None)


class BrokenReader(Reader):
    """A client to which no page can be sent at once."""

    def send(self, page: SharedPage) -> bool:
        _ = page
        raise ZeroDivisionError


class OnePageReader(Reader):
    """A client that disconnects after its first page."""

    def receive(self, page: SharedPage) -> None:
        super().receive(page)
        self.disconnect()


@pytest.fixture
async def node(migrated_url: str, serve: Serve) -> Node:
    """A node on either database."""
    application, _ = await serve(database_url=migrated_url, poll_interval_ms=600_000)
    await application.services.topics.create("orders", TopicRequest(2, {}))
    return Node(application.services)


async def readers(
    node: Node, number: int, partition: int | None = 0, *, prompt: bool = True, kind: type[Reader] = Reader
) -> list[Reader]:
    found = []
    for _ in range(number):
        page = await node.streams.start("orders", partition, LATEST, LATEST, None)
        found.append(kind(node.streams, page, prompt=prompt))
    await node.at_rest()
    return found


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("partition", [0, None])
async def test_one_append_is_read_once_for_all_streams(node: Node, partition: int | None, prompt: bool) -> None:
    clients = await readers(node, MANY, partition, prompt=prompt)
    before = node.storage.reads

    for number in range(1, 6):
        await node.produce(b"%d" % number)
        await until_true(lambda number=number: all(len(client.values) == number for client in clients))  # type: ignore[misc] # a lambda with a default

    assert node.storage.reads - before == 5
    assert {tuple(client.values) for client in clients} == {(b"1", b"2", b"3", b"4", b"5")}
    assert node.streams.open == MANY
    for client in clients:
        client.disconnect()
    await asyncio.gather(*(client.task for client in clients))
    assert (node.streams.open, node.streams.reads) == (0, 0)


async def test_streams_that_reach_the_same_offset_from_different_starts_share_a_read(node: Node) -> None:
    await node.produce(*[b"old"] * 600)
    first = Reader(node.streams, await node.streams.start("orders", 0, At(1), LATEST, None), prompt=True)
    second = Reader(node.streams, await node.streams.start("orders", 0, At(333), LATEST, None), prompt=False)
    await until_true(lambda: (len(first.values), len(second.values)) == (599, 267))
    await node.at_rest()
    before = node.storage.reads

    await node.produce(b"new")
    await until_true(lambda: first.values[-1] == second.values[-1] == b"new")

    assert node.storage.reads - before == 1


async def test_a_record_appended_while_a_page_is_sent_is_read_without_another_append(node: Node) -> None:
    (client,) = await readers(node, 1)

    for number in range(50):
        await asyncio.gather(node.produce(b"%d" % number), node.produce(b"%d" % number))

    await until_true(lambda: len(client.values) == 100)


async def test_the_poll_finds_an_append_whose_notice_is_lost(node: Node) -> None:
    (client,) = await readers(node, 1, None)
    info = await node.services.topics.get("orders")
    await SilentNode(node.services).produce(produce_request(b"quiet"))

    current = dict.fromkeys(info.partition_ids, (info.version, 0)) | {info.partition_ids[0]: (info.version, 1)}
    node.services.signals.wake_outdated(current)

    await until_true(lambda: client.values == [b"quiet"])


async def test_partitions_added_are_read_from_their_start(node: Node) -> None:
    (client,) = await readers(node, 1, None)

    await node.services.topics.change("orders", TopicRequest(4, {}))
    await node.produce(b"new", partition=3)
    await node.produce(b"newer", partition=3)

    await until_true(lambda: client.values == [b"new", b"newer"])


async def test_a_stream_stays_open_while_the_database_is_not_available(node: Node) -> None:
    node.streams = node.new_streams(retry_ms=10)
    (client,) = await readers(node, 1)

    node.storage.failures = 3
    await node.produce(b"1")

    await until_true(lambda: client.values == [b"1"])
    assert not client.task.done()


@pytest.mark.parametrize("partition", [0, None])
async def test_a_deleted_topic_ends_its_streams_even_if_it_is_created_again(node: Node, partition: int | None) -> None:
    (client,) = await readers(node, 1, partition)

    await node.services.topics.delete("orders")
    await node.services.topics.create("orders", TopicRequest(2, {}))
    await node.produce(b"another topic")

    with pytest.raises(UnknownTopicOrPartition):
        await client.task
    assert client.values == []
    assert (node.streams.open, node.services.signals.waiting) == (0, 0)


async def test_a_stream_whose_next_record_was_deleted_is_refused_or_reset(node: Node) -> None:
    await node.produce(*[b"old"] * 600)
    refused = await node.streams.start("orders", 0, At(0), LATEST, None)
    reset = await node.streams.start("orders", 0, At(0), LATEST, "earliest")
    await node.services.topics.delete_before("orders", 0, 599)

    with pytest.raises(OffsetBelowLogStart) as error:
        await Reader(node.streams, refused, prompt=True).task
    assert error.value.facts == {"partition": 0, "log_start_offset": 599, "log_end_offset": 600}
    client = Reader(node.streams, reset, prompt=True)
    await until_true(lambda: len(client.values) == 251)


async def test_cursors_of_a_topic_and_of_a_partition_start_both_kinds_of_stream(node: Node) -> None:
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


async def test_a_read_ends_with_its_last_stream_and_another_may_begin_at_once(node: Node) -> None:
    (client,) = await readers(node, 1)
    client.disconnect()
    await client.task
    assert node.streams.reads == 0

    (again,) = await readers(node, 1)
    await node.produce(b"1")

    await until_true(lambda: again.values == [b"1"])


@pytest.mark.parametrize("broken", [1, 3])
async def test_a_page_that_cannot_be_sent_at_once_is_sent_by_the_task_of_the_stream(node: Node, broken: int) -> None:
    clients = await readers(node, 3 - broken) if broken < 3 else []
    clients += await readers(node, broken, kind=BrokenReader)
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))

    await node.produce(b"1")
    await until_true(lambda: all(client.values == [b"1"] for client in clients))
    await node.at_rest()
    await node.produce(b"2")
    await until_true(lambda: all(client.values == [b"1", b"2"] for client in clients))

    asyncio.get_running_loop().set_exception_handler(None)
    assert [type(fault) for fault in faults] == [ZeroDivisionError] * broken * 2


@pytest.mark.parametrize("prompt", [True, False])
async def test_a_stream_that_is_woken_as_its_page_arrives_receives_it_once(node: Node, prompt: bool) -> None:
    clients = await readers(node, 2, prompt=prompt)

    def wake_all() -> None:
        for client in clients:
            client.stream.wake()

    node.storage.after_read = wake_all
    await node.produce(b"1")
    await until_true(lambda: all(client.values for client in clients))
    await node.produce(b"2")
    await until_true(lambda: all(b"2" in client.values for client in clients))
    await node.at_rest()

    assert [client.values for client in clients] == [[b"1", b"2"]] * 2


async def test_a_read_that_no_stream_joins_again_ends(node: Node) -> None:
    node.streams = node.new_streams(idle_ms=10)
    (client,) = await readers(node, 1, prompt=False, kind=OnePageReader)

    await node.produce(b"1")
    await client.task

    await until_true(lambda: node.services.signals.waiting == 0)
    assert client.values == [b"1"]


async def test_a_stream_that_joins_as_an_idle_read_ends_gets_another_read(node: Node) -> None:
    streams = node.new_streams(idle_ms=10)
    first = await streams.start("orders", 0, LATEST, LATEST, None)
    with OpenStream(streams, first.next_offset, Deadline(None), lambda _: False, comments=False) as stream:
        waiting = asyncio.create_task(stream.next())
        await until_true(lambda: streams.reads == 1)
        idle = stream.read
        await node.produce(b"1")
        page = await waiting
        assert idle is not None
        assert page is not None

        await until_true(idle.task.done)
        streams.join(page.next_offset, (stream,))

        assert stream.read is not None
        assert not stream.read.task.done()


async def test_a_read_that_waits_keeps_no_page(node: Node) -> None:
    (client,) = await readers(node, 1)

    await node.produce(b"1")
    await until_true(lambda: client.values == [b"1"])
    await node.at_rest()
    gc.collect()

    assert [each for each in gc.get_objects() if isinstance(each, SharedPage) and each.records] == []


async def test_a_stopping_node_ends_its_streams(node: Node) -> None:
    clients = [*await readers(node, 3), *await readers(node, 3, prompt=False)]

    node.services.signals.close()

    await asyncio.gather(*(client.task for client in clients))
    assert node.streams.open == 0


async def test_each_stream_with_comments_returns_once_in_an_interval(node: Node) -> None:
    streams = node.new_streams(comment_interval_ms=60)
    page = await streams.start("orders", 0, LATEST, LATEST, None)

    async def seconds_for(comments: int) -> float:
        began = time.monotonic()
        with OpenStream(streams, page.next_offset, Deadline(None), lambda _: False, comments=True) as stream:
            for _ in range(comments):
                assert await stream.next() is None
        return time.monotonic() - began

    one, three = await asyncio.gather(seconds_for(1), seconds_for(3))

    assert one >= 0.057
    assert three >= 0.17
    assert (streams.open, streams.reads) == (0, 0)


async def test_a_stream_without_comments_returns_only_with_a_page_or_at_its_end(node: Node) -> None:
    streams = node.new_streams(comment_interval_ms=1)
    page = await streams.start("orders", 0, LATEST, LATEST, None)

    with OpenStream(streams, page.next_offset, Deadline(40), lambda _: False, comments=False) as stream:
        assert await stream.next() is None
        assert stream.expired
