"""The gate that limits the work under way by its bytes."""

from __future__ import annotations

import asyncio

import pytest

from app.broker.waiting.work_gate import WorkGate

pytestmark = pytest.mark.anyio


async def passes() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_work_beyond_the_limit_waits_in_order_of_arrival() -> None:
    gate, entered = WorkGate(100), list[str]()

    async def enter(name: str, size: int) -> None:
        await gate.enter(size)
        entered.append(name)

    await gate.enter(80)
    tasks = [asyncio.create_task(enter(name, size)) for name, size in (("large", 90), ("small", 10))]
    await passes()
    assert entered == []

    gate.leave(80)
    await passes()
    assert entered == ["large", "small"]
    assert gate.bytes == 100
    await asyncio.gather(*tasks)


async def test_work_larger_than_the_limit_runs_alone() -> None:
    gate = WorkGate(100)
    await gate.enter(300)
    waiting = asyncio.create_task(gate.enter(1))
    await passes()
    assert gate.waiting == 1

    gate.leave(300)
    await waiting
    assert gate.bytes == 1


@pytest.mark.parametrize("admitted", [False, True])
async def test_cancelled_work_leaves_its_room_to_the_next(*, admitted: bool) -> None:
    gate = WorkGate(100)
    await gate.enter(100)
    cancelled = asyncio.create_task(gate.enter(60))
    following = asyncio.create_task(gate.enter(60))
    await passes()
    if admitted:
        gate.leave(100)
        cancelled.cancel()
    else:
        cancelled.cancel()
        await passes()
        gate.leave(100)
    await following

    assert gate.bytes == 60
    assert gate.waiting == 0
