"""Words for the tests of a queue `jobs` over the topic `orders`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from app.broker.log.producer import ProduceRequest
from app.broker.queues.counts import QueueState
from app.broker.queues.queues import QueueRequest
from app.domain.log.record import Record
from app.domain.queues.delivery import Acknowledge, Acknowledgement, Acquire, Delivery
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.queues.share_partition_state import MAX_DELAYED_RECORDS
from app.storage.log import pages
from app.tasks.archiving import ArchiveTask as Archiving

if TYPE_CHECKING:
    from app.storage.db.engine import Storage
    from tests.broker.node import Node

FAR_MS = 4_000_000_000_000
LARGE = b'"' + b"x" * 900_000 + b'"'


async def create(node: Node, dead_letter_topic: str | UnsetType = UNSET, **config: Any) -> None:
    await node.create(partitions=1)
    await node.services.queues.create("jobs", QueueRequest("orders", config, frozenset(), dead_letter_topic))


async def produce_keyed(node: Node, *keys: bytes | None, deliver_at_ms: int = 0) -> None:
    headers = b'[{"name":"deliver_at_ms","value":"%d"}]' % deliver_at_ms if deliver_at_ms else None
    records = [Record(0, -1, key, b"1", headers, 0) for key in keys]
    await node.services.producer.produce(ProduceRequest("orders", None, records, len(records)))


async def acquire(node: Node, number: int) -> list[Delivery]:
    return (await node.services.deliveries.acquire("jobs", Acquire(number, 1 << 25))).deliveries


async def settle(node: Node, deliveries: list[Delivery], outcome: AcknowledgeType, delay_ms: int = 0) -> None:
    items = [Acknowledgement(each.delivery_id, outcome, delay_ms) for each in deliveries]
    settled = await node.services.deliveries.acknowledge("jobs", Acknowledge(items))
    assert {each.code for each in settled.results} <= {None}


async def archive(node: Node) -> None:
    """Do what the background task does until there is nothing left."""
    archiving = Archiving(node.storage, node.services.signals, node.services.topics._defaults)
    while await archiving.archive_due():
        pass


async def archive_again(node: Node) -> None:
    """Archive what was postponed."""
    statement = "UPDATE queue_partitions SET archive_at_ms = 1, delayed_archive_at_ms = 1"
    await node.storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)
    await archive(node)


async def come_due(node: Node) -> None:
    """Let the delays of all copies pass."""
    await node.storage.write(
        lambda tx: tx.connection.exec_driver_sql("UPDATE delayed_records SET until_ms = 1").rowcount
    )


async def use_quota_of_delayed_records(storage: Storage, *, left: int) -> None:
    """Count as many delayed records as leave `left` of the quota of queue `jobs`."""
    statement = f"UPDATE queue_partitions SET delayed = {MAX_DELAYED_RECORDS - left}"
    await storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)


async def state(node: Node) -> QueueState:
    return (await node.services.queues.describe("jobs"))[1]


async def end_of(node: Node, topic: str) -> int:
    """Return how many records were appended to a topic."""
    info = await node.services.topics.refresh(topic)
    found = await node.storage.read(pages.bounds, info.partition_ids)
    return sum(each.log_end_offset for each in found.values())
