"""When changed topics cause an assignment, and what an assignment changes."""

from __future__ import annotations

import pytest

from app.domain.groups.assignment import Rebalance, TopicMetadata, schedule_on_topic_change, update_target_assignment
from app.domain.groups.group import (
    Group,
    join_group,
    leave_group,
    schedule_assignment,
    take_heartbeat,
)
from app.domain.groups.member import AssignorName, JoinRequest, Subscription

NOW_MS = 1_700_000_000_000
LATER_MS = NOW_MS + 60_000
EMPTY = Group(group_id=1, name="g", empty_since_ms=NOW_MS)
ORDERS = {"orders": TopicMetadata(1, 2)}


def join(
    group: Group,
    member_id: str,
    *topics: str,
    pattern: str | None = None,
    assignor: AssignorName = "uniform",
    instance_id: str | None = None,
) -> Group:
    subscription = Subscription(topics, pattern)
    join_request = JoinRequest(
        member_id=member_id, subscription=subscription, assignor=assignor, instance_id=instance_id
    )
    return join_group(group, join_request, NOW_MS, 10)


def assign(group: Group, topics_by_name: dict[str, TopicMetadata], now_ms: int = NOW_MS) -> Group:
    return update_target_assignment(group, topics_by_name, now_ms)[0]


def notice(group: Group, topics_by_name: dict[str, TopicMetadata]) -> Group:
    return schedule_on_topic_change(group, topics_by_name, LATER_MS)


def alice(topics_by_name: dict[str, TopicMetadata], *topics: str, pattern: str | None = None) -> Group:
    return assign(join(EMPTY, "alice", *topics, pattern=pattern), topics_by_name)


# ── schedule_on_topic_change ──


def test_unchanged_topics_cause_no_assignment() -> None:
    group = alice(ORDERS, "orders")

    assert notice(group, ORDERS | {"audit": TopicMetadata(2, 5)}) is group


def test_added_partitions_cause_an_assignment() -> None:
    group = notice(alice(ORDERS, "orders"), {"orders": TopicMetadata(1, 3)})

    assert (group.reasons, group.assign_at_ms, group.group_epoch) == (("partitions_added",), LATER_MS, 2)


def test_a_topic_created_after_its_subscription_causes_an_assignment() -> None:
    group = notice(alice({}, "orders"), ORDERS)

    assert group.reasons == ("topic_created",)


def test_a_created_topic_that_matches_a_pattern_causes_an_assignment() -> None:
    group = alice({}, pattern="orders.*")

    assert notice(group, {"orders.eu": TopicMetadata(1, 1)}).reasons == ("topic_created",)
    assert notice(group, {"orders": TopicMetadata(1, 1)}) is group


def test_a_topic_deleted_and_created_again_is_another_topic() -> None:
    group = alice(ORDERS, "orders")

    assert notice(group, {}).reasons == ("topic_deleted",)
    assert notice(group, {"orders": TopicMetadata(7, 2)}).reasons == ("topic_created", "topic_deleted")


def test_a_scheduled_assignment_is_not_scheduled_again() -> None:
    once = notice(alice({}, "orders"), ORDERS)

    assert notice(once, ORDERS) is once
    assert notice(once, ORDERS | {"audit": TopicMetadata(2, 1)}) is once


def test_a_topic_that_a_new_member_subscribes_to_does_not_count_as_created() -> None:
    topics_by_name = ORDERS | {"audit": TopicMetadata(2, 1)}
    group = notice(join(alice(topics_by_name, "orders"), "bob", "audit"), topics_by_name)

    assert group.reasons == ("member_joined",)


def test_an_empty_group_ignores_topics() -> None:
    left = assign(leave_group(alice(ORDERS, "orders"), "alice", NOW_MS), ORDERS)

    assert left.topics == {}
    assert notice(left, ORDERS) is left


# ── update_target_assignment ──


def test_a_rebalance_has_time_reasons_and_target_assignments() -> None:
    group = join(alice(ORDERS, "orders"), "bob", "orders")

    assigned, rebalance = update_target_assignment(group, ORDERS, LATER_MS)

    assert rebalance == Rebalance(2, LATER_MS, ("member_joined",), {"alice": ((1, 0),), "bob": ((1, 1),)})
    assert (assigned.assignment_epoch, assigned.assigned_at_ms) == (2, LATER_MS)
    assert (assigned.assign_at_ms, assigned.reasons) == (None, ())
    assert assigned.topics == {1: 2}


