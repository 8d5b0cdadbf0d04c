"""Waking readers: nobody sleeps through an announcement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals

pytestmark = pytest.mark.anyio


async def test_an_announcement_between_the_read_and_the_wait_is_not_lost() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        watch.clear()
        signals.announce([1])

        await asyncio.wait_for(watch.wait(), 1)


async def test_an_announcement_before_the_read_is_not_waited_for_twice() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        signals.announce([1])
        watch.clear()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.wait(), 0.01)


async def test_only_those_who_watch_the_partition_are_woken() -> None:
    signals = Signals()
    with signals.watch([1, 2]) as both, signals.watch([3]) as other:
        both.clear()
        other.clear()
        signals.announce([2, 9])

        await asyncio.wait_for(both.wait(), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.wait(), 0.01)


async def test_all_who_watch_a_partition_are_woken_at_once() -> None:
    signals = Signals()

    async def wait() -> None:
        with signals.watch([1]) as watch:
            watch.clear()
            await watch.wait()

    tasks = [asyncio.ensure_future(wait()) for _ in range(100)]
    await asyncio.sleep(0)
    assert signals.waiting == 100
    signals.announce([1])
    await asyncio.wait_for(asyncio.gather(*tasks), 1)

    assert signals.waiting == 0
    assert signals.watched_ids() == []


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    signals = Signals()

    async def wait() -> None:
        with signals.watch([1, 2]) as watch:
            watch.clear()
            await watch.wait()

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert signals.watched_ids() == []


async def test_announcements_are_forwarded_to_other_nodes_and_notices_are_not() -> None:
    forwarded: list[Iterable[int]] = []
    signals = Signals(forwarded.append)

    signals.announce([1])
    signals.wake([2])
    signals.wake_all()

    assert forwarded == [[1]]


async def test_the_poll_wakes_those_who_are_behind_or_whose_partition_is_gone() -> None:
    signals = Signals()
    with signals.watch([1]) as behind, signals.watch([2]) as gone, signals.watch([3]) as current:
        for watch, partition_id in ((behind, 1), (gone, 2), (current, 3)):
            watch.clear()
            watch.log_end_offsets[partition_id] = 5
        signals.wake_outdated({1: (1, 6), 3: (1, 5)})

        await asyncio.wait_for(asyncio.gather(behind.wait(), gone.wait()), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(current.wait(), 0.01)


async def test_closing_ends_all_waits() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        watch.clear()
        signals.close()

        await asyncio.wait_for(watch.wait(), 1)
    assert signals.closed


async def test_patience_is_over_at_its_deadline() -> None:
    signals = Signals()
    deadline = Deadline(20)
    with signals.watch([1]) as watch:
        assert not deadline.expired
        watch.clear()
        await asyncio.wait_for(deadline.wait(watch), 1)

        assert deadline.expired


async def test_patience_is_over_when_the_client_goes() -> None:
    signals = Signals()
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    deadline = Deadline(60_000, gone)
    with signals.watch([1]) as watch:
        watch.clear()
        waiting = asyncio.ensure_future(deadline.wait(watch))
        await asyncio.sleep(0)
        gone.set_result(None)
        await asyncio.wait_for(waiting, 1)

        assert deadline.expired


async def test_the_poll_wakes_a_reader_of_a_whole_topic_that_has_grown() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        watch.clear()
        watch.topic_version, watch.log_end_offsets[1] = 1, 5
        signals.wake_outdated({1: (2, 5)})

        await asyncio.wait_for(watch.wait(), 1)
