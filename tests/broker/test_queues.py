"""Queues within a node: what is created at once, and what is known of them."""

from __future__ import annotations

import asyncio

import pytest

from app.broker.queues import QueueRequest
from app.errors import QueueAlreadyExists
from tests.broker.node import Node

pytestmark = pytest.mark.anyio


async def test_of_two_queues_of_a_name_that_are_created_at_once_one_is_new(node: Node) -> None:
    for name in ("orders", "other"):
        await node.create(name, 1)
    wanted = [QueueRequest("orders", {"max_delivery_count": 3}), QueueRequest("other", {"ordering": "key"})]

    answers = await asyncio.gather(
        *(node.services.queues.create("jobs", each) for each in wanted), return_exceptions=True
    )

    (created,) = [each for each in answers if isinstance(each, tuple)]
    (refused,) = [each for each in answers if isinstance(each, QueueAlreadyExists)]
    assert created == (await node.services.queues.get("jobs"), True)
    assert "differs in topic" in refused.detail


async def test_of_two_equal_queues_that_are_created_at_once_one_is_confirmed(node: Node) -> None:
    await node.create()

    answers = await asyncio.gather(*(node.services.queues.create("jobs", QueueRequest("orders", {})) for _ in range(5)))

    assert sorted(created for _, created in answers) == [False] * 4 + [True]
    assert len({info.queue_id for info, _ in answers}) == 1
