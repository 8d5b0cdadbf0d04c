"""What a worker does when it takes over a queue: free the locks, skip records, acquire only what was admitted."""

from __future__ import annotations

import pytest

from app.broker.queues.deliveries.delivery_transaction import DeliveryBatch, deliver
from app.domain.queues.delivery import Acquire, Acquired
from app.domain.queues.in_flight import AcknowledgeType
from app.errors.queues import UnknownQueue
from tests.broker.node import Node
from tests.broker.queues.jobs import FAR_MS, acquire, create, end_delays, offsets, produce_keyed, settle, state

pytestmark = pytest.mark.anyio

ORDERINGS = pytest.mark.parametrize("ordering", ["none", "key", "partition"])


async def acquire_again(node: Node) -> list[int]:
    request = Acquire(10, 1 << 25, admit_new=False)
    return offsets((await node.services.deliveries.acquire("jobs", request)).deliveries)


@ORDERINGS
async def test_released_locks_make_records_available_with_their_delivery_counts(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering, max_delivery_count=1)
    await produce_keyed(node, b"a")
    (lost,) = await acquire(node)

    assert await node.services.queues.release_locks("jobs") == 1

    assert ((await state(node)).available, (await state(node)).acquired) == (1, 0)
    (again,) = await acquire(node)
    assert (again.delivery_id.offset, again.delivery_id.delivery_count) == (0, 2)
    with pytest.raises(AssertionError):
        await settle(node, [lost], AcknowledgeType.ACCEPT)


async def test_the_locks_of_records_that_were_delayed_are_released_too(node: Node) -> None:
    await create(node)
    await produce_keyed(node, b"a", b"b", deliver_at_ms=FAR_MS)
    assert await acquire(node) == []
    await end_delays(node)
    assert len(await acquire(node, 10)) == 2

    assert await node.services.queues.release_locks("jobs") == 2

    assert [each.delivery_id.delivery_count for each in await acquire(node, 10)] == [2, 2]


@ORDERINGS
async def test_a_skip_archives_acquired_delayed_and_new_records_below_the_offset(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    await produce_keyed(node, b"a", b"b")
    await settle(node, (await acquire(node))[:1], AcknowledgeType.RELEASE, delay_ms=100_000)
    await acquire(node)
    await produce_keyed(node, b"a", b"a", b"c")
    partition_id = (await node.services.topics.get("orders")).partition_ids[0]

    assert await node.services.queues.skip("jobs", partition_id, 3) == 3

    assert await node.services.queues.skip("jobs", partition_id, 3) == 0
    counts = await state(node)
    assert (counts.available, counts.acquired, counts.delayed, counts.archived) == (2, 0, 0, 3)
    assert offsets(await acquire(node)) == [3]


async def test_a_skip_ends_at_the_log_end_offset(node: Node) -> None:
    await create(node)
    await produce_keyed(node, b"a")
    partition_id = (await node.services.topics.get("orders")).partition_ids[0]
    assert await node.services.queues.skip("jobs", partition_id, 100) == 1
    await produce_keyed(node, b"b")

    assert offsets(await acquire(node)) == [1]
    with pytest.raises(UnknownQueue):
        await node.services.queues.skip("jobs", partition_id + 1_000_000, 1)


@ORDERINGS
async def test_an_acquire_that_admits_nothing_new_finds_released_and_due_records_only(
    node: Node, ordering: str
) -> None:
    await create(node, ordering=ordering)
    await produce_keyed(node, b"a", b"b")
    assert await acquire_again(node) == []
    await settle(node, (await acquire(node))[:1], AcknowledgeType.RELEASE)
    first = await acquire_again(node)
    assert first[0] == 0
    await node.services.queues.release_locks("jobs")
    await settle(node, (await acquire(node))[:1], AcknowledgeType.RELEASE, delay_ms=100_000)
    assert 0 not in await acquire_again(node)
    await end_delays(node)

    assert await acquire_again(node) == [0]


async def test_in_one_transaction_only_the_acquire_that_may_admits_new_records(node: Node) -> None:
    await create(node)
    await produce_keyed(node, b"a")
    await settle(node, await acquire(node), AcknowledgeType.RELEASE)
    await produce_keyed(node, b"b", b"c")
    queue, topic = await node.services.queues.route("jobs", refresh=False)
    requests = [Acquire(2, 1 << 25), Acquire(2, 1 << 25, admit_new=False)]

    done = await node.storage.write(deliver, DeliveryBatch(queue, topic, requests, 0, wait=False))

    assert [offsets(each.deliveries) for each in done.answers if isinstance(each, Acquired)] == [[1, 2], [0]]
