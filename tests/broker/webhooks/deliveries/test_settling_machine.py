"""Any attempts at any times: retries, pauses, the breaker and the end of each record follow their rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.broker.webhooks.deliveries.sender import Sent
from app.broker.webhooks.deliveries.settling import Verdicts, settle_all
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.webhooks import pace
from app.domain.webhooks.breaker import DISABLE_AFTER_MS, Breaker, BreakerState
from app.domain.webhooks.pace import Bucket, Pace
from app.domain.webhooks.webhook import WebhookConfig, WebhookInfo

START_MS = 1_700_000_000_000
DELAYS_MS = (0, 5_000, 300_000)
MAX_IN_FLIGHT = 3
RECORDS = 12
STATUSES = (200, 204, 302, 404, 429, 500, 503, None)


@dataclass
class Item:
    """A record as the queue has it."""

    due_at_ms: int = START_MS
    attempts: int = 0
    posts: int = 0
    charged: int = 0
    end: str | None = None


@dataclass
class Attempt:
    """An attempt under way."""

    item: Item
    is_probe: bool
    began_at_ms: int


@dataclass
class Seen:
    """The attempts that count, since the last success."""

    failed_at_ms: list[int] = field(default_factory=list)


class Settling(RuleBasedStateMachine):
    """One webhook: a record is sent when it is due and `pace.room` allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = START_MS
        config = WebhookConfig(
            url="https://example.com", topics=("orders",), retry_delays_ms=DELAYS_MS, max_in_flight=MAX_IN_FLIGHT
        )
        self.info = WebhookInfo(1, "billing", config, None, None, Breaker(), 0)
        self.verdicts = Verdicts(Breaker(), 0, None, None)
        self.items = [Item() for _ in range(RECORDS)]
        self.under_way: list[Attempt] = []
        self.seen = Seen()
        self.is_disabled = False

    def due(self) -> list[Item]:
        busy = [id(each.item) for each in self.under_way]
        return [
            each for each in self.items if each.end is None and each.due_at_ms <= self.now_ms and id(each) not in busy
        ]

    def room(self) -> int:
        if self.is_disabled:
            return 0
        limits = Pace(MAX_IN_FLIGHT, None, self.verdicts.held_until_ms, self.verdicts.breaker)
        return pace.room(limits, Bucket(0.0, self.now_ms), len(self.under_way), self.now_ms)

    @precondition(lambda self: self.due() and self.room())
    @rule()
    def begin(self) -> None:
        state = self.verdicts.breaker.state(self.now_ms)
        assert state is not BreakerState.OPEN
        assert self.now_ms >= self.verdicts.held_until_ms
        is_probe = state is BreakerState.HALF_OPEN
        assert not is_probe or not self.under_way, "a probe is alone"
        item = self.due()[0]
        item.posts += 1
        self.under_way.append(Attempt(item, is_probe, self.now_ms))

    @precondition(lambda self: self.under_way)
    @rule(
        number=st.integers(0, MAX_IN_FLIGHT - 1),
        status=st.sampled_from(STATUSES),
        requested_s=st.sampled_from([0, 1, 7_200]),
        is_ours=st.booleans(),
        jitter=st.floats(0, 1),
    )
    def end(self, number: int, status: int | None, requested_s: int, *, is_ours: bool, jitter: float) -> None:
        attempt = self.under_way.pop(number % len(self.under_way))
        item = attempt.item
        is_delivered = status is not None and 200 <= status < 300
        outcome: Any = "delivered" if is_delivered else "failed"
        if status is None and is_ours:
            outcome = "not_sent"
        requested_ms = requested_s * 1_000 if status in (429, 503) else 0
        sent = Sent(outcome, attempt.began_at_ms, 1, status, None, requested_ms=requested_ms)
        before = self.verdicts.breaker
        (fate,) = settle_all(
            self.info, [item.attempts], sent, self.verdicts, self.now_ms, jitter, is_probe=attempt.is_probe
        )
        if outcome == "not_sent":
            assert self.verdicts.breaker == before
            assert fate.attempts == (item.attempts or None)
        elif is_delivered:
            self.seen.failed_at_ms.clear()
            assert self.verdicts.breaker.state(self.now_ms) is BreakerState.CLOSED
        else:
            self.seen.failed_at_ms.append(self.now_ms)
            if requested_ms:
                assert self.verdicts.held_until_ms >= self.now_ms + min(requested_ms, 3_600_000)
        self.settle(item, fate, is_charged=outcome == "failed" and not attempt.is_probe and not self.is_over())
        self.is_disabled |= self.is_over()

    def is_over(self) -> bool:
        failed = self.seen.failed_at_ms
        return bool(failed) and failed[-1] - failed[0] >= DISABLE_AFTER_MS

    def settle(self, item: Item, fate: Any, *, is_charged: bool) -> None:
        if fate.acknowledge_type is AcknowledgeType.RELEASE:
            if is_charged:
                least_ms = DELAYS_MS[item.charged]
                assert fate.delay_ms >= least_ms
                item.charged += 1
            item.due_at_ms = self.now_ms + fate.delay_ms
            item.attempts = fate.attempts or 0
        else:
            item.charged += is_charged
            item.end = "dropped" if fate.is_exhausted else "delivered"
            assert (item.end == "dropped") == (item.charged > len(DELAYS_MS))

    @rule(ms=st.sampled_from([1, 1_000, 30_000, 300_000, 900_000, 3_600_000, 86_400_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @invariant()
    def attempts_are_what_was_charged(self) -> None:
        for each in self.items:
            assert each.end is not None or each.attempts == each.charged
            assert each.charged <= len(DELAYS_MS) + 1

    @invariant()
    def counts_are_what_has_ended(self) -> None:
        ends = [each.end for each in self.items]
        assert self.verdicts.counts.delivered == ends.count("delivered")
        assert self.verdicts.counts.dropped == ends.count("dropped")

    @invariant()
    def it_is_disabled_after_five_days_of_nothing_but_failures(self) -> None:
        assert (self.verdicts.disable is not None) == self.is_disabled

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        assert self.verdicts.held_until_ms <= self.now_ms + 3_600_000
        assert self.verdicts.breaker.probe_at_ms <= self.now_ms + 900_000


TestSettling = Settling.TestCase
TestSettling.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
