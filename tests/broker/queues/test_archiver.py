"""Archiving: dead letters, their errors, full disks, and the order of share partitions."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from app.broker.log.topics import TopicRequest
from app.broker.queues import archiver
from app.broker.queues.queues import QueueRequest
from app.domain.log.topic import TopicConfig
from app.domain.queues.in_flight import AcknowledgeType
from app.storage.queues import share_partitions
from app.storage.queues.share_partitions import SharePartitionKey
from tests.broker.node import Node
from tests.broker.queues.full_storage import FullStorage
from tests.broker.queues.jobs import (
    LARGE,
    acquire,
    archive,
    archive_postponed,
    create,
    end_delays,
    end_of,
    produce_keyed,
    settle,
    state,
)

if TYPE_CHECKING:
    from app.domain.queues.delivery import Delivery

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("delayed", [False, True], ids=["in flight", "delayed"])
async def test_archiving_reads_a_bounded_number_of_bytes_at_once(sqlite_url: str, delayed: bool) -> None:
    node = Node(sqlite_url)
    try:
        await create(node, "dead", max_delivery_count=2)
        for _ in range(45):
            await node.produce(LARGE)
        held = await acquire(node, 30) + await acquire(node, 30)
        if delayed:
            await settle(node, held, AcknowledgeType.RELEASE, 60_000)
            await end_delays(node)
            held = await acquire(node, 64) + await acquire(node, 64)
        await settle(node, held, AcknowledgeType.REJECT)
        del held
        tracemalloc.start()

        await archive(node)

        assert tracemalloc.get_traced_memory()[1] < 30_000_000
        assert (await state(node)).archived == await end_of(node, "dead") == 45
    finally:
        tracemalloc.stop()
        node.storage.close()


async def test_archiving_continues_until_all_records_are_archived(node: Node) -> None:
    await create(node, "dead")
    await node.produce(*(b"%d" % number for number in range(250)))
    held = await acquire(node, 250)
    await settle(node, held[:120], AcknowledgeType.RELEASE, 60_000)
    await end_delays(node)
    await settle(node, held[120:] + await acquire(node, 64) + await acquire(node, 64), AcknowledgeType.REJECT)

    await archive(node)

    assert (await state(node)).archived == await end_of(node, "dead") == 250


async def hold(node: Node, number: int, *, delayed: bool) -> list[Delivery]:
    """Acquire records; `delayed` ones were delayed before, each in a row of its own."""
    held = await acquire(node, number)
    if delayed:
        await settle(node, held, AcknowledgeType.RELEASE, 60_000)
        await end_delays(node)
        held = await acquire(node, number)
    return held


@pytest.mark.parametrize("delayed", [False, True], ids=["in flight", "delayed"])
async def test_on_a_full_disk_records_that_need_a_dead_letter_are_kept(node: Node, delayed: bool) -> None:
    await create(node, "dead")
    await node.produce(b"1", b"2", b"3")
    held = await hold(node, 3, delayed=delayed)
    storage = FullStorage(node.storage)
    await settle(node, held, AcknowledgeType.REJECT)

    await archive(node, storage)

    assert await end_of(node, "dead") == 0
    assert (
        await state(node)
    ).dead_letter_error == "the database has no space left; archiving continues when space is available"
    assert await acquire(node, 3) == []
    await archive_postponed(node)
    assert await end_of(node, "dead") == (await state(node)).archived == 3
    assert (await state(node)).dead_letter_error is None


async def test_on_a_full_disk_archiving_without_a_dead_letter_topic_continues(node: Node) -> None:
    await create(node)
    await node.produce(b"1")
    await settle(node, await acquire(node, 1), AcknowledgeType.REJECT)

    await archive(node, FullStorage(node.storage))

    assert ((await state(node)).archived, (await state(node)).dead_letter_error) == (1, None)


@pytest.mark.parametrize("delayed", [False, True], ids=["in flight", "delayed"])
async def test_the_error_of_a_dead_letter_is_shown_until_its_record_has_ended(node: Node, delayed: bool) -> None:
    await node.services.topics.create("dead", TopicRequest(1, {"max_message_bytes": 10}))
    await create(node, "dead")
    await node.produce(b'"a long one"', b"2", b"3")
    held = await hold(node, 3, delayed=delayed)
    await settle(node, held, AcknowledgeType.REJECT)

    await archive(node)

    assert ((await state(node)).archived, (await state(node)).delayed) == (2, 1)
    assert "max_message_bytes of dead is 10" in str((await state(node)).dead_letter_error)
    await node.produce(b"4")
    await settle(node, await acquire(node, 1), AcknowledgeType.REJECT)
    await archive(node)
    assert "max_message_bytes of dead is 10" in str((await state(node)).dead_letter_error)

    await node.services.queues.purge("jobs")
    assert (await state(node)).dead_letter_error is None


async def test_share_partitions_that_are_due_longest_are_archived_first(node: Node) -> None:
    await create(node)
    await node.create("other", 1)
    await node.services.queues.create("later-made", QueueRequest("other", {}))
    first, last = [(await node.services.queues.get(name)).queue_id for name in ("jobs", "later-made")]
    await change(node, f"archive_at_ms = 2 WHERE queue_id = {first}")
    await change(node, f"archive_at_ms = 3, delayed_archive_at_ms = 1 WHERE queue_id = {last}")

    found = [await node.storage.read(share_partitions.due, limit) for limit in (1, 10)]

    assert [[queue_id for queue_id, _ in each] for each in found] == [[last], [last, first]]


async def change(node: Node, assignments: str) -> None:
    await node.storage.write(
        lambda tx: tx.connection.exec_driver_sql(f"UPDATE queue_partitions SET {assignments}").rowcount
    )


async def test_a_rejected_record_below_the_log_start_still_gets_its_dead_letter(node: Node) -> None:
    await create(node, "dead")
    await produce_keyed(node, b"a", b"b")
    held = await acquire(node, 2)
    await node.services.topics.delete_before("orders", 0, 2)
    await settle(node, held, AcknowledgeType.REJECT)

    key = await share_partition_key(node)

    done = await node.storage.write(archiver.archive, key, TopicConfig())

    (after,) = await node.storage.read(share_partitions.list_, key.queue_id)
    assert (done.settled, after.archived, after.expired) == (2, 2, 0)


async def test_a_lower_max_delivery_count_archives_records_delivered_that_often(node: Node) -> None:
    await create(node, max_delivery_count=5, lock_duration_ms=1_000)
    await produce_keyed(node, b"a")
    for _ in range(2):
        await settle(node, await acquire(node), AcknowledgeType.RELEASE)
    (held,) = await acquire(node)
    await node.services.queues.change("jobs", QueueRequest(None, {"max_delivery_count": 2}))
    key = await share_partition_key(node)
    assert await node.storage.read(share_partitions.due, 10) == [key]
    await node.storage.write(archiver.archive, key, TopicConfig())
    (before,) = await node.storage.read(share_partitions.list_, key.queue_id)
    assert before.archive_at_ms == held.locked_until_ms

    await node.storage.write(archiver.archive, key, TopicConfig(), lambda _: held.locked_until_ms)

    (after,) = await node.storage.read(share_partitions.list_, key.queue_id)
    assert (after.entries, after.archived) == ({}, 1)


async def share_partition_key(node: Node) -> SharePartitionKey:
    (partition_id,) = (await node.services.topics.get("orders")).partition_ids
    return SharePartitionKey((await node.services.queues.get("jobs")).queue_id, partition_id)
