"""Announcements wake the readers that wait for them, and deadlines end their waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio


async def test_an_announcement_between_the_read_and_the_wait_is_not_lost() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        watch.clear()
        signals.announce([1])

        await asyncio.wait_for(watch.wait(), DEADLINE_S)


async def test_an_announcement_before_the_read_does_not_end_the_wait_after_it() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        signals.announce([1])
        watch.clear()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.wait(), 0.01)


async def test_only_readers_of_the_partition_are_woken() -> None:
    signals = Signals()
    with signals.watch([1, 2]) as both, signals.watch([3]) as other:
        both.clear()
        other.clear()
        signals.announce([2, 9])

        await asyncio.wait_for(both.wait(), DEADLINE_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.wait(), 0.01)


async def test_all_readers_of_a_partition_are_woken_at_once() -> None:
    signals = Signals()

    async def wait() -> None:
        with signals.watch([1]) as watch:
            watch.clear()
            await watch.wait()

    tasks = [asyncio.ensure_future(wait()) for _ in range(100)]
    await asyncio.sleep(0)
    assert signals.waiting == 100
    signals.announce([1])
    await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)

    assert signals.waiting == 0
    assert signals.watched_ids() == []


async def test_a_cancelled_wait_leaves_no_watch() -> None:
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


async def test_only_announcements_of_this_node_notify_the_other_nodes() -> None:
    notified: list[Iterable[int]] = []
    signals = Signals(notified.append)

    signals.announce([1])
    signals.wake([2])
    signals.wake_all()

    assert notified == [[1]]


async def test_the_poll_wakes_readers_that_are_behind_or_whose_partition_is_deleted() -> None:
    signals = Signals()
    with signals.watch([1]) as behind, signals.watch([2]) as deleted, signals.watch([3]) as current:
        for watch, partition_id in ((behind, 1), (deleted, 2), (current, 3)):
            watch.clear()
            watch.log_end_offsets[partition_id] = 5
        signals.wake_outdated({1: (1, 6), 3: (1, 5)})

        await asyncio.wait_for(asyncio.gather(behind.wait(), deleted.wait()), DEADLINE_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(current.wait(), 0.01)


async def test_closing_ends_all_waits() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        watch.clear()
        signals.close()

        await asyncio.wait_for(watch.wait(), DEADLINE_S)
    assert signals.closed


async def test_a_deadline_expires_after_its_time() -> None:
    signals = Signals()
    deadline = Deadline(20)
    with signals.watch([1]) as watch:
        assert not deadline.expired
        watch.clear()
        await asyncio.wait_for(deadline.wait(watch), DEADLINE_S)

        assert deadline.expired


async def test_a_deadline_expires_when_the_client_disconnects() -> None:
    signals = Signals()
    disconnect: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    deadline = Deadline(60_000, disconnect)
    with signals.watch([1]) as watch:
        watch.clear()
        waiting = asyncio.ensure_future(deadline.wait(watch))
        await asyncio.sleep(0)
        disconnect.set_result(None)
        await asyncio.wait_for(waiting, DEADLINE_S)

        assert deadline.expired


async def test_the_poll_wakes_a_reader_of_a_topic_with_new_partitions() -> None:
    signals = Signals()
    with signals.watch([1]) as watch:
        watch.clear()
        watch.topic_version, watch.log_end_offsets[1] = 1, 5
        signals.wake_outdated({1: (2, 5)})

        await asyncio.wait_for(watch.wait(), DEADLINE_S)
