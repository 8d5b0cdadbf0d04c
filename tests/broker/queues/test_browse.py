"""Browsing the records of a queue page by page, and how much it reads."""

from __future__ import annotations

import tracemalloc

import pytest

from app.broker.queues.browse import StateName, browse
from app.domain.queues.in_flight import AcknowledgeType
from tests.broker.node import Node
from tests.broker.queues.jobs import LARGE, acquire, archive, create, end_delays, settle

pytestmark = pytest.mark.anyio


def joined(pages: list[list[int]]) -> list[int]:
    return [offset for page in pages for offset in page]


async def browsed(node: Node, state: StateName, limit: int) -> list[list[int]]:
    """Return the offsets of all pages."""
    info = await node.services.queues.get("jobs")
    pages, start = [], (0, 0)
    while True:
        page = await node.storage.read(browse, info, state, start, limit)
        pages.append([each.record.offset for each in page.records])
        if page.next_start is None:
            return pages
        start = page.next_start


@pytest.mark.parametrize("state", ["available", "acquired", "delayed"])
async def test_a_page_that_ends_at_its_byte_limit_is_continued_by_the_next(node: Node, state: StateName) -> None:
    await create(node)
    for _ in range(10):
        await node.produce(LARGE)
    if state != "available":
        held = await acquire(node, 10)
        if state == "delayed":
            await settle(node, held, AcknowledgeType.RELEASE, 60_000)

    assert await browsed(node, state, 100) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert await browsed(node, state, 3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


async def test_archived_records_that_retention_deleted_are_skipped(node: Node) -> None:
    await create(node)
    await node.produce(*(b"%d" % number for number in range(50)))
    await settle(node, await acquire(node, 50), AcknowledgeType.REJECT)
    await archive(node)

    await node.services.topics.delete_before("orders", 0, 20)

    assert joined(await browsed(node, "archived", 10)) == list(range(20, 50))


async def test_in_flight_delayed_archived_and_new_records_are_merged_by_offset(node: Node) -> None:
    await create(node)
    await node.produce(*(b"%d" % number for number in range(30)))
    held = await acquire(node, 20)
    info = await node.services.queues.get("jobs")
    await settle(node, held[5:10], AcknowledgeType.RELEASE, 60_000)
    await end_delays(node)
    await settle(node, held[:3], AcknowledgeType.RELEASE)
    await settle(node, held[12:14], AcknowledgeType.REJECT)
    await archive(node)
    await settle(node, held[10:12], AcknowledgeType.REJECT)

    assert joined(await browsed(node, "available", 4)) == [0, 1, 2, *range(5, 10), *range(20, 30)]
    assert joined(await browsed(node, "acquired", 4)) == [3, 4, *range(14, 20)]
    assert joined(await browsed(node, "archived", 1)) == [10, 11, 12, 13]
    assert (await node.storage.read(browse, info, "acquired", (0, 15), 2)).next_start == (0, 17)


@pytest.mark.parametrize("state", ["acquired", "delayed"])
async def test_browsing_reads_little_more_than_it_returns(sqlite_url: str, state: StateName) -> None:
    node = Node(sqlite_url)
    try:
        await create(node)
        for _ in range(40):
            await node.produce(LARGE)
        held = await acquire(node, 20) + await acquire(node, 20)
        if state == "delayed":
            await settle(node, held, AcknowledgeType.RELEASE, 60_000)
        del held
        info = await node.services.queues.get("jobs")
        tracemalloc.start()

        assert len((await node.storage.read(browse, info, state, (0, 0), 1_000)).records) == 4

        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
        node.storage.close()
