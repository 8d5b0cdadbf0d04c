"""Records that a queue holds while retention, a deletion or compaction deletes their rows."""

from __future__ import annotations

import pytest

from app.broker.log.topics import TopicRequest
from app.broker.queues.queues import QueueRequest
from app.broker.queues.topic_queues import TopicQueues
from app.domain.log.topic import TopicConfig
from app.domain.queues.delivery import Acquire
from app.domain.queues.in_flight import AcknowledgeType
from app.tasks.retention import Retention
from tests.broker.node import Node
from tests.broker.queues.jobs import (
    LARGE,
    acquire,
    archive,
    create,
    end_delays,
    end_of,
    offsets,
    produce_keyed,
    settle,
    state,
)

pytestmark = pytest.mark.anyio


def task(node: Node, **defaults: int) -> Retention:
    return Retention(node.storage, TopicConfig(**defaults), node.services.clock, (TopicQueues(),))  # type: ignore[arg-type] # sizes


async def delete_all_rows(node: Node, kept: int = 0) -> None:
    """Delete the rows below the log start, and check how many others there are."""
    while await task(node).purge():
        pass
    assert await count(node, "records") == kept


async def count(node: Node, table: str) -> int:
    statement = f"SELECT count(*) FROM {table}"
    return int(await node.storage.read(lambda tx: tx.connection.exec_driver_sql(statement).scalar_one()))


async def test_a_rejected_record_gets_its_dead_letter_after_its_row_is_deleted(node: Node) -> None:
    await create(node, "dead")
    await node.produce(b"1", b"2")
    held = await acquire(node, 2)
    await settle(node, held[:1], AcknowledgeType.REJECT)
    await node.services.topics.delete_before("orders", 0, 2)
    await delete_all_rows(node)
    await settle(node, held[1:], AcknowledgeType.REJECT)

    await archive(node)

    assert ((await state(node)).archived, (await state(node)).expired) == (2, 0)
    assert await end_of(node, "dead") == 2


async def test_a_released_record_returns_after_its_row_is_deleted(node: Node) -> None:
    await create(node)
    await node.produce(b"1", b"2", b"3", b"4")
    held = await acquire(node, 4)
    await task(node, retention_bytes=0).raise_log_starts()
    await settle(node, held[:1], AcknowledgeType.RELEASE)
    await delete_all_rows(node, 1)
    await settle(node, held[1:2], AcknowledgeType.RELEASE)
    await settle(node, held[2:3], AcknowledgeType.RELEASE, 60_000)
    first = await acquire(node, 3)
    assert offsets(first) == [0, 1]
    await settle(node, first + held[3:], AcknowledgeType.ACCEPT)

    await end_delays(node)

    (third,) = await acquire(node, 3)
    assert (third.record.offset, third.record.value, third.delivery_id.delivery_count) == (2, b"3", 2)


async def test_a_record_whose_lock_has_expired_is_delivered_again_after_its_row_is_deleted(node: Node) -> None:
    await create(node)
    await node.produce(b"1", b"2")
    await acquire(node, 1)
    await node.services.topics.delete_before("orders", 0, 2)
    await delete_all_rows(node)
    assert await acquire(node) == []

    await end_delays(node)

    assert offsets(await acquire(node, 2)) == [0]
    assert (await state(node)).expired == 1


async def test_the_last_delivery_is_archived_when_its_lock_expires_after_its_row_is_deleted(node: Node) -> None:
    await create(node, "dead", max_delivery_count=1)
    await node.produce(b"1")
    await acquire(node, 1)
    await node.services.topics.delete_before("orders", 0, 1)
    await delete_all_rows(node)
    statement = "UPDATE queue_partitions SET delayed_archive_at_ms = 1"
    await node.storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)
    await end_delays(node)

    await archive(node)

    assert await end_of(node, "dead") == 1


async def test_a_record_that_compaction_supersedes_gets_its_dead_letter(node: Node) -> None:
    await create(node, "dead")
    await node.services.topics.change("orders", TopicRequest(None, {"cleanup_policy": "compact"}))
    await produce_keyed(node, b"a", b"a", b"a")
    held = await acquire(node, 3)
    await settle(node, held[:1], AcknowledgeType.REJECT)
    await task(node).compact()
    assert await count(node, "records") == 1
    await settle(node, held[1:], AcknowledgeType.REJECT)

    await archive(node)

    assert await end_of(node, "dead") == 3
    assert (await state(node)).expired == 0


async def test_a_dead_letter_refused_after_its_row_is_deleted_is_kept(node: Node) -> None:
    await create(node, "dead")
    await node.services.topics.change("dead", TopicRequest(None, {"max_message_bytes": 1}))
    await node.produce(b"123")
    held = await acquire(node)
    await node.services.topics.delete_before("orders", 0, 1)
    await settle(node, held, AcknowledgeType.REJECT)
    await archive(node)
    await delete_all_rows(node)

    await end_delays(node)

    assert offsets(await acquire(node)) == [0]


async def test_all_queues_over_a_topic_keep_what_they_hold(node: Node) -> None:
    await create(node)
    await node.produce(b"1")
    await node.services.queues.create("others", QueueRequest("orders", {}))
    for queue in ("jobs", "others"):
        (held,) = (await node.services.deliveries.acquire(queue, Acquire(1, 1_000))).deliveries
        assert held.record.value == b"1"
    await node.services.topics.delete_before("orders", 0, 1)
    await delete_all_rows(node)

    await end_delays(node)

    for queue in ("jobs", "others"):
        (held,) = (await node.services.deliveries.acquire(queue, Acquire(1, 1_000))).deliveries
        assert held.record.value == b"1"


async def test_large_records_are_copied_in_several_passes(sqlite_url: str) -> None:
    node = Node(sqlite_url)
    try:
        await create(node)
        for _ in range(20):
            await node.produce(LARGE)
        held = await acquire(node, 20)
        await node.services.topics.delete_before("orders", 0, 20)

        assert await task(node).purge() is True

        assert await count(node, "records") == 20 - await count(node, "delayed_records") > 0
        await delete_all_rows(node)
        await settle(node, held, AcknowledgeType.RELEASE)
        assert len(await acquire(node, 20)) == 20
    finally:
        node.storage.close()


async def test_held_records_whose_rows_are_missing_do_not_stop_the_purge(node: Node) -> None:
    await create(node)
    await node.produce(*[b"x"] * 150)
    held = await acquire(node, 150)
    statement = "DELETE FROM records WHERE start_bytes < 120"
    await node.storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)
    await node.services.topics.delete_before("orders", 0, 150)

    await delete_all_rows(node)

    await settle(node, held, AcknowledgeType.RELEASE)
    assert (await state(node)).available == 30
