"""The counts and the state of a queue."""

from __future__ import annotations

import pytest

from app.domain.queues.in_flight import AcknowledgeType
from tests.broker.node import Node
from tests.broker.queues.jobs import FAR_MS, acquire, create, end_delays, produce_keyed, settle, state

pytestmark = pytest.mark.anyio


async def test_due_delayed_records_are_blocked_by_acquired_records_of_their_keys(node: Node) -> None:
    await create(node, ordering="key")
    await produce_keyed(node, b"a", b"b")
    await produce_keyed(node, b"a", b"b", deliver_at_ms=FAR_MS)
    held = await acquire(node, 4)
    assert len(held) == 2
    await end_delays(node)

    assert await acquire(node, 4) == []
    assert ((await state(node)).available, (await state(node)).blocked) == (2, True)
    await settle(node, held[:1], AcknowledgeType.ACCEPT)
    assert (await state(node)).blocked is False
    assert len(await acquire(node, 4)) == 1
    assert (await state(node)).blocked is True
