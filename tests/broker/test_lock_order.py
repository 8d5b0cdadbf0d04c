"""Transactions that need the same rows lock them in one order, so that none waits for another in a circle."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import TYPE_CHECKING

import pytest

from app.broker.log.producer import ProduceRequest
from app.broker.queues.queues import QueueRequest
from app.broker.transactions import TransactionRequest
from app.domain.log.producer import ProducerStamp
from app.domain.log.record import Record
from app.storage.groups import groups, offsets
from app.storage.log import producers, topics
from app.storage.queues import queues
from tests.broker.node import Node
from tests.storage.lock_waits import await_lock_waits
from tests.storage.scribe import NOW_MS
from tests.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.storage.db.transaction import Tx

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def interleaved(
    nodes: tuple[Node, Node],
    first: Callable[[Tx], object],
    other: Callable[[], Awaitable[object]],
    then: Callable[[Tx], object],
) -> None:
    """Run a transaction of two steps; between them, the other node's transaction waits for a lock of the first step.

    The second step needs a lock that the other transaction takes later: it must be free.
    """
    is_locked = Event()

    def both(tx: Tx) -> None:
        first(tx)
        is_locked.set()
        await_lock_waits(tx, 1)
        tx.connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        then(tx)

    task = asyncio.create_task(nodes[0].storage.write(both))
    await until_true(is_locked.is_set)
    await asyncio.gather(other(), task)


def locking(table: str, condition: str) -> Callable[[Tx], object]:
    return lambda tx: tx.connection.exec_driver_sql(f"SELECT 1 FROM {table} WHERE {condition} FOR UPDATE").one()


def one_record(topic: str, stamp: ProducerStamp | None = None) -> ProduceRequest:
    return ProduceRequest(topic, None, [Record(0, -1, None, b"1", None, 0)], 1, stamp=stamp)


async def test_a_transaction_creates_topics_in_the_order_of_their_names(nodes: tuple[Node, Node]) -> None:
    request = TransactionRequest([one_record("b"), one_record("a")], [], None)

    await interleaved(
        nodes,
        lambda tx: topics.create(tx, "a", 1, {}, NOW_MS),
        lambda: nodes[1].services.transactions.run(request),
        lambda tx: topics.create(tx, "b", 1, {}, NOW_MS),
    )

    assert await nodes[0].services.topics.missing(["a", "b"]) == []


async def test_sessions_are_renewed_after_an_outage_in_the_order_of_groups(nodes: tuple[Node, Node]) -> None:
    await nodes[0].create()
    for group in ("b", "a"):
        await nodes[0].join("alice", group=group)
    statement = "UPDATE group_ticks SET ticked_at_ms = 0"
    await nodes[0].storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)

    await interleaved(
        nodes,
        lambda tx: groups.load(tx, "a"),
        nodes[1].groups.record_running_node,
        lambda tx: groups.load(tx, "b"),
    )


async def test_a_change_of_a_queue_locks_the_queue_before_its_dead_letter_topic(nodes: tuple[Node, Node]) -> None:
    await nodes[0].create()
    await nodes[0].create("dead")
    await nodes[0].services.queues.create("jobs", QueueRequest("orders", {}))
    topic_id = (await nodes[0].services.topics.get("dead")).topic_id

    await interleaved(
        nodes,
        lambda tx: queues.find_locked(tx, "jobs"),
        lambda: nodes[1].services.queues.change(
            "jobs", QueueRequest(None, {"max_delivery_count": 2}, dead_letter_topic="dead")
        ),
        lambda tx: queues.lock_topics(tx, [topic_id]),
    )

    changed = await nodes[0].services.queues.get("jobs")
    assert (changed.dead_letter_topic, changed.config.max_delivery_count) == ("dead", 2)


async def test_a_change_of_a_queue_locks_its_share_partitions_before_its_dead_letter_topic(
    nodes: tuple[Node, Node],
) -> None:
    await nodes[0].create()
    await nodes[0].create("dead")
    await nodes[0].services.queues.create("jobs", QueueRequest("orders", {}))
    topic_id = (await nodes[0].services.topics.get("dead")).topic_id
    request = QueueRequest(None, {"max_delivery_count": 2}, dead_letter_topic="dead")

    await interleaved(
        nodes,
        lambda tx: tx.connection.exec_driver_sql("SELECT 1 FROM queue_partitions FOR UPDATE").all(),
        lambda: nodes[1].services.queues.change("jobs", request),
        lambda tx: queues.lock_topics(tx, [topic_id]),
    )


async def append_of_producers(node: Node, *names: str) -> None:
    await node.create()
    for name in names:
        await node.services.producer.produce(one_record("orders", ProducerStamp(name, 0, 0, b"f")))


async def test_a_deletion_of_a_topic_locks_the_state_of_producers_in_the_order_of_their_ids(
    nodes: tuple[Node, Node],
) -> None:
    await append_of_producers(nodes[0], "q", "p")

    await interleaved(
        nodes,
        locking("producer_topics", "producer_id = 'p'"),
        lambda: nodes[1].services.topics.delete("orders"),
        locking("producer_topics", "producer_id = 'q'"),
    )


async def test_expiry_locks_the_state_of_producers_in_the_order_of_their_ids(nodes: tuple[Node, Node]) -> None:
    await append_of_producers(nodes[0], "q", "p")
    in_a_year_ms = nodes[0].services.clock() + 365 * 86_400_000
    statement = f"UPDATE clock_ticks SET ticked_at_ms = {in_a_year_ms}"
    await nodes[0].storage.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)

    await interleaved(
        nodes,
        locking("producer_topics", "producer_id = 'p'"),
        lambda: nodes[1].storage.write(producers.expire, in_a_year_ms, 10),
        locking("producer_topics", "producer_id = 'q'"),
    )


async def test_offsets_of_deleted_topics_that_another_transaction_has_locked_are_deleted_later(
    nodes: tuple[Node, Node],
) -> None:
    await nodes[0].create()
    await nodes[0].join("alice")
    await nodes[0].services.topics.delete("orders")

    def delete_while_locked(tx: Tx) -> int:
        locking("group_offsets", "partition = 0")(tx)
        return nodes[1].storage.write_now(offsets.delete_of_deleted_topics, 10)

    assert await nodes[0].storage.write(delete_while_locked) == 1
    assert await nodes[0].storage.write(offsets.delete_of_deleted_topics, 10) == 1
