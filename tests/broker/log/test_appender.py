"""The appender: requests share a transaction, but one refused request does not fail the others."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import event

from app.broker.log.appender import Appender
from app.broker.log.topics import TopicRequest
from app.domain.log.append import Accepted, Append, IdempotencyKey
from app.domain.log.record import Record
from app.errors.database import DiskFull, LockTimeout, ServiceUnavailable, UnknownServerError
from app.errors.log import ConcurrentRequest, OffsetMismatch
from app.storage.log import offset_lookup

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from app.api.services import Services
    from app.domain.log.append import AppendOutcome
    from app.domain.log.topic import TopicInfo
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

KEY = IdempotencyKey(b"k" * 32, b"f" * 32)


@pytest.fixture
async def services(migrated_url: str, serve: Serve) -> Services:
    """The services of an application on an empty log, on either database."""
    application, _ = await serve(database_url=migrated_url)
    return application.services


@pytest.fixture
async def orders(services: Services) -> TopicInfo:
    """A topic of four partitions."""
    info, _ = await services.topics.create("orders", TopicRequest(4, {}))
    return info


def append(info: TopicInfo, value: bytes = b"x", partition: int = 0, timestamp_ms: int = 1, **options: Any) -> Append:
    record = Record(-1, timestamp_ms, None, value, None, 0)
    return Append(info.topic_id, info.name, info.version, info.partition_ids, [record], [partition], **options)


async def all_of(appender: Appender, *appends: Append) -> list[AppendOutcome | BaseException]:
    return await asyncio.gather(*(appender.append(each, 10) for each in appends), return_exceptions=True)


async def end_of(services: Services, info: TopicInfo, partition: int = 0) -> int:
    (extent,) = await services.storage.read(offset_lookup.extents, [info.partition_ids[partition]])
    return extent.log_end_offset


def offset(outcome: object) -> int:
    assert isinstance(outcome, Accepted)
    return outcome.appended.offsets[0]


async def test_requests_that_arrive_while_a_transaction_runs_share_the_next_one(
    services: Services, orders: TopicInfo
) -> None:
    outcomes = await all_of(services.appender, *[append(orders) for _ in range(50)])

    assert [offset(outcome) for outcome in outcomes] == list(range(50))
    assert services.appender.transactions == 2
    assert (services.appender.requests, services.appender.records, services.appender.pending_bytes) == (50, 50, 0)


async def test_a_refused_request_does_not_fail_the_others_of_its_batch(services: Services, orders: TopicInfo) -> None:
    outcomes = await all_of(
        services.appender,
        append(orders),
        append(orders, expected_offset=1),
        append(orders, expected_offset=1),
        append(orders),
    )

    assert [offset(outcomes[0]), offset(outcomes[1]), offset(outcomes[3])] == [0, 1, 2]
    assert isinstance(outcomes[2], OffsetMismatch)


async def test_a_request_that_the_database_refuses_fails_alone(
    services: Services, orders: TopicInfo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    impossible = append(orders, timestamp_ms=2**63)

    outcomes = await all_of(services.appender, append(orders), append(orders), impossible, append(orders))

    assert [offset(outcomes[0]), offset(outcomes[1]), offset(outcomes[3])] == [0, 1, 2]
    assert isinstance(outcomes[2], UnknownServerError)
    assert "9223372036854775808" not in outcomes[2].detail
    assert await end_of(services, orders) == 3
    assert offset((await all_of(services.appender, append(orders)))[0]) == 3


async def test_a_cancelled_request_does_not_keep_the_others_from_their_outcome(
    services: Services, orders: TopicInfo
) -> None:
    tasks = [asyncio.ensure_future(services.appender.append(append(orders), 10)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[2].cancel()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert [offset(outcome) for outcome in (outcomes[0], outcomes[1], outcomes[3])] == [0, 1, 3]
    assert await end_of(services, orders) == 4
    assert services.appender.pending_bytes == 0


async def test_requests_to_all_partitions_in_any_order_do_not_block_each_other(
    services: Services, orders: TopicInfo
) -> None:
    def spread(first: int) -> Append:
        partitions = [(first + n) % 4 for n in range(4)]
        records = [Record(-1, 1, None, b"x", None, 0)] * 4
        return Append(orders.topic_id, "orders", orders.version, orders.partition_ids, records, partitions)

    outcomes = await all_of(services.appender, *[spread(n) for n in range(40)])

    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert [await end_of(services, orders, partition) for partition in range(4)] == [40] * 4


async def test_draining_waits_for_all_pending_requests(services: Services, orders: TopicInfo) -> None:
    tasks = [asyncio.ensure_future(services.appender.append(append(orders, partition=n % 4), 10)) for n in range(20)]
    await asyncio.sleep(0)

    await services.appender.drain()

    assert all(task.done() or services.appender.pending_bytes == 0 for task in tasks)
    assert len([await task for task in tasks]) == 20
    await services.appender.drain()


async def test_pending_bytes_are_limited(services: Services, orders: TopicInfo) -> None:
    appender = Appender(services.storage, services.signals, clock=services.clock, max_pending_bytes=1000)

    first = asyncio.ensure_future(appender.append(append(orders), 2000))
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnavailable):
        await appender.append(append(orders), 1)

    assert offset(await first) == 0
    assert offset(await appender.append(append(orders), 1)) == 1


class ScriptedStorage:
    """A storage whose writes end when and how the test says."""

    def __init__(self, services: Services) -> None:
        self.dialect = services.storage.dialect
        self.full = False
        self.disk_full = services.storage.disk_full
        self.batches: list[list[Append]] = []
        self.futures: list[asyncio.Future[Any]] = []

    def submit(self, _: Callable[..., Any], appends: list[Append], __: int) -> asyncio.Future[Any]:
        self.batches.append(appends)
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


async def test_a_lock_timeout_refuses_the_requests_with_a_key_and_retries_the_others(
    services: Services, orders: TopicInfo
) -> None:
    storage = ScriptedStorage(services)
    appender = Appender(storage, services.signals, clock=services.clock, max_pending_bytes=1000)  # type: ignore[arg-type] # a double
    accepted = Accepted(None, duplicate=True)  # type: ignore[arg-type] # a double
    tasks = [asyncio.ensure_future(appender.append(append(orders), 1))]
    await asyncio.sleep(0)
    tasks += [asyncio.ensure_future(appender.append(each, 1)) for each in (append(orders, key=KEY), append(orders))]
    await asyncio.sleep(0)

    storage.futures[0].set_result([accepted])
    await tasks[0]
    storage.futures[1].set_exception(LockTimeout("a lock"))
    assert isinstance(await tasks[1], ConcurrentRequest)
    storage.futures[2].set_result([accepted])

    assert await tasks[2] == accepted
    assert [len(batch) for batch in storage.batches] == [1, 2, 1]


async def test_a_full_disk_refuses_a_request_before_it_waits(services: Services, orders: TopicInfo) -> None:
    storage = ScriptedStorage(services)
    storage.full = True
    appender = Appender(storage, services.signals, clock=services.clock, max_pending_bytes=1000)  # type: ignore[arg-type] # a double

    with pytest.raises(DiskFull):
        await appender.append(append(orders), 1)

    assert storage.batches == []


@pytest.mark.postgres
async def test_a_request_whose_key_another_transaction_holds_is_refused_as_concurrent(
    serve: Serve, migrated_postgres_url: str
) -> None:
    application, _ = await serve(database_url=migrated_postgres_url)
    services = application.services
    info, _ = await services.topics.create("orders", TopicRequest(1, {}))

    @event.listens_for(services.storage.dialect.write_engine, "begin")
    def shorten_lock_timeout(connection: Any) -> None:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")

    async with await psycopg.AsyncConnection.connect(migrated_postgres_url) as other:
        await other.execute(
            "INSERT INTO idempotency_keys (topic_id, key_hash, fingerprint, created_at_ms) VALUES (%s, %s, %s, %s)",
            (info.topic_id, KEY.key_hash, b"", 1),
        )
        keyed, plain = await all_of(services.appender, append(info, key=KEY), append(info))

        assert isinstance(keyed, ConcurrentRequest)
        assert keyed.retriable
        assert offset(plain) == 0
        await other.rollback()

    assert offset((await all_of(services.appender, append(info, key=KEY)))[0]) == 1
