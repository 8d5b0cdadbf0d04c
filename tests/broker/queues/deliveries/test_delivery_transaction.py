"""Requests of one queue that share a transaction see each other's changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from app.broker.queues.deliveries.delivery_transaction import DeliveryBatch, DeliveryResult, deliver
from app.domain.queues.delivery import Acknowledge, Acknowledged, Acknowledgement, Acquire, Acquired, Delivery, Request
from app.domain.queues.in_flight import AcknowledgeType
from tests.broker.queues.jobs import FAR_MS, acquire, create, end_delays, produce_keyed, state

if TYPE_CHECKING:
    from tests.broker.node import Node

pytestmark = pytest.mark.anyio

ORDERINGS = pytest.mark.parametrize("ordering", ["none", "key"])
ENDINGS = [AcknowledgeType.ACCEPT, AcknowledgeType.RELEASE, AcknowledgeType.REJECT]


async def share_transaction(node: Node, *requests: Request) -> DeliveryResult:
    """Answer requests in one transaction."""
    queue, topic = await node.services.queues.route("jobs", refresh=False)
    return await node.storage.write(deliver, DeliveryBatch(queue, topic, requests, 0, wait=False))


async def hold_delayed(node: Node) -> Delivery:
    """Acquire a record that was delayed, and leave another one delayed."""
    await produce_keyed(node, b"a", b"b", deliver_at_ms=FAR_MS)
    assert await acquire(node, 2) == []
    await end_delays(node)
    (held,) = await acquire(node)
    return held


@pytest.mark.parametrize("delayed", [True, False], ids=["delayed", "in flight"])
@pytest.mark.parametrize("first", ENDINGS, ids=lambda each: each.name.lower())
async def test_of_two_acknowledges_of_a_delivery_in_one_transaction_the_second_is_refused(
    node: Node, first: AcknowledgeType, delayed: bool
) -> None:
    await create(node)
    if delayed:
        held = await hold_delayed(node)
    else:
        await produce_keyed(node, b"a", b"b")
        (held,) = await acquire(node)
    requests = [Acknowledge([Acknowledgement(held.delivery_id, each)]) for each in (first, *ENDINGS)]

    done = await share_transaction(node, *requests)

    results = [cast("Acknowledged", answer).results[0].code for answer in done.answers]
    after = await state(node)
    assert results == [None, *["INVALID_RECORD_STATE"] * 3]
    assert (after.accepted, after.acquired) == (int(first is AcknowledgeType.ACCEPT), 0)


async def test_a_renewed_delayed_delivery_is_settled_by_another_request_of_its_transaction(node: Node) -> None:
    await create(node)
    held = await hold_delayed(node)
    types = [AcknowledgeType.RENEW, AcknowledgeType.RENEW, AcknowledgeType.ACCEPT]
    requests = [Acknowledge([Acknowledgement(held.delivery_id, each)]) for each in types]

    done = await share_transaction(node, *requests)

    results = [cast("Acknowledged", answer).results[0].code for answer in done.answers]
    assert (results, (await state(node)).accepted) == ([None, None, None], 1)


@ORDERINGS
async def test_an_acquire_that_admits_a_delayed_record_says_when_it_is_due(node: Node, ordering: str) -> None:
    await create(node, ordering=ordering)
    await produce_keyed(node, b"a", deliver_at_ms=FAR_MS)

    done = await share_transaction(node, Acquire(1, 1 << 20))

    assert cast("Acquired", done.answers[0]).available_at_ms == FAR_MS


@ORDERINGS
async def test_an_acquire_says_when_a_record_is_due_that_its_transaction_releases_with_delay(
    node: Node, ordering: str
) -> None:
    await create(node, ordering=ordering)
    await produce_keyed(node, b"a")
    (held,) = await acquire(node)
    release = Acknowledge([Acknowledgement(held.delivery_id, AcknowledgeType.RELEASE, 5_000)])

    done = await share_transaction(node, release, Acquire(1, 1 << 20))

    acquired = cast("Acquired", done.answers[1])
    assert acquired.available_at_ms == acquired.now_ms + 5_000
