"""The clock of the log, its checks, and what a wrong clock may delete, on both databases."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from app.broker.log.broker_clock import BrokerClock
from app.broker.queues import bulk_changes
from app.domain.log.append import IdempotencyKey
from app.domain.log.clock_tick import ClockTick
from app.domain.log.topic import TopicConfig
from app.storage.groups import groups, offsets
from app.storage.log import clock_ticks, idempotency, producers
from app.tasks.retention import Retention
from tests.storage.scribe import Row, Scribe, request

if TYPE_CHECKING:
    from app.storage.db.engine import Storage

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
GRACE_MS = HOUR_MS
DAYS_MS = 8 * DAY_MS


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Clocks:
    """The clocks of a process; the test advances the monotonic clock, or both."""

    def __init__(self, wall_ahead_ms: int = 0) -> None:
        self.wall_ahead_ms = wall_ahead_ms
        self.elapsed_ms = 0

    def wall_ms(self) -> int:
        return now_ms() + self.wall_ahead_ms

    def monotonic_ms(self) -> int:
        return 1_000_000 + self.elapsed_ms


@pytest.fixture
def scribe(storage: Storage) -> Scribe:
    """Writes to the log; its records are a minute old."""
    scribe = Scribe(storage)
    scribe.now_ms = now_ms() - 60_000
    return scribe


def clock_of(storage: Storage, clocks: Clocks | None = None) -> BrokerClock:
    clocks = clocks or Clocks()
    return BrokerClock(
        storage,
        wall_ms=clocks.wall_ms,
        monotonic_ms=clocks.monotonic_ms,
        grace_ms=GRACE_MS,
        on_step_back=bulk_changes.step_back,
    )


def set_last_tick(storage: Storage, tick: ClockTick) -> None:
    """Store a last tick in the past: to the next check, the clock has jumped ahead."""
    storage.write_now(clock_ticks.save, tick, now_ms() - HOUR_MS)


def test_on_a_shared_database_the_wall_clock_of_the_node_does_not_count(storage: Storage) -> None:
    for ahead_ms in (DAYS_MS, -DAYS_MS):
        clock = clock_of(storage, Clocks(ahead_ms))

        expected_ms = now_ms() + (0 if storage.dialect.shared else ahead_ms)
        assert abs(clock() - expected_ms) < 60_000


async def test_a_check_stores_the_tick_and_pauses_nothing(storage: Storage) -> None:
    clock = clock_of(storage)

    assert await clock.check() is False

    tick = storage.read_now(clock_ticks.load)
    assert abs(tick.ticked_at_ms - now_ms()) < 60_000
    assert tick.grace_began_at_ms is None
    assert not clock.paused


async def test_a_jump_while_the_process_was_away_pauses_deletion_until_the_grace_is_over(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    set_last_tick(storage, ClockTick(now_ms() - DAYS_MS))
    clock = clock_of(storage)

    with caplog.at_level(logging.WARNING):
        await clock.check()
        await clock.check()

    grace = storage.read_now(clock_ticks.load)
    assert clock.paused
    assert grace.ticked_at_ms < now_ms() - DAYS_MS + 60_000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "deletion by time is paused until" in caplog.text

    set_last_tick(storage, ClockTick(grace.ticked_at_ms, now_ms() - GRACE_MS - 1))
    restarted = clock_of(storage)
    await restarted.check()

    assert not restarted.paused
    assert abs(storage.read_now(clock_ticks.load).ticked_at_ms - now_ms()) < 60_000


async def test_a_grace_goes_on_after_a_restart(storage: Storage) -> None:
    began_ms = now_ms() - GRACE_MS // 2
    set_last_tick(storage, ClockTick(now_ms() - DAYS_MS, began_ms))
    restarted = clock_of(storage)

    await restarted.check()

    assert restarted.paused
    assert storage.read_now(clock_ticks.load).grace_began_at_ms == began_ms


async def test_a_jump_of_the_wall_clock_under_a_running_server_pauses_deletion_on_sqlite_only(storage: Storage) -> None:
    clocks = Clocks()
    clock = clock_of(storage, clocks)
    await clock.check()

    clocks.wall_ahead_ms = DAYS_MS
    await clock.check()

    assert clock.paused is not storage.dialect.shared


async def test_during_a_grace_nothing_is_deleted_by_age_and_after_it_everything_is(
    storage: Storage, scribe: Scribe
) -> None:
    orders = scribe.create("orders", retention_ms=7 * DAY_MS)
    state = scribe.create("state", cleanup_policy="compact", delete_retention_ms=DAY_MS)
    scribe.now_ms -= DAYS_MS  # written before the jump
    scribe.append(orders, [Row(scribe.now_ms, value=b"kept")])
    scribe.append(state, [Row(scribe.now_ms, b"k", None), Row(scribe.now_ms, b"l", b"last")])
    await Retention(storage, TopicConfig(), lambda: scribe.now_ms).compact()  # sees the tombstone
    key = IdempotencyKey(b"h" * 32, b"f" * 32)
    scribe.apply(request(orders, [Row(scribe.now_ms, value=b"keyed")], key=key))
    storage.write_now(producers.raise_epoch, "p", scribe.now_ms)
    set_last_tick(storage, ClockTick(scribe.now_ms))
    task = Retention(storage, TopicConfig(), clock_of(storage))

    for step in (task.raise_log_starts, task.compact, task.expire):
        await step()

    assert scribe.bounds(orders).log_start_offset == 0
    assert scribe.values(state) == {0: None, 1: b"last"}
    assert storage.read_now(idempotency.find, [(orders.topic_id, key.key_hash)], now_ms()) != {}
    assert storage.read_now(producers.find, "p") is not None

    set_last_tick(storage, ClockTick(now_ms()))
    for step in (task.raise_log_starts, task.compact, task.expire):
        await step()

    assert scribe.bounds(orders).log_start_offset == 2
    assert scribe.values(state) == {1: b"last"}
    assert storage.read_now(idempotency.find, [(orders.topic_id, key.key_hash)], now_ms()) == {}
    assert storage.read_now(producers.find, "p") is None


async def test_during_a_grace_the_offsets_of_empty_groups_do_not_expire(storage: Storage) -> None:
    emptied_ms = now_ms() - offsets.RETENTION_MS - DAY_MS
    storage.write_now(groups.create, "billing", emptied_ms)
    set_last_tick(storage, ClockTick(emptied_ms + DAY_MS))

    assert storage.read_now(offsets.expired_groups, 10) == []

    set_last_tick(storage, ClockTick(now_ms()))

    assert storage.read_now(offsets.expired_groups, 10) == ["billing"]


async def test_retention_by_size_goes_on_during_a_grace(storage: Storage, scribe: Scribe) -> None:
    info = scribe.create(retention_bytes=5)
    scribe.append(info, [Row(scribe.now_ms, value=b"12345"), Row(scribe.now_ms, value=b"67890")])
    set_last_tick(storage, ClockTick(now_ms() - DAYS_MS))

    await Retention(storage, TopicConfig(), clock_of(storage)).raise_log_starts()

    assert scribe.bounds(info).log_start_offset == 1
