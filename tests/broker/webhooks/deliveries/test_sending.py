"""How many attempts of records and of replays are under way, and when the next may begin."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from app.broker.outbound.egress import Egress
from app.broker.webhooks.deliveries.feeds import OnItsWay
from app.broker.webhooks.deliveries.holding import HeldMemory, Lease
from app.broker.webhooks.deliveries.sender import Receiver, Sender
from app.broker.webhooks.deliveries.sending import Sending
from app.broker.webhooks.deliveries.settling import Verdicts
from app.broker.webhooks.keys import SigningKeys
from app.domain.log.record import VALUE_TEXT, StoredRecord
from app.domain.queues.delivery import Delivery
from app.domain.queues.delivery_id import DeliveryId
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.message import WebhookRecord
from app.domain.webhooks.webhook import WebhookConfig, WebhookInfo
from app.storage.webhooks.retries import RecordKey
from tests.broker.node import Clock
from tests.waiting import pause

pytestmark = pytest.mark.anyio

RECEIVER = Receiver("billing", "https://example.com", 1_000, {}, SigningKeys("hmac", (b"x" * 24,)), "a" * 16)


class Idle:
    """A webhook that sends nothing by itself."""

    def __init__(self, max_in_flight: int = 1, rate_limit_per_s: int | None = None) -> None:
        self.clock = Clock()
        self.lease = Lease()
        self.egress = Egress(self.clock)
        self.verdicts = Verdicts(Breaker(), 0, None, None)
        sender = Sender(lambda: pytest.fail("nothing is sent"), self.egress)
        self.memory = HeldMemory(1_000_000)
        self.sending = Sending(sender, self.egress, self.verdicts, self.clock, lambda *_: None, self.lease, self.memory)
        config = WebhookConfig(
            url=RECEIVER.url, topics=("orders",), max_in_flight=max_in_flight, rate_limit_per_s=rate_limit_per_s
        )
        self.info = WebhookInfo(1, "billing", config, None, None, Breaker(), 0)
        self.sending.configure(self.info, RECEIVER)

    def cut_off(self) -> None:
        for host in ("a", "b", "c"):
            self.egress.failed(host)


def on_its_way(offset: int) -> OnItsWay:
    """Return a record whose lock lasts."""
    stored = StoredRecord(offset, 1, VALUE_TEXT, None, b"x" * 1_000, None, 1_000)
    delivery = Delivery(DeliveryId(1, 0, offset, 1), stored, 0)
    feed: Any = None
    record = WebhookRecord(1, "orders", 0, stored, f"msg_{offset}")
    return OnItsWay(feed, delivery, RecordKey(1, 1, offset), record, 0, math.inf)


async def test_records_hold_memory_until_they_end_or_are_forgotten() -> None:
    given = Idle()
    given.sending.add([[on_its_way(0)], [on_its_way(1)], [on_its_way(2)]])
    assert (given.sending.held, given.sending.ready) == (3, 2)
    assert given.memory.bytes >= 3_000
    assert len(given.sending.take_back()) == 2
    assert 1_000 <= given.memory.bytes < 2_000

    await given.sending.stop()  # the attempt has not begun to run
    given.sending.forget()
    assert (given.sending.held, given.memory.bytes) == (0, 0)


async def test_attempts_of_replays_are_a_part_of_max_in_flight() -> None:
    sending = Idle(max_in_flight=2).sending
    await sending.begin_other()
    await sending.begin_other()
    third = asyncio.create_task(sending.begin_other())
    await pause(0)
    assert (sending.in_flight, third.done()) == (2, False)

    sending.end_other()
    await third
    assert sending.in_flight == 2


async def test_an_attempt_of_a_replay_that_is_cancelled_while_it_waits_is_not_counted() -> None:
    sending = Idle().sending
    await sending.begin_other()
    for is_granted in (False, True):
        waiting = asyncio.create_task(sending.begin_other())
        await pause(0)
        if is_granted:
            sending.end_other()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert sending.in_flight == (0 if is_granted else 1)


async def test_nothing_begins_once_it_was_stopped() -> None:
    sending = Idle().sending
    await sending.stop()
    waiting = asyncio.create_task(sending.begin_other())
    await pause(0)
    sending.begin()

    assert sending.in_flight == 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_while_this_side_is_cut_off_one_attempt_begins_every_five_seconds() -> None:
    given = Idle(max_in_flight=4)
    await given.sending.begin_other()
    given.sending.end_other()
    given.cut_off()
    assert given.sending.room_to_acquire() == 0
    ready_at_ms = given.sending.ready_at_ms()
    assert ready_at_ms is not None
    assert 4_000 < ready_at_ms - given.clock() <= 5_000

    given.clock.advance(5_000)
    assert given.sending.room_to_acquire() == 1
    assert given.sending.ready_at_ms() is None, "an idle webhook would wake without end"


async def test_attempts_without_a_rate_limit_are_not_counted_for_a_later_one() -> None:
    given = Idle(rate_limit_per_s=1)
    await given.sending.begin_other()
    given.sending.end_other()
    given.sending.configure(Idle().info, RECEIVER)
    for _ in range(1_000):
        await given.sending.begin_other()
        given.sending.end_other()
    given.sending.configure(Idle(rate_limit_per_s=1).info, RECEIVER)
    given.clock.advance(2_000)

    assert given.sending.room_to_acquire() == 1


async def test_nothing_begins_after_the_lease_of_the_node_has_ended() -> None:
    given = Idle()
    given.lease.until_s = 0
    assert given.sending.room_to_acquire() == 0

    given.lease.until_s = math.inf
    assert given.sending.room_to_acquire() > 0
