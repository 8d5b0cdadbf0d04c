"""Members: subscriptions, and how much of a session remains."""

from __future__ import annotations

import pytest

from app.domain.groups.member import JoinRequest, Member, Subscription


def test_the_order_of_topics_does_not_change_a_subscription() -> None:
    one, other = Subscription(("a", "b")), Subscription(("b", "a", "b"))

    assert one == other
    assert other.topics == ("a", "b")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("orders.*", "orders.eu", True),
        ("orders.*", "orders", False),
        ("orders.*", "ordersXeu", False),
        ("orders*", "orders", True),
        ("*", "Orders", True),
        ("orders", "Orders", False),
        ("shard-[0-3]", "shard-2", True),
        ("shard-[0-3]", "shard-7", False),
        ("shard-[!0-3]", "shard-7", True),
        ("shard-?", "shard-10", False),
        ("[", "orders", False),
        ("*", "__internal", False),
        ("__*", "__internal", False),
    ],
)
def test_a_pattern_is_a_case_sensitive_glob_that_excludes_internal_topics(
    pattern: str, name: str, matches: bool
) -> None:
    assert Subscription((), pattern).matches(name) is matches


def test_an_internal_topic_is_matched_by_its_name() -> None:
    assert Subscription(("__internal",)).matches("__internal")


@pytest.mark.parametrize(
    ("session_ms", "left_ms", "ample"),
    [(30_000, 14_900, True), (30_000, 10_000, True), (30_000, 9_999, False), (2_000, 1_000, True), (2_000, 999, False)],
)
def test_a_session_is_ample_while_two_heartbeats_and_a_second_remain(
    session_ms: int, left_ms: int, ample: bool
) -> None:
    member = Member(
        join_request=JoinRequest(member_id="alice", subscription=Subscription(), session_timeout_ms=session_ms),
        member_epoch=1,
        deadline_ms=1_700_000_000_000,
        joined_at_ms=0,
    )

    assert member.session_is_ample(member.deadline_ms - left_ms) is ample
