"""Queues that are ordered by partition: at most one record of a partition is in flight."""

from __future__ import annotations

import asyncio

import pytest

from app.broker.waiting.deadline import Deadline
from app.domain.queues.delivery import Acquire
from app.domain.queues.in_flight import AcknowledgeType
from tests.broker.node import Node
from tests.broker.queues.jobs import FAR_MS, acquire, archive, create, end_delays, offsets, produce_keyed, settle, state

pytestmark = pytest.mark.anyio


async def test_one_record_is_in_flight_and_the_next_follows_when_it_has_ended(node: Node) -> None:
    await create(node, ordering="partition")
    await produce_keyed(node, b"a", None, b"b")
    held = await acquire(node, 10)
    assert offsets(held) == [0]
    assert await acquire(node, 10) == []
    assert (await state(node)).blocked is True

    await settle(node, held, AcknowledgeType.ACCEPT)

    assert (await state(node)).blocked is False
    assert offsets(await acquire(node, 10)) == [1]


async def test_a_released_or_delayed_record_blocks_its_partition(node: Node) -> None:
    await create(node, ordering="partition")
    await produce_keyed(node, b"a", b"b")
    await settle(node, await acquire(node, 10), AcknowledgeType.RELEASE)
    released = await acquire(node, 10)
    assert offsets(released) == [0]
    await settle(node, released, AcknowledgeType.RELEASE, delay_ms=100_000)
    assert await acquire(node, 10) == []
    assert ((await state(node)).available, (await state(node)).delayed, (await state(node)).blocked) == (1, 1, True)
    await end_delays(node)

    again = await acquire(node, 10)

    assert offsets(again) == [0]
    await settle(node, again, AcknowledgeType.ACCEPT)
    assert offsets(await acquire(node, 10)) == [1]


async def test_a_record_with_a_delivery_time_blocks_its_partition(node: Node) -> None:
    await create(node, ordering="partition")
    await produce_keyed(node, b"a", b"b", deliver_at_ms=FAR_MS)
    await produce_keyed(node, b"c")

    assert await acquire(node, 10) == []
    assert ((await state(node)).delayed, (await state(node)).blocked) == (1, True)


async def test_the_next_record_follows_an_archived_one(node: Node) -> None:
    await create(node, ordering="partition")
    await produce_keyed(node, b"a", b"b")
    await settle(node, await acquire(node, 10), AcknowledgeType.REJECT)
    assert await acquire(node, 10) == []

    await archive(node)

    assert offsets(await acquire(node, 10)) == [1]


async def test_an_accept_wakes_an_acquire_that_waits_for_the_partition(node: Node) -> None:
    await create(node, ordering="partition")
    await produce_keyed(node, b"a", b"b")
    held = await acquire(node)
    waiting = asyncio.create_task(node.services.deliveries.acquire("jobs", Acquire(1, 1 << 25), Deadline(20_000)))
    assert not (await state(node)).accepted

    await settle(node, held, AcknowledgeType.ACCEPT)

    async with asyncio.timeout(10):
        assert offsets((await waiting).deliveries) == [1]
