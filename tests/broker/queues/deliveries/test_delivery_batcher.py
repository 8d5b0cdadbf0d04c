"""Acquire and acknowledge within a node: shared transactions, disconnected clients, concurrent nodes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.log.producer import ProduceRequest
from app.broker.log.topics import TopicRequest
from app.broker.queues.deliveries.delivery_batcher import DeliveryBatcher
from app.broker.queues.deliveries.delivery_transaction import DeliveryBatch, deliver
from app.broker.queues.queues import QueueRequest
from app.broker.waiting.deadline import Deadline
from app.domain.log.append import IdempotencyKey
from app.domain.log.record import Record
from app.domain.queues.delivery import Acknowledge, Acknowledgement, Acquire, Acquired
from app.domain.queues.in_flight import AcknowledgeType
from app.errors.database import ServiceUnavailable
from app.storage.db.opening import open_storage
from app.storage.queues import share_partitions
from tests.broker.queues.jobs import acquire, create, offsets, produce_keyed, settle
from tests.storage.lock_waits import await_lock_waits

if TYPE_CHECKING:
    from app.api.services import Services
    from app.storage.db.transaction import Tx
    from tests.broker.node import Node
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ONE = Acquire(1, 1 << 20)


@pytest.fixture
async def services(migrated_url: str, serve: Serve) -> Services:
    """The services of an application with a queue over a topic of two partitions, on either database."""
    application, _ = await serve(database_url=migrated_url)
    services = application.services
    await services.topics.create("orders", TopicRequest(2, {}))
    await services.queues.create("jobs", QueueRequest("orders", {}))
    return services


async def produce(services: Services, number: int) -> None:
    records = [Record(index % 2, -1, None, b"%d" % index, None, 0) for index in range(number)]
    await services.producer.produce(ProduceRequest("orders", None, records, number))


async def test_requests_that_arrive_while_a_transaction_runs_share_the_next_one(services: Services) -> None:
    await produce(services, 50)

    answers = await asyncio.gather(*(services.deliveries.acquire("jobs", ONE) for _ in range(50)))

    ids = [answer.deliveries[0].delivery_id for answer in answers]
    assert len(set(ids)) == 50
    assert (services.deliveries.requests, services.deliveries.transactions) == (50, 2)
    items = [Acknowledge([Acknowledgement(each, AcknowledgeType.ACCEPT)]) for each in ids]
    settled = await asyncio.gather(*(services.deliveries.acknowledge("jobs", each) for each in items))
    assert {result.code for answer in settled for result in answer.results} == {None}


async def test_nothing_is_acquired_for_a_disconnected_client(services: Services) -> None:
    await produce(services, 1)
    disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    disconnected.set_result(None)

    assert (await services.deliveries.acquire("jobs", ONE, Deadline(0, disconnected))).deliveries == []

    (found,) = (await services.deliveries.acquire("jobs", ONE)).deliveries
    assert found.delivery_id.delivery_count == 1


async def test_records_are_released_if_their_client_disconnects_before_the_answer(services: Services) -> None:
    await services.queues.create("once", QueueRequest("orders", {"max_delivery_count": 1}))
    await produce(services, 1)
    disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await services.queues.route("once", refresh=False)
    acquiring = asyncio.create_task(services.deliveries.acquire("once", ONE, Deadline(0, disconnected)))
    asyncio.get_running_loop().call_soon(disconnected.set_result, None)
    assert len((await acquiring).deliveries) == 1

    (found,) = (await services.deliveries.acquire("once", ONE)).deliveries

    assert found.delivery_id.delivery_count == 2, "the withdrawn delivery does not count as the last one"


async def test_a_failing_request_does_not_fail_the_others_of_its_batch(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await produce(services, 4)
    failing = Acquire(1, 1 << 20, 2**70)

    answers = await asyncio.gather(
        *(services.deliveries.acquire("jobs", each) for each in (ONE, ONE, failing, ONE)), return_exceptions=True
    )

    assert [isinstance(each, BaseException) for each in answers] == [False, False, True, False]
    assert len((await services.deliveries.acquire("jobs", ONE)).deliveries) == 1


@pytest.mark.postgres
async def test_an_acquire_skips_locked_share_partitions_and_waits_if_it_finds_nothing_else(
    migrated_postgres_url: str, serve: Serve
) -> None:
    application, _ = await serve(database_url=migrated_postgres_url)
    services = application.services
    info, _ = await services.topics.create("orders", TopicRequest(2, {}))
    queue = (await services.queues.create("jobs", QueueRequest("orders", {}))).info
    await produce(services, 4)
    other = open_storage(migrated_postgres_url)
    loop = asyncio.get_running_loop()

    def hold(tx: Tx, number: int) -> Any:
        locked = share_partitions.lock(tx, queue.queue_id, info.partition_ids[:number], wait=True)
        assert locked is not None
        future = asyncio.run_coroutine_threadsafe(services.deliveries.acquire("jobs", Acquire(2, 1 << 20)), loop)
        if number == 1:
            return future.result(20)
        await_lock_waits(tx, 1)
        return future

    try:
        found = await asyncio.to_thread(other.write_now, hold, 1)
        assert {each.delivery_id.partition for each in found.deliveries} == {1}
        future = await asyncio.to_thread(other.write_now, hold, 2)
        found = await asyncio.wrap_future(future)
        assert {each.delivery_id.partition for each in found.deliveries} == {0}
    finally:
        other.close()


async def test_an_acquire_is_refused_after_five_changes_of_the_queue(services: Services) -> None:
    class ChangingQueues:
        async def route(self, name: str, *, refresh: bool) -> Any:
            queue, topic = await services.queues.route(name, refresh=refresh)
            return queue, type(topic)(topic.topic_id, topic.name, 99, 0, topic.config, topic.partition_ids)

    changing: Any = ChangingQueues()
    deliveries = DeliveryBatcher(
        services.storage, changing, services.signals, recheck_ms=1_000, to_archive=lambda: None
    )

    with pytest.raises(ServiceUnavailable, match="changes too often"):
        await deliveries.acquire("jobs", ONE)


async def test_an_acquire_in_a_batch_with_acknowledges_searches_each_partition_in_turn(services: Services) -> None:
    await produce(services, 12)
    queue, topic = await services.queues.route("jobs", refresh=True)
    held: list[Acknowledgement] = []
    partitions = []
    for rotation in range(6):
        batch = DeliveryBatch(queue, topic, [Acknowledge(held), ONE], rotation, wait=False)
        _, acquired = (await services.storage.write(deliver, batch)).answers
        assert isinstance(acquired, Acquired)
        held = [Acknowledgement(each.delivery_id, AcknowledgeType.ACCEPT) for each in acquired.deliveries]
        partitions += [each.delivery_id.partition for each in acquired.deliveries]

    assert partitions == [0, 1, 0, 1, 0, 1]


async def test_records_of_a_request_with_a_key_stay_acquired_if_its_client_disconnects(node: Node) -> None:
    await create(node)
    await produce_keyed(node, b"a")
    await node.services.queues.route("jobs", refresh=False)
    request = Acquire(1, 1 << 20, key=IdempotencyKey(b"k" * 32, b"f" * 32))
    loop = asyncio.get_running_loop()
    disconnected: asyncio.Future[None] = loop.create_future()

    first = asyncio.create_task(node.services.deliveries.acquire("jobs", request, Deadline(0, disconnected)))
    loop.call_soon(disconnected.set_result, None)
    repeated = asyncio.create_task(node.services.deliveries.acquire("jobs", request))
    await first

    deliveries = (await repeated).deliveries
    assert offsets(deliveries) == [0]
    assert await acquire(node) == []
    await settle(node, deliveries, AcknowledgeType.ACCEPT)
