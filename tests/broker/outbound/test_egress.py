"""When a failure is taken for a fault of this side, and when no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.broker.outbound.egress import Egress
from tests.broker.node import Clock

if TYPE_CHECKING:
    import pytest

DAY_MS = 86_400_000


def fail_all(egress: Egress, *hosts: str) -> bool:
    """Note attempts without an answer. Return whether this side is at fault then."""
    for host in hosts:
        egress.failed(host)
    return egress.is_down


def test_three_silent_hosts_within_a_minute_are_a_fault_of_this_side() -> None:
    egress = Egress(Clock())

    assert not fail_all(egress, "a", "b", "a", "b")
    assert fail_all(egress, "c")


def test_a_host_that_is_silent_later_is_at_fault_itself() -> None:
    clock = Clock()
    egress = Egress(clock)
    fail_all(egress, "a", "b", "c")

    clock.advance(60_000)
    assert not fail_all(egress, "a")
    assert fail_all(egress, "b", "c")


def test_a_host_that_fails_again_counts_from_its_last_failure() -> None:
    clock = Clock()
    egress = Egress(clock)
    fail_all(egress, "a", "b", "c")

    clock.advance(59_000)
    assert fail_all(egress, "a")

    clock.advance(1_000)
    assert not fail_all(egress, "d")
    assert fail_all(egress, "e")


def test_an_answer_ends_it() -> None:
    egress = Egress(Clock())
    fail_all(egress, "a", "b", "c")

    egress.answered()

    assert not fail_all(egress, "a", "b")


def test_three_receivers_that_are_gone_and_no_other_are_charged_after_a_day() -> None:
    clock = Clock()
    egress = Egress(clock)
    minutes_not_charged = 0
    for _ in range(2 * 24 * 60):
        minutes_not_charged += fail_all(egress, "a", "b", "c")
        clock.advance(60_000)

    assert minutes_not_charged == 24 * 60


def test_after_a_day_a_pause_of_the_attempts_begins_no_other_day() -> None:
    clock = Clock()
    egress = Egress(clock)
    fail_all(egress, "a", "b", "c")
    clock.advance(DAY_MS)

    assert not fail_all(egress, "a", "b", "c")

    egress.answered()
    assert fail_all(egress, "a", "b", "c")


def test_the_beginning_the_day_and_the_end_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    egress = Egress(clock)
    for _ in range(2 * 24 * 60):
        fail_all(egress, "a", "b", "c")
        clock.advance(60_000)
    egress.answered()
    egress.answered()

    assert [each.message.partition(" (")[0] for each in caplog.records] == [
        "no other server answers",
        "no other server has answered for a day; from now on their webhooks are charged",
        "other servers answer again; deliveries go on",
    ]
