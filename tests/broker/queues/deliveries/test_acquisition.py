"""Which records an acquire finds, and how much it reads to find them."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from app.domain.queues.delivery import Acquire
from app.domain.queues.in_flight import AcknowledgeType
from app.storage.db.tables import OFFSET_BITS
from tests.broker.node import Node
from tests.broker.queues.jobs import (
    FAR_MS,
    LARGE,
    acquire,
    create,
    end_delays,
    offsets,
    produce_keyed,
    settle,
    state,
    use_quota_of_delayed_records,
)

if TYPE_CHECKING:
    from app.storage.db.transaction import Tx

pytestmark = pytest.mark.anyio

ORDERINGS = pytest.mark.parametrize("ordering", ["none", "key"])


@ORDERINGS
async def test_a_record_is_found_behind_more_delayed_records_than_one_transaction_admits(
    node: Node, ordering: str
) -> None:
    await create(node, ordering=ordering)
    for start in range(0, 3_000, 1_000):
        await produce_keyed(node, *(b"%d" % number for number in range(start, start + 1_000)), deliver_at_ms=FAR_MS)
    await produce_keyed(node, b"free")

    assert offsets(await acquire(node)) == [3_000]


async def test_thousands_of_records_behind_a_delayed_one_of_their_key_hold_no_other_key_up(node: Node) -> None:
    await create(node, ordering="key")
    for _ in range(5):
        await produce_keyed(node, *([b"stuck"] * 1_000))
    await produce_keyed(node, b"free")
    stuck = await acquire(node)
    await settle(node, stuck, AcknowledgeType.RELEASE, delay_ms=3_600_000)

    free = await acquire(node, 10)
    assert offsets(free) == [5_000]
    await settle(node, free, AcknowledgeType.ACCEPT)
    found = await state(node)
    assert (found.available, found.delayed, found.blocked) == (4_999, 1, True)

    await end_delays(node)
    for offset in range(4):
        delivered = await acquire(node, 10)
        assert offsets(delivered) == [offset]
        await settle(node, delivered, AcknowledgeType.ACCEPT)


async def test_a_record_behind_a_delayed_one_expires_if_retention_deletes_it(node: Node) -> None:
    await create(node, ordering="key")
    for _ in range(3):
        await produce_keyed(node, *([b"stuck"] * 1_000))
    await settle(node, await acquire(node), AcknowledgeType.RELEASE, delay_ms=3_600_000)
    assert await acquire(node) == []
    await node.services.topics.delete_before("orders", 0, 2_998)
    await end_delays(node)

    for offset in (0, 2_998, 2_999):
        delivered = await acquire(node, 10)
        assert offsets(delivered) == [offset]
        await settle(node, delivered, AcknowledgeType.ACCEPT)
    found = await state(node)
    assert (found.available, found.accepted, found.expired) == (0, 3, 2_997)


@pytest.mark.parametrize("ordering", ["none", "key", "partition"])
async def test_records_that_compaction_deleted_are_skipped(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    await produce_keyed(node, b"a", b"b", b"c", b"d")
    await settle(node, await acquire(node, 4), AcknowledgeType.RELEASE)
    topic = await node.services.topics.get("orders")

    def compact(tx: Tx) -> None:
        first = topic.partition_ids[0] << OFFSET_BITS
        tx.connection.exec_driver_sql(f"DELETE FROM records WHERE record_id IN ({first}, {first + 1})")

    await node.storage.write(compact)

    assert offsets(await acquire(node)) == [2]


@ORDERINGS
async def test_a_delayed_record_above_the_limit_does_not_hide_the_records_before_it(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    await use_quota_of_delayed_records(node.storage, left=0)
    await produce_keyed(node, b"free")
    await produce_keyed(node, b"later", deliver_at_ms=FAR_MS)

    assert offsets(await acquire(node)) == [0]


@ORDERINGS
async def test_concurrent_acquires_share_the_delayed_records_that_are_due(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    await produce_keyed(node, *(b"%d" % number for number in range(100)), deliver_at_ms=FAR_MS)
    assert await acquire(node) == []
    await end_delays(node)

    small = await asyncio.gather(*(acquire(node, max_bytes=1) for _ in range(3)))
    large = await asyncio.gather(*(acquire(node) for _ in range(80)))

    assert [len(each) for each in small + large] == [1] * 83


async def test_a_delayed_record_that_its_key_blocks_does_not_hide_other_keys(node: Node) -> None:
    await create(node, ordering="key")
    await produce_keyed(node, b"a")
    assert offsets(await acquire(node)) == [0]
    await produce_keyed(node, b"a", b"b", deliver_at_ms=FAR_MS)
    assert await acquire(node) == []
    await end_delays(node)

    assert offsets(await acquire(node)) == [2]


@pytest.mark.parametrize("delay_ms", [0, 1])
async def test_an_acquire_reads_little_more_than_max_bytes(sqlite_url: str, delay_ms: int) -> None:
    node = Node(sqlite_url)
    try:
        await create(node)
        for _ in range(40):
            await node.produce(LARGE)
        await settle(node, await acquire(node, 20) + await acquire(node, 20), AcknowledgeType.RELEASE, delay_ms)
        await end_delays(node)
        tracemalloc.start()

        answer = await node.services.deliveries.acquire("jobs", Acquire(40, 1_000_000))

        assert len(answer.deliveries) in {1, 2}
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
        node.storage.close()
