"""Notices between nodes: what is sent and when, and which readers a received notice wakes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.broker.waiting.signals import Signals
from app.tasks.notices import Outbox, poll_watched, receive_notices, send_notices
from tests.storage.scribe import Scribe
from tests.tasks.sleeper import Sleeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from app.storage.db.engine import Storage

pytestmark = pytest.mark.anyio


class Link:
    """Notices whose peers are the test: it reads what is sent, and sends what is received."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[set[int]] = asyncio.Queue()
        self.received: asyncio.Queue[list[int] | None] = asyncio.Queue()
        self.lost = False

    async def send(self, partition_ids: Iterable[int]) -> None:
        if self.lost:
            raise ConnectionError
        self.sent.put_nowait(set(partition_ids))

    async def listen(self) -> AsyncIterator[list[int] | None]:
        while not self.lost:
            yield await self.received.get()


class Counter:
    """Counts the calls of `on_success`, and lets the test wait for one."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[None] = asyncio.Queue()

    def __call__(self) -> None:
        self._calls.put_nowait(None)

    async def next(self) -> None:
        await self._calls.get()


async def test_partitions_that_change_within_the_interval_share_a_notice() -> None:
    outbox, link, sleeper = Outbox(), Link(), Sleeper()
    sending = asyncio.ensure_future(send_notices(outbox, link, 50, Counter(), sleeper.sleep))  # type: ignore[arg-type] # a double

    outbox.put([1])
    assert await link.sent.get() == {1}
    outbox.put([2, 3])
    outbox.put([3, 4])
    pause_s, pause = await sleeper.begun()
    assert link.sent.empty()
    pause.set_result(None)

    assert await link.sent.get() == {2, 3, 4}
    assert pause_s == 0.05
    sending.cancel()


async def test_partitions_of_a_notice_that_failed_are_sent_with_the_next() -> None:
    outbox, link, counter = Outbox(), Link(), Counter()
    link.lost = True
    outbox.put([1])
    with pytest.raises(ConnectionError):
        await send_notices(outbox, link, 50, counter, Sleeper().sleep)  # type: ignore[arg-type] # a double

    link.lost = False
    outbox.put([2])
    sending = asyncio.ensure_future(send_notices(outbox, link, 50, counter, Sleeper().sleep))  # type: ignore[arg-type] # a double

    assert await link.sent.get() == {1, 2}
    sending.cancel()


async def test_a_notice_wakes_the_readers_of_its_partitions_only() -> None:
    link, counter, signals = Link(), Counter(), Signals(lambda _: None)
    receiving = asyncio.ensure_future(receive_notices(signals, link, counter))  # type: ignore[arg-type] # a double
    with signals.watch([1]) as first, signals.watch([2]) as second:
        waits = [asyncio.ensure_future(watch.wait()) for watch in (first, second)]

        link.received.put_nowait([1])
        await waits[0]
        await counter.next()

        assert not waits[1].done()
        receiving.cancel()
        await waits[1]  # notices may be lost from now on


async def test_a_gap_in_the_notices_wakes_all_readers_and_ends_it() -> None:
    link, counter, signals = Link(), Counter(), Signals(lambda _: None)
    receiving = asyncio.ensure_future(receive_notices(signals, link, counter))  # type: ignore[arg-type] # a double
    receives_all = [signals.receives_all]
    with signals.watch([1]) as watch:
        link.received.put_nowait(None)
        await watch.wait()

        receives_all.append(signals.receives_all)
        watch.clear()
        link.lost = True
        link.received.put_nowait([2])
        await receiving
        await watch.wait()

        receives_all.append(signals.receives_all)
    assert receives_all == [False, True, False]


async def test_the_poll_wakes_a_reader_whose_partition_has_grown(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create(partitions=2)
    signals = Signals()
    grown, same = info.partition_ids
    with signals.watch([grown]) as stale, signals.watch([same]) as current:
        stale.log_end_offsets[grown] = current.log_end_offsets[same] = 0
        waits = [asyncio.ensure_future(watch.wait()) for watch in (stale, current)]
        scribe.append_values(info, b"one")

        assert await poll_watched(storage, signals) is False
        await waits[0]

        assert not waits[1].done()
        waits[1].cancel()
