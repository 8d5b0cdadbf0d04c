"""Operations on a queue `jobs` over the topic `orders`, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from app.broker.log.producer import ProduceRequest
from app.broker.queues.counts import QueueState
from app.broker.queues.queues import QueueRequest
from app.domain.log.record import Record
from app.domain.log.topic import TopicConfig
from app.domain.queues.delivery import Acknowledge, Acknowledgement, Acquire, Delivery
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.queues.share_partition_state import MAX_DELAYED_RECORDS
from app.storage.log import pages
from app.tasks.archiving import ArchiveTask

if TYPE_CHECKING:
    from app.storage.db.engine import Storage
    from tests.broker.node import Node

FAR_MS = 4_000_000_000_000
LARGE = b'"' + b"x" * 900_000 + b'"'


async def create(node: Node, dead_letter_topic: str | UnsetType = UNSET, **config: Any) -> None:
    """Create the queue over a topic of one partition."""
    await node.create(partitions=1)
    await node.services.queues.create("jobs", QueueRequest("orders", config, frozenset(), dead_letter_topic))


async def produce_keyed(node: Node, *keys: bytes | None, deliver_at_ms: int = 0) -> None:
    headers = b'[{"name":"deliver_at_ms","value":"%d"}]' % deliver_at_ms if deliver_at_ms else None
    records = [Record(0, -1, key, b"1", headers, 0) for key in keys]
    await node.services.producer.produce(ProduceRequest("orders", None, records, len(records)))


async def acquire(node: Node, number: int = 1, max_bytes: int = 1 << 25) -> list[Delivery]:
    return (await node.services.deliveries.acquire("jobs", Acquire(number, max_bytes))).deliveries


def offsets(deliveries: list[Delivery]) -> list[int]:
    return [each.delivery_id.offset for each in deliveries]


async def settle(node: Node, deliveries: list[Delivery], acknowledge_type: AcknowledgeType, delay_ms: int = 0) -> None:
    """Acknowledge deliveries, none of which has ended."""
    items = [Acknowledgement(each.delivery_id, acknowledge_type, delay_ms) for each in deliveries]
    settled = await node.services.deliveries.acknowledge("jobs", Acknowledge(items))
    assert {each.code for each in settled.results} <= {None}


async def archive(node: Node, storage: Any = None) -> None:
    """Archive all records that are due, as the background task does.

    Args:
        node: The node.
        storage: A fake to use instead of the node's storage.
    """
    task = ArchiveTask(storage or node.storage, node.services.signals, TopicConfig())
    while await task.archive_due():
        pass


async def archive_postponed(node: Node) -> None:
    """Archive all records, those that were postponed included."""
    statement = "UPDATE queue_partitions SET archive_at_ms = 1, delayed_archive_at_ms = 1"
    await node.storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)
    await archive(node)


async def end_delays(node: Node) -> None:
    """Make all delayed records due."""
    await node.storage.write(
        lambda tx: tx.connection.exec_driver_sql("UPDATE delayed_records SET until_ms = 1").rowcount
    )


async def use_quota_of_delayed_records(storage: Storage, *, left: int) -> None:
    """Make the queue count so many delayed records that only `left` more are allowed."""
    statement = f"UPDATE queue_partitions SET delayed = {MAX_DELAYED_RECORDS - left}"
    await storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)


async def state(node: Node) -> QueueState:
    return (await node.services.queues.describe("jobs"))[1]


async def end_of(node: Node, topic: str) -> int:
    """Return how many records were appended to a topic."""
    info = await node.services.topics.refresh(topic)
    found = await node.storage.read(pages.bounds, info.partition_ids)
    return sum(each.log_end_offset for each in found.values())
