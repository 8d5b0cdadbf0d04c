"""Archiving: what ends badly goes to the dead-letter topic, as much of it at once as there is room for."""

from __future__ import annotations

import tracemalloc

import pytest

from app.domain.queue import Outcome
from tests.broker.jobs import LARGE, acquire, archive, come_due, create, end_of, settle, state
from tests.broker.node import Node

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("copied", [False, True], ids=["of the log", "of copies"])
async def test_archiving_reads_records_by_their_bytes(sqlite_url: str, copied: bool) -> None:
    node = Node(sqlite_url)
    try:
        await create(node, "dead", max_delivery_count=2)
        for _ in range(45):
            await node.produce(LARGE)
        held = await acquire(node, 30) + await acquire(node, 30)
        if copied:
            await settle(node, held, Outcome.RELEASE, 60_000)
            await come_due(node)
            held = await acquire(node, 64) + await acquire(node, 64)
        await settle(node, held, Outcome.REJECT)
        del held
        tracemalloc.start()

        await archive(node)

        assert tracemalloc.get_traced_memory()[1] < 30_000_000
        assert (await state(node)).archived == await end_of(node, "dead") == 45
    finally:
        tracemalloc.stop()
        node.storage.close()


async def test_archiving_goes_on_until_nothing_is_left(node: Node) -> None:
    await create(node, "dead")
    await node.produce(*(b"%d" % number for number in range(250)))
    held = await acquire(node, 250)
    await settle(node, held[:120], Outcome.RELEASE, 60_000)
    await come_due(node)
    await settle(node, held[120:] + await acquire(node, 64) + await acquire(node, 64), Outcome.REJECT)

    await archive(node)

    assert (await state(node)).archived == await end_of(node, "dead") == 250
