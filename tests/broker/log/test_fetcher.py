"""Reads that wait: what wakes them, what ends them, and that they return each record once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.log.page_reader import PageSize, PartitionPage, TopicPage
from app.broker.log.producer import ProduceRequest
from app.broker.log.topics import TopicRequest
from app.broker.waiting.deadline import Deadline
from app.domain.log.offset_spec import At, Earliest, Last, Latest, Since
from app.domain.log.record import Record
from app.errors.log import CursorExpired, OffsetAboveLogEnd, OffsetBelowLogStart, UnknownTopicOrPartition
from tests.broker.log.silent_node import SilentNode
from tests.broker.node import parked

if TYPE_CHECKING:
    from app.api.services import Services
    from app.domain.log.cursor import Cursor
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

PAGE = PageSize(500, 1_048_576, 1)
EARLIEST = Earliest()
LONG_MS = 20_000


@pytest.fixture
async def services(migrated_url: str, serve: Serve) -> Services:
    """The services of an application with a topic `orders` of two partitions, on either database."""
    application, _ = await serve(database_url=migrated_url)
    await application.services.topics.create("orders", TopicRequest(2, {}))
    return application.services


async def produce(services: Services, *values: bytes, partition: int = 0, timestamp_ms: int = -1) -> None:
    await services.producer.produce(produce_request(*values, partition=partition, timestamp_ms=timestamp_ms))


def produce_request(*values: bytes, partition: int = 0, timestamp_ms: int = -1) -> ProduceRequest:
    records = [Record(partition, timestamp_ms, None, value, None, 0) for value in values]
    return ProduceRequest("orders", None, records, 10 * len(values))


def values(page: PartitionPage | TopicPage) -> list[bytes | None]:
    if isinstance(page, TopicPage):
        return [record.value for _, record in page.records]
    return [record.value for record in page.records]


def fetch(services: Services, size: PageSize = PAGE, start: Any = EARLIEST) -> asyncio.Task[PartitionPage]:
    deadline = Deadline(LONG_MS)
    return asyncio.create_task(services.fetcher.fetch("orders", 0, start, size, None, deadline))


def fetch_topic(services: Services, start: Any = EARLIEST, size: PageSize = PAGE) -> asyncio.Task[Any]:
    return asyncio.create_task(services.fetcher.fetch_topic("orders", start, size, None, Deadline(LONG_MS)))


async def test_a_waiting_read_is_answered_by_an_append(services: Services) -> None:
    reading = fetch(services)
    await parked(services)

    await produce(services, b"1")

    assert values(await reading) == [b"1"]
    assert services.signals.waiting == 0


async def test_an_append_to_another_partition_does_not_end_the_wait(services: Services) -> None:
    reading = fetch(services)
    await parked(services)

    await produce(services, b"other", partition=1)
    await parked(services)
    await produce(services, b"1")

    assert values(await reading) == [b"1"]


async def test_latest_is_resolved_before_the_wait(services: Services) -> None:
    await produce(services, b"old")
    reading = fetch(services, start=Latest())
    await parked(services)

    await produce(services, b"new")

    page = await reading
    assert (values(page), page.start_offset, page.next_offset) == ([b"new"], 1, 2)


async def test_a_read_waits_for_min_bytes(services: Services) -> None:
    reading = fetch(services, PageSize(500, 1_048_576, 5))
    await produce(services, b"12")
    await parked(services)

    await produce(services, b"345")

    assert values(await reading) == [b"12", b"345"]


async def test_a_full_page_is_returned_without_a_wait_for_min_bytes(services: Services) -> None:
    await produce(services, b"1", b"2", b"3")

    page = await fetch(services, PageSize(2, 1_048_576, 1000))

    assert values(page) == [b"1", b"2"]


async def test_an_empty_record_counts_as_one_byte(services: Services) -> None:
    await produce(services, b"")

    assert values(await fetch(services)) == [b""]


async def test_at_the_deadline_a_read_returns_the_records_so_far(services: Services) -> None:
    await produce(services, b"1")
    size = PageSize(500, 1_048_576, 1000)

    page = await services.fetcher.fetch("orders", 0, Earliest(), size, None, Deadline(30))

    assert (values(page), page.next_offset, page.log_end_offset) == ([b"1"], 1, 1)


async def test_closing_ends_all_waits_and_prevents_new_ones(services: Services) -> None:
    reading = [fetch(services), fetch(services), fetch_topic(services)]
    await parked(services, 3)

    services.signals.close()

    assert [values(page if hasattr(page, "records") else page[0]) for page in await asyncio.gather(*reading)] == [
        []
    ] * 3
    assert values(await fetch(services)) == []


async def test_a_topic_deleted_while_reads_wait_ends_them(services: Services) -> None:
    reading = [fetch(services), fetch_topic(services)]
    await parked(services, 2)

    await services.topics.delete("orders")

    outcomes = await asyncio.gather(*reading, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnknownTopicOrPartition] * 2


async def test_a_read_that_waits_does_not_continue_in_a_topic_created_again(services: Services) -> None:
    reading = [fetch(services), fetch_topic(services)]
    await parked(services, 2)
    deleting = asyncio.create_task(services.topics.delete("orders"))
    creating = asyncio.create_task(_create_again(services))

    outcomes = await asyncio.gather(*reading, return_exceptions=True)
    await asyncio.gather(deleting, creating)

    assert [type(outcome) for outcome in outcomes] == [UnknownTopicOrPartition] * 2
    await produce(services, b"new")
    assert values(await fetch(services)) == [b"new"]


async def _create_again(services: Services) -> None:
    async with asyncio.timeout(LONG_MS / 1000):
        while not (await services.topics.create("orders", TopicRequest(2, {})))[1]:
            pass


async def test_a_read_with_a_deleted_topic_in_the_cache_finds_the_new_topic(services: Services) -> None:
    other = SilentNode(services)
    await services.topics.get("orders")

    async def replace_topic() -> None:
        await other.replace_topic("orders", 2)
        await other.produce(produce_request(b"new"))

    await replace_topic()
    assert values(await fetch(services)) == [b"new"]
    await replace_topic()
    assert values((await fetch_topic(services))[0]) == [b"new"]
    await replace_topic()
    await produce(services, b"newer")
    assert values(await fetch(services)) == [b"new", b"newer"]


async def test_a_partition_added_while_a_read_of_the_topic_waits_is_read_from_its_start(services: Services) -> None:
    await produce(services, b"old")
    reading = fetch_topic(services, Latest())
    await parked(services)

    await services.topics.change("orders", TopicRequest(4, {}))
    await produce(services, b"new", partition=3)

    page, cursor = await reading
    assert values(page) == [b"new"]
    assert cursor.offsets == [1, 0, 0, 1]


async def test_a_read_finds_a_partition_that_the_cached_topic_does_not_have(services: Services) -> None:
    other = SilentNode(services)
    await services.topics.get("orders")
    await other.topics.change("orders", TopicRequest(3, {}))
    await other.produce(produce_request(b"new", partition=2))

    page = await services.fetcher.fetch("orders", 2, Earliest(), PAGE)

    assert values(page) == [b"new"]


async def test_a_cursor_of_a_deleted_topic_has_expired(services: Services) -> None:
    _, cursor = await services.fetcher.fetch_topic("orders", Earliest(), PAGE)
    await services.topics.delete("orders")

    with pytest.raises(CursorExpired):
        await services.fetcher.fetch_topic("orders", cursor, PAGE)
    await services.topics.create("orders", TopicRequest(2, {}))
    with pytest.raises(CursorExpired):
        await services.fetcher.fetch_topic("orders", cursor, PAGE)


async def test_each_kind_of_offset_spec_is_resolved(services: Services) -> None:
    for timestamp_ms, value in ((30, b"30"), (10, b"10"), (50, b"50"), (40, b"40")):
        await produce(services, value, timestamp_ms=timestamp_ms)

    async def read_from(start: Any) -> list[bytes | None]:
        return values(await services.fetcher.fetch("orders", 0, start, PAGE))

    assert await read_from(Earliest()) == [b"30", b"10", b"50", b"40"]
    assert await read_from(Latest()) == []
    assert await read_from(Last(2)) == [b"50", b"40"]
    assert await read_from(Last(9)) == [b"30", b"10", b"50", b"40"]
    assert await read_from(At(3)) == [b"40"]
    assert await read_from(Since(31)) == [b"50", b"40"]
    assert await read_from(Since(51)) == []


async def test_an_offset_out_of_the_bounds_is_refused_with_them_or_reset(services: Services) -> None:
    await produce(services, b"0", b"1", b"2")
    await services.topics.delete_before("orders", 0, 1)
    bounds = {"partition": 0, "log_start_offset": 1, "log_end_offset": 3}

    for offset, kind in ((0, OffsetBelowLogStart), (4, OffsetAboveLogEnd)):
        with pytest.raises(kind) as error:
            await services.fetcher.fetch("orders", 0, At(offset), PAGE)
        assert error.value.facts == bounds
        earliest = await services.fetcher.fetch("orders", 0, At(offset), PAGE, "earliest")
        latest = await services.fetcher.fetch("orders", 0, At(offset), PAGE, "latest")
        assert (values(earliest), values(latest), latest.next_offset) == ([b"1", b"2"], [], 3)


async def test_a_page_of_the_topic_is_merged_by_time_and_keeps_the_order_of_each_partition(services: Services) -> None:
    for timestamp_ms, partition in ((10, 0), (40, 0), (20, 0), (15, 1), (30, 1)):
        await produce(services, b"%d" % timestamp_ms, partition=partition, timestamp_ms=timestamp_ms)

    page, cursor = await services.fetcher.fetch_topic("orders", Earliest(), PAGE)

    assert values(page) == [b"10", b"15", b"30", b"40", b"20"]
    assert cursor.offsets == [3, 2]


async def test_each_partition_with_unread_records_has_a_share_of_the_page(services: Services) -> None:
    await produce(services, *[b"old"] * 50, timestamp_ms=10)
    await produce(services, b"young", partition=1, timestamp_ms=20)

    page, cursor = await services.fetcher.fetch_topic("orders", Earliest(), PageSize(10, 1_048_576, 1))

    assert len(page.records) == 10
    assert cursor.offsets == [9, 1]


async def test_a_reader_of_the_topic_receives_each_record_once_during_concurrent_appends(services: Services) -> None:
    writers, each = 5, 20
    total = writers * each * 2

    async def write(number: int) -> None:
        for index in range(each):
            value = b"%d.%d" % (number, index)
            await produce(services, value, value, partition=index % 2)

    async def read() -> tuple[list[tuple[int, int]], Cursor]:
        seen: list[tuple[int, int]] = []
        start: Any = Earliest()
        while len(seen) < total:
            page, start = await services.fetcher.fetch_topic(
                "orders", start, PageSize(7, 1_048_576, 1), None, Deadline(LONG_MS)
            )
            seen += [(partition, record.offset) for partition, record in page.records]
        return seen, start

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write(number) for number in range(writers)))
    seen, cursor = await reading

    assert cursor.offsets == [total // 2, total // 2]
    for partition in (0, 1):
        assert [offset for number, offset in seen if number == partition] == list(range(total // 2))