def test_no_member_holds_or_waits_for_partitions_of_a_deleted_topic() -> None:
    topics_by_name = ORDERS | {"audit": TopicMetadata(2, 2)}
    group = assign(join(alice(topics_by_name, "orders", "audit"), "bob", "orders", "audit"), topics_by_name)
    revoking = take_heartbeat(group, "alice", 1, None, NOW_MS)

    after = assign(notice(revoking, ORDERS), ORDERS, LATER_MS)

    assert (revoking.members["alice"].assigned, revoking.members["alice"].revoking) == (
        {(2, 0): 1, (2, 1): 1},
        {(1, 0): 1, (1, 1): 1},
    )
    assert (after.members["alice"].assigned, after.members["alice"].revoking) == ({}, {(1, 0): 1, (1, 1): 1})
    assert after.topics == {1: 2}


def test_a_member_has_no_revoke_deadline_for_a_deleted_topic() -> None:
    topics_by_name = ORDERS | {"audit": TopicMetadata(2, 2)}
    group = assign(join(alice(topics_by_name, "orders", "audit"), "bob", "orders", "audit"), topics_by_name)
    revoking = take_heartbeat(group, "alice", 1, None, NOW_MS)

    after = assign(notice(revoking, {"audit": TopicMetadata(2, 2)}), {"audit": TopicMetadata(2, 2)}, LATER_MS)

    assert revoking.members["alice"].revoke_deadline_ms == NOW_MS + 300_000
    assert (after.members["alice"].revoking, after.members["alice"].revoke_deadline_ms) == ({}, None)
    assert after.members["alice"].assigned == {(2, 0): 1, (2, 1): 1}


def test_a_member_gets_the_partitions_of_a_topic_created_again() -> None:
    group = alice(ORDERS, "orders")
    again = {"orders": TopicMetadata(7, 1)}
    after = assign(notice(group, again), again, LATER_MS)

    assert take_heartbeat(after, "alice", 1, None, LATER_MS).members["alice"].assigned == {(7, 0): 2}


def test_an_assignment_without_changes_keeps_the_targets() -> None:
    group = assign(
        join(alice({"orders": TopicMetadata(1, 5)}, "orders"), "bob", "orders"), {"orders": TopicMetadata(1, 5)}
    )

    after = assign(group, {"orders": TopicMetadata(1, 5)}, LATER_MS)

    assert {name: member.target for name, member in after.members.items()} == {
        "alice": frozenset({(1, 0), (1, 1), (1, 2)}),
        "bob": frozenset({(1, 3), (1, 4)}),
    }


def test_the_assignor_is_the_one_that_most_members_ask_for() -> None:
    topics_by_name = {"orders": TopicMetadata(1, 4)}
    group = alice(topics_by_name, "orders")
    for name in ("bob", "carol"):
        group = join(group, name, "orders", assignor="range")

    assert assign(group, topics_by_name).members["alice"].target == {(1, 0), (1, 1)}
    assert assign(group, topics_by_name).members["carol"].target == {(1, 3)}


def test_with_range_a_static_member_keeps_its_partitions_under_another_member_id() -> None:
    group = join(EMPTY, "a", "orders", assignor="range", instance_id="one")
    group = assign(join(group, "b", "orders", assignor="range", instance_id="two"), ORDERS)

    again = assign(join(group, "z", "orders", assignor="range", instance_id="one"), ORDERS)

    assert again.members["z"].target == {(1, 0)}
    assert again.members["b"].target == {(1, 1)}


# ── initial partitions ──


def test_partitions_of_an_existing_topic_are_initial_and_later_ones_are_not() -> None:
    group = alice(ORDERS, "orders")
    grown = assign(group, {"orders": TopicMetadata(1, 5)}, LATER_MS)

    assert group.initial_partitions == {1: 2}
    assert grown.initial_partitions == {1: 2}


@pytest.mark.parametrize("group", [alice({}, "orders"), alice({}, pattern="ord*")])
def test_a_topic_created_after_its_subscription_has_no_initial_partitions(group: Group) -> None:
    assert assign(group, ORDERS, LATER_MS).initial_partitions == {1: 0}


def test_partitions_of_a_topic_subscribed_later_are_initial() -> None:
    topics_by_name = ORDERS | {"audit": TopicMetadata(2, 3)}
    group = assign(join(alice(topics_by_name, "orders"), "bob", "audit"), topics_by_name)

    assert group.initial_partitions == {1: 2, 2: 3}
    assert group.assigned_subscriptions == (Subscription(("audit",)), Subscription(("orders",)))


def test_an_empty_group_keeps_its_initial_partitions() -> None:
    left = assign(leave_group(alice(ORDERS, "orders"), "alice", NOW_MS), ORDERS)
    back = assign(join(left, "alice", "orders"), {"orders": TopicMetadata(1, 5)})

    assert back.initial_partitions == {1: 2}


def test_after_a_step_back_of_the_clock_the_interval_begins_now() -> None:
    group = Group(group_id=1, name="billing", assigned_at_ms=10_000_000)

    scheduled = schedule_assignment(group, 5_000_000, "member_left")

    assert scheduled.assign_at_ms == 5_001_000
