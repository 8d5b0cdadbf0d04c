"""Creating and caching queues."""

from __future__ import annotations

import asyncio

import pytest

from app.broker.log.topics import TopicRequest
from app.broker.queues.queues import QueueRequest, Queues
from app.errors.log import TopicInUse
from app.errors.queues import QueueAlreadyExists
from tests.broker.node import Node
from tests.broker.queues.jobs import acquire, create

pytestmark = pytest.mark.anyio


async def test_of_two_different_queues_created_at_once_under_one_name_one_is_refused(node: Node) -> None:
    for name in ("orders", "other"):
        await node.create(name, 1)
    wanted = [QueueRequest("orders", {"max_delivery_count": 3}), QueueRequest("other", {"ordering": "key"})]

    answers = await asyncio.gather(
        *(node.services.queues.create("jobs", each) for each in wanted), return_exceptions=True
    )

    (created,) = [each for each in answers if isinstance(each, tuple)]
    (refused,) = [each for each in answers if isinstance(each, QueueAlreadyExists)]
    assert created == (await node.services.queues.get("jobs"), True, ())
    assert "differs in topic" in refused.detail


async def test_of_equal_queues_created_at_once_one_is_created_and_the_others_are_confirmed(node: Node) -> None:
    await node.create()

    answers = await asyncio.gather(*(node.services.queues.create("jobs", QueueRequest("orders", {})) for _ in range(5)))

    assert sorted(each.is_new for each in answers) == [False] * 4 + [True]
    assert len({each.info.queue_id for each in answers}) == 1


async def test_acquires_share_transactions_although_each_confirms_the_queue(node: Node) -> None:
    await create(node)
    await node.produce(*(b"%d" % number for number in range(50)))
    cached = await node.services.queues.get("jobs")

    async def confirm_and_acquire() -> int:
        info = (await node.services.queues.create("jobs", QueueRequest("orders", {}))).info
        assert info is cached
        return len(await acquire(node, 1))

    assert await asyncio.gather(*(confirm_and_acquire() for _ in range(50))) == [1] * 50
    deliveries = node.services.deliveries
    assert deliveries.requests == 50
    assert deliveries.transactions < 40


async def test_get_returns_a_queue_as_another_node_changed_it(node: Node) -> None:
    await create(node)
    cached = await node.services.queues.get("jobs")
    other = Queues(node.storage, node.services.topics, node.services.signals)
    await other.change("jobs", QueueRequest(None, {"max_delivery_count": 2}))

    assert (await node.services.queues.get("jobs")).config.max_delivery_count == 2
    assert cached.config.max_delivery_count == 5


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
async def test_a_dead_letter_topic_cannot_be_changed_to_compact(node: Node, policy: str) -> None:
    await create(node, "dead")
    topics = node.services.topics

    with pytest.raises(TopicInUse):
        await topics.change("dead", TopicRequest(None, {"cleanup_policy": policy}))

    assert (await topics.refresh("dead")).config.cleanup_policy == "delete"
    assert (await topics.change("orders", TopicRequest(None, {"cleanup_policy": policy}))).config.compacted
