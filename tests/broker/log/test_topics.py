"""Topics that change while a request uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.broker.log.producer import ProduceRequest
from app.broker.log.topics import TopicRequest, Topics
from app.domain.log.record import Record
from app.domain.log.topic import TopicConfig
from app.errors.database import ServiceUnavailable
from app.errors.log import UnknownTopicOrPartition
from app.storage.log import topics

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.api.services import Services
    from app.storage.db.transaction import Tx
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

DEFAULTS = TopicConfig()
UNSPECIFIED = TopicRequest(None, {})


@pytest.fixture
async def services(migrated_url: str, serve: Serve) -> Services:
    """The services of an application on an empty log, on either database."""
    application, _ = await serve(database_url=migrated_url)
    return application.services


class Interrupted:
    """A storage in which another client deletes the topic right after the first write."""

    def __init__(self, services: Services) -> None:
        self._storage = services.storage
        self.writes = 0

    async def read(self, query: Callable[..., Any], *args: Any) -> Any:
        return await self._storage.read(query, *args)

    async def write(self, query: Callable[..., Any], *args: Any) -> Any:
        result = await self._storage.write(query, *args)
        self.writes += 1
        if self.writes == 1:
            await self._storage.write(delete)
        return result


def delete(tx: Tx) -> None:
    found = topics.find_locked(tx, "orders", DEFAULTS)
    assert found is not None
    topics.delete_(tx, found.info)


def change(tx: Tx, /, partitions: int, **config: Any) -> None:
    found = topics.find_locked(tx, "orders", DEFAULTS)
    assert found is not None
    topics.change(tx, found.info, partitions, config)


@pytest.mark.parametrize("present", [False, True])
async def test_a_topic_deleted_while_it_is_created_or_confirmed_exists_in_the_end(
    services: Services, present: bool
) -> None:
    if present:
        await services.topics.create("orders", UNSPECIFIED)
    interrupted: Any = Interrupted(services)
    catalogue = Topics(interrupted, services.signals, defaults=DEFAULTS, default_partitions=4, clock=services.clock)

    info, _ = await catalogue.create("orders", UNSPECIFIED)

    assert info.name == "orders"


async def produce(services: Services, partition: int = -1) -> Any:
    record = Record(partition, -1, None, b"x", None, 0)
    return await services.producer.produce(ProduceRequest("orders", None, [record], 1))


async def test_an_append_to_a_topic_that_another_node_deleted_creates_a_new_one(services: Services) -> None:
    old, _ = await services.topics.create("orders", UNSPECIFIED)
    await produce(services, 0)
    await services.storage.write(delete)

    accepted = await produce(services, 0)

    assert accepted.appended.offsets == [0]
    assert (await services.topics.get("orders")).topic_id > old.topic_id


async def test_a_partition_that_another_node_added_is_found(services: Services) -> None:
    await services.topics.create("orders", TopicRequest(1, {}))
    await produce(services, 0)
    await services.storage.write(change, 2)

    accepted = await produce(services, 1)

    assert (accepted.appended.partitions, accepted.appended.offsets) == ([1], [0])


async def test_a_policy_that_another_node_set_is_applied(services: Services) -> None:
    await services.topics.create("orders", TopicRequest(1, {}))
    await produce(services)
    await services.storage.write(change, 1, cleanup_policy="compact")

    with pytest.raises(Exception, match="is required on a compacted topic"):
        await produce(services)


async def test_a_deleted_topic_is_dropped_from_the_cache(services: Services) -> None:
    await services.topics.create("orders", UNSPECIFIED)
    await services.topics.delete("orders")

    with pytest.raises(UnknownTopicOrPartition):
        await services.topics.get("orders")
    assert await services.topics.find("orders") is None


async def test_a_create_gives_up_when_the_topic_is_never_complete(services: Services) -> None:
    await services.topics.create("orders", UNSPECIFIED)
    await services.storage.write(lambda tx: tx.connection.exec_driver_sql("DELETE FROM partitions").rowcount)

    with pytest.raises(ServiceUnavailable):
        await services.topics.create("orders", UNSPECIFIED)
