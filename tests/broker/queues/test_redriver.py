"""Redriving dead letters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.log.producer import ProduceRequest
from app.broker.log.topics import TopicRequest
from app.broker.queues.redriver import Redriver
from app.domain.log.record import Record
from app.domain.queues.in_flight import AcknowledgeType
from app.errors.database import DiskFull
from app.errors.log import InvalidRecord
from tests.broker.queues.full_storage import FullStorage
from tests.broker.queues.jobs import acquire, archive, create, end_of, produce_keyed, settle

if TYPE_CHECKING:
    from tests.broker.node import Node

pytestmark = pytest.mark.anyio


async def test_on_a_full_disk_redrive_is_refused_and_a_plan_is_not(node: Node) -> None:
    await create(node, "dead")
    await node.produce(b"1", b"2")
    await settle(node, await acquire(node, 2), AcknowledgeType.REJECT)
    await archive(node)
    storage: Any = FullStorage(node.storage)
    redriver = Redriver(storage, node.services.topics, node.services.queues, node.services.signals)

    with pytest.raises(DiskFull):
        await redriver.redrive("jobs", None, 100, dry_run=False)

    assert await end_of(node, "orders") == 2
    assert (await redriver.redrive("jobs", None, 100, dry_run=True)).partitions == {0: 2}
    storage.full = False
    assert (await redriver.redrive("jobs", None, 100, dry_run=False)).partitions == {0: 2}


async def test_a_dead_letter_without_a_key_is_not_redriven_to_a_compacted_topic(node: Node) -> None:
    await create(node, "dead")
    await produce_keyed(node, b"k", None)
    await settle(node, await acquire(node, 2), AcknowledgeType.REJECT)
    await archive(node)
    await node.services.topics.change("orders", TopicRequest(None, {"cleanup_policy": "compact"}))
    redrive = node.services.redriver.redrive

    with pytest.raises(InvalidRecord) as refused:
        await redrive("jobs", None, 100, dry_run=False)

    assert "the dead letter at offset 1 has no key" in refused.value.detail
    assert await end_of(node, "orders") == 2
    await node.services.topics.change("orders", TopicRequest(None, {"cleanup_policy": "delete"}))
    assert (await redrive("jobs", None, 100, dry_run=False)).partitions == {0: 2}


async def test_a_record_that_names_a_partition_which_cannot_exist_does_not_stop_the_redrive(node: Node) -> None:
    await create(node, "dead")
    forged = {"topic": "orders", "partition": "-2", "offset": "0", "group": "jobs"}
    headers = json.dumps([{"name": f"__dlq.errors.{name}", "value": value} for name, value in forged.items()]).encode()
    record = Record(0, -1, None, b"1", headers, 0)
    await node.services.producer.produce(ProduceRequest("dead", None, [record], 1))
    await node.produce(b"1", b"2")
    await settle(node, await acquire(node, 2), AcknowledgeType.REJECT)
    await archive(node)

    redriven = [await node.services.redriver.redrive("jobs", None, 100, dry_run=dry_run) for dry_run in (True, False)]

    assert [each.partitions for each in redriven] == [{0: 2}] * 2
