"""An acquire that finds nothing at first where there is something: it looks on, and what is due ends."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from app.broker.log.producer import ProduceRequest
from app.broker.queues.archiver import archive
from app.broker.queues.queues import QueueRequest
from app.broker.waiting.deadline import Deadline
from app.domain.log.append import IdempotencyKey
from app.domain.log.record import Record
from app.domain.log.topic import TopicConfig
from app.domain.queues.delivery import Acknowledge, Acknowledgement, Acquire
from app.domain.queues.in_flight import AcknowledgeType
from app.storage.db.tables import OFFSET_BITS
from app.storage.queues import share_partitions
from app.storage.queues.share_partitions import SharePartitionKey
from tests.broker.queues.jobs import use_quota_of_delayed_records

if TYPE_CHECKING:
    from app.domain.queues.delivery import Delivery
    from app.storage.db.engine import Tx
    from tests.broker.node import Node

pytestmark = pytest.mark.anyio

YEAR_3000_MS = 32_503_680_000_000
ORDERINGS = pytest.mark.parametrize("ordering", ["none", "key"])


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


async def create(node: Node, **given: object) -> None:
    await node.create(partitions=1)
    await node.services.queues.create("jobs", QueueRequest("orders", given))


async def produce(node: Node, *keys: bytes, at_ms: int | None = None) -> None:
    headers = None if at_ms is None else json.dumps([{"name": "deliver_at_ms", "value": str(at_ms)}]).encode()
    records = [Record(0, -1, key, b"{}", headers, 0) for key in keys]
    await node.services.producer.produce(ProduceRequest("orders", None, records, len(records)))


async def acquire(node: Node, most: int = 1, max_bytes: int = 1 << 20, **options: object) -> list[Delivery]:
    return (await node.services.deliveries.acquire("jobs", Acquire(most, max_bytes, **options))).deliveries  # type: ignore[arg-type] # as its fields


async def settle(node: Node, deliveries: list[Delivery], outcome: AcknowledgeType) -> None:
    items = [Acknowledgement(each.delivery_id, outcome) for each in deliveries]
    await node.services.deliveries.acknowledge("jobs", Acknowledge(items))


def offsets(deliveries: list[Delivery]) -> list[int]:
    return [each.delivery_id.offset for each in deliveries]


@ORDERINGS
async def test_more_delayed_records_than_one_look_takes_hide_nothing(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    for start in range(0, 3_000, 1_000):
        await produce(node, *(b"%d" % number for number in range(start, start + 1_000)), at_ms=YEAR_3000_MS)
    await produce(node, b"free")

    assert offsets(await acquire(node)) == [3_000]


@ORDERINGS
async def test_what_compaction_took_is_passed_over(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    await produce(node, b"a", b"b", b"c", b"d")
    await settle(node, await acquire(node, 4), AcknowledgeType.RELEASE)
    topic = await node.services.topics.get("orders")

    def compact(tx: Tx) -> None:
        first = topic.partition_ids[0] << OFFSET_BITS
        tx.connection.exec_driver_sql(f"DELETE FROM records WHERE record_id IN ({first}, {first + 1})")

    await node.storage.write(compact)

    assert offsets(await acquire(node)) == [2]


@ORDERINGS
async def test_a_delayed_record_without_a_place_stops_the_look_and_not_what_was_before_it(
    node: Node, ordering: str
) -> None:
    await create(node, ordering=ordering)
    await use_quota_of_delayed_records(node.storage, left=0)
    await produce(node, b"free")
    await produce(node, b"later", at_ms=YEAR_3000_MS)

    assert offsets(await acquire(node)) == [0]


@ORDERINGS
async def test_all_who_ask_at_once_get_of_the_delayed_records_that_are_due(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    keys = [b"%d" % number for number in range(100)]
    await produce(node, *keys, at_ms=clock_ms() + 100)
    assert await acquire(node) == []
    await asyncio.sleep(0.2)

    large = await asyncio.gather(*(acquire(node, max_bytes=1) for _ in range(3)))
    small = await asyncio.gather(*(acquire(node) for _ in range(80)))

    assert [len(each) for each in large + small] == [1] * 83


async def test_a_delayed_record_behind_its_key_hides_no_other(node: Node) -> None:
    await create(node, ordering="key")
    await produce(node, b"a")
    assert offsets(await acquire(node)) == [0]
    await produce(node, b"a", b"b", at_ms=clock_ms() + 100)
    assert await acquire(node) == []
    await asyncio.sleep(0.2)

    assert offsets(await acquire(node)) == [2]


async def test_a_rejected_record_that_retention_passes_still_gets_its_dead_letter(node: Node) -> None:
    await node.create(partitions=1)
    await node.services.queues.create("jobs", QueueRequest("orders", {}, dead_letter_topic="dead"))
    await produce(node, b"a", b"b")
    held = await acquire(node, 2)
    await node.services.topics.delete_before("orders", 0, 2)
    await settle(node, held, AcknowledgeType.REJECT)
    info = await node.services.queues.get("jobs")
    (partition_id,) = (await node.services.topics.get("orders")).partition_ids

    done = await node.storage.write(archive, SharePartitionKey(info.queue_id, partition_id), TopicConfig())

    (window,) = await node.storage.read(share_partitions.list_, info.queue_id)
    assert (done.settled, window.archived, window.expired) == (2, 2, 0)


async def test_a_lower_max_delivery_count_archives_what_has_had_as_many(node: Node) -> None:
    await create(node, max_delivery_count=5, lock_duration_ms=1_000)
    await produce(node, b"a")
    for _ in range(2):
        await settle(node, await acquire(node), AcknowledgeType.RELEASE)
    (held,) = await acquire(node)
    info = await node.services.queues.change("jobs", QueueRequest(None, {"max_delivery_count": 2}))
    (partition_id,) = (await node.services.topics.get("orders")).partition_ids
    place = SharePartitionKey(info.queue_id, partition_id)
    assert await node.storage.read(share_partitions.due, 10) == [(info.queue_id, partition_id)]
    await node.storage.write(archive, place, TopicConfig())
    (window,) = await node.storage.read(share_partitions.list_, info.queue_id)
    assert window.archive_at_ms == held.locked_until_ms

    await node.storage.write(archive, place, TopicConfig(), lambda _: held.locked_until_ms)

    (window,) = await node.storage.read(share_partitions.list_, info.queue_id)
    assert (window.entries, window.archived) == ({}, 1)


async def test_what_has_a_key_is_not_given_back_since_its_client_may_hold_it_by_another_answer(node: Node) -> None:
    await create(node)
    await produce(node, b"a")
    await node.services.queues.route("jobs", anew=False)
    request = Acquire(1, 1 << 20, key=IdempotencyKey(b"k" * 32, b"f" * 32))
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(node.services.deliveries.acquire("jobs", request, Deadline(0, gone)))
    await asyncio.sleep(0)
    gone.set_result(None)
    again = await node.services.deliveries.acquire("jobs", request)
    await first

    assert offsets(again.deliveries) == [0]
    assert await acquire(node) == []
    done = Acknowledge([Acknowledgement(again.deliveries[0].delivery_id, AcknowledgeType.ACCEPT)])
    assert [each.code for each in (await node.services.deliveries.acknowledge("jobs", done)).results] == [None]
