"""Acquire and acknowledge within a node: sharing transactions, clients that vanish, nodes that meet."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.log.topics import TopicRequest
from app.broker.queues.delivery_batcher import DeliveryBatcher
from app.broker.queues.delivery_transaction import DeliveryBatch, deliver
from app.broker.queues.queues import QueueRequest
from app.broker.waiting.deadline import Deadline
from app.domain.log.record import Record
from app.domain.queues.delivery import Acknowledge, Acknowledgement, Acquire, Acquired
from app.domain.queues.in_flight import AcknowledgeType
from app.errors.database import ServiceUnavailable
from app.storage.db.opening import open_storage
from app.storage.queues import share_partitions
from tests.storage.lock_waits import await_lock_waits

if TYPE_CHECKING:
    from app.api.services import Services
    from app.storage.db.engine import Tx
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ONE = Acquire(1, 1 << 20)


@pytest.fixture
async def services(migrated_url: str, serve: Serve) -> Services:
    """The parts of an application with a queue over a topic of two partitions, on either engine."""
    application, _ = await serve(database_url=migrated_url)
    services = application.services
    await services.topics.create("orders", TopicRequest(2, {}))
    await services.queues.create("jobs", QueueRequest("orders", {}))
    return services


async def produce(services: Services, number: int) -> None:
    from app.broker.log.producer import ProduceRequest

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


async def test_nothing_is_acquired_for_a_client_that_has_gone(services: Services) -> None:
    await produce(services, 1)
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.set_result(None)

    assert (await services.deliveries.acquire("jobs", ONE, Deadline(0, gone))).deliveries == []

    (found,) = (await services.deliveries.acquire("jobs", ONE)).deliveries
    assert found.delivery_id.delivery_count == 1


async def test_what_a_client_did_not_live_to_see_is_given_back_at_once(services: Services) -> None:
    await services.queues.create("once", QueueRequest("orders", {"max_delivery_count": 1}))
    await produce(services, 1)
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await services.queues.route("once", anew=False)
    acquiring = asyncio.create_task(services.deliveries.acquire("once", ONE, Deadline(0, gone)))
    await asyncio.sleep(0)
    gone.set_result(None)
    assert len((await acquiring).deliveries) == 1

    (found,) = (await services.deliveries.acquire("once", ONE)).deliveries

    assert found.delivery_id.delivery_count == 2, "it was not archived, though it was its last delivery"


async def test_a_request_that_fails_leaves_its_neighbours_alone(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await produce(services, 4)
    impossible = Acquire(1, 1 << 20, 2**70)

    answers = await asyncio.gather(
        *(services.deliveries.acquire("jobs", each) for each in (ONE, ONE, impossible, ONE)), return_exceptions=True
    )

    assert [isinstance(each, BaseException) for each in answers] == [False, False, True, False]
    assert len((await services.deliveries.acquire("jobs", ONE)).deliveries) == 1


@pytest.mark.postgres
async def test_an_acquire_takes_what_is_free_and_waits_for_the_rest_if_nothing_is(
    migrated_postgres_url: str, serve: Serve
) -> None:
    application, _ = await serve(database_url=migrated_postgres_url)
    services = application.services
    info, _ = await services.topics.create("orders", TopicRequest(2, {}))
    queue, _ = await services.queues.create("jobs", QueueRequest("orders", {}))
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


async def test_a_queue_that_always_changes_is_given_up(services: Services) -> None:
    class Restless:
        async def route(self, name: str, *, anew: bool) -> Any:
            queue, topic = await services.queues.route(name, anew=anew)
            return queue, type(topic)(topic.topic_id, topic.name, 99, 0, topic.config, topic.partition_ids)

    restless: Any = Restless()
    deliveries = DeliveryBatcher(
        services.storage, restless, services.signals, recheck_ms=1_000, to_archive=lambda: None
    )

    with pytest.raises(ServiceUnavailable, match="changes too often"):
        await deliveries.acquire("jobs", ONE)


async def test_an_acquire_beside_an_acknowledgement_takes_from_the_partition_whose_turn_it_is(
    services: Services,
) -> None:
    await produce(services, 12)
    queue, topic = await services.queues.route("jobs", anew=True)
    held: list[Acknowledgement] = []
    seen = []
    for turn in range(6):
        batch = DeliveryBatch(queue, topic, [Acknowledge(held), ONE], turn, wait=False)
        _, acquired = (await services.storage.write(deliver, batch)).answers
        assert isinstance(acquired, Acquired)
        held = [Acknowledgement(each.delivery_id, AcknowledgeType.ACCEPT) for each in acquired.deliveries]
        seen += [each.delivery_id.partition for each in acquired.deliveries]

    assert seen == [0, 1, 0, 1, 0, 1]
