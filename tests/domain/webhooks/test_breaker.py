"""The breaker of a webhook under random attempts and times."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.domain.webhooks import breaker
from app.domain.webhooks.breaker import Breaker, BreakerState

MINUTE_MS = 60_000


class Machine(RuleBasedStateMachine):
    """A breaker, with what happened since it was last closed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_700_000_000_000
        self.state = Breaker()
        self.failing_since_ms: int | None = None

    @rule(milliseconds=st.sampled_from([1, 1_000, 30_000, MINUTE_MS, 6 * MINUTE_MS, 16 * MINUTE_MS]))
    def wait(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    @rule(delivered=st.booleans(), times=st.integers(1, 12))
    def attempt(self, delivered: bool, times: int) -> None:
        for _ in range(times):
            before = self.state
            self.state = breaker.record(self.state, self.now_ms, delivered=delivered)
            if delivered:
                self.failing_since_ms = None
                assert self.state.state(self.now_ms) is BreakerState.CLOSED
            else:
                self.failing_since_ms = self.now_ms if self.failing_since_ms is None else self.failing_since_ms
                if before.state(self.now_ms) is BreakerState.HALF_OPEN:
                    assert self.state.state(self.now_ms) is BreakerState.OPEN

    @invariant()
    def an_open_breaker_lets_a_probe_pass_within_fifteen_minutes(self) -> None:
        if self.state.opened:
            assert self.state.probe_at_ms <= self.now_ms + 15 * MINUTE_MS
            assert self.state.state(self.state.probe_at_ms) is BreakerState.HALF_OPEN

    @invariant()
    def it_knows_since_when_nothing_was_delivered(self) -> None:
        assert self.state.failing_since_ms == self.failing_since_ms
        due = self.failing_since_ms is not None and self.now_ms - self.failing_since_ms >= 5 * 86_400_000
        assert breaker.is_to_disable(self.state, self.now_ms) is due


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestBreaker = Machine.TestCase


def test_seven_failures_of_ten_within_five_minutes_open_it_and_six_do_not() -> None:
    for failures, expected in ((6, BreakerState.CLOSED), (7, BreakerState.OPEN)):
        state = Breaker()
        for number in range(10):
            state = breaker.record(state, 1_000 + number, delivered=number < 10 - failures)
        assert state.state(2_000) is expected


def test_it_stays_open_twice_as_long_after_each_probe_that_fails() -> None:
    state, now_ms, lengths = Breaker(), 0, []
    for _ in range(10):
        state = breaker.record(state, now_ms, delivered=False)
    for _ in range(7):
        lengths.append(state.probe_at_ms - now_ms)
        now_ms = state.probe_at_ms
        state = breaker.record(state, now_ms, delivered=False)

    assert lengths == [30_000, 60_000, 120_000, 240_000, 480_000, 900_000, 900_000]
