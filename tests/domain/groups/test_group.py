"""Steps of a consumer group: join, heartbeat, sessions, leave, commits, subscriptions."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from app.domain.groups.assignment import TopicMetadata, update_target_assignment
from app.domain.groups.group import Group, expire_members, find_member, join_group, leave_group, take_heartbeat
from app.domain.groups.member import JoinRequest, Member, Subscription, check_commit
from app.errors.groups import FencedInstanceId, FencedMemberEpoch, GroupMaxSizeReached, UnknownMemberId

NOW_MS = 1_700_000_000_000
ORDERS = Subscription(("orders",))
EMPTY = Group(group_id=1, name="g", empty_since_ms=NOW_MS)


def join_request(member_id: str, **options: Any) -> JoinRequest:
    values: dict[str, Any] = {"member_id": member_id, "subscription": ORDERS} | options
    return JoinRequest(**values)


def orders(partitions: int) -> dict[str, TopicMetadata]:
    return {"orders": TopicMetadata(1, partitions)}


def join(group: Group, member_id: str, now_ms: int = NOW_MS, **options: Any) -> Group:
    return join_group(group, join_request(member_id, **options), now_ms, 10)


def assign(group: Group, partitions: int = 4, now_ms: int = NOW_MS) -> Group:
    return update_target_assignment(group, orders(partitions), now_ms)[0]


def heartbeat(group: Group, member_id: str, owned: str | None = None, now_ms: int = NOW_MS, **options: Any) -> Group:
    """Take a heartbeat at the member's epoch, or at another."""
    epoch = options.pop("epoch", None) or group.members[member_id].member_epoch
    partitions = None if owned is None else {(1, int(n)) for n in owned}
    return take_heartbeat(group, member_id, epoch, partitions, now_ms, **options)


def assigned(group: Group, member_id: str) -> str:
    return "".join(str(n) for _, n in sorted(group.members[member_id].assigned))


def revoking(group: Group, member_id: str) -> str:
    return "".join(str(n) for _, n in sorted(group.members[member_id].revoking))


def state(group: Group, member_id: str) -> str:
    return group.members[member_id].state(group.assignment_epoch)


def alone(**options: Any) -> Group:
    """Return a group of alice, at epoch 1, with all four partitions."""
    return assign(join(EMPTY, "alice", **options))


def with_bob(**options: Any) -> Group:
    """Return a group in which bob waits, at epoch 2, for two partitions that alice has to revoke."""
    return assign(join(alone(), "bob", **options))


def stable(**options: Any) -> Group:
    """Return a group at epoch 2 in which alice has partitions 0 and 1, and bob 2 and 3."""
    return heartbeat(heartbeat(with_bob(**options), "alice"), "alice", "01")


# ── join ──


def test_the_first_member_is_assigned_all_partitions_at_once() -> None:
    group = alone()

    assert group.state == "STABLE"
    assert group.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 1}
    assert (group.group_epoch, group.assignment_epoch, group.empty_since_ms) == (1, 1, None)


def test_a_group_goes_from_empty_to_assigning_to_reconciling_to_stable() -> None:
    joined = join(alone(), "bob")

    assert EMPTY.state == "EMPTY"
    assert joined.state == "ASSIGNING"
    assert assign(joined).state == "RECONCILING"
    assert stable().state == "STABLE"


def test_a_new_member_waits_until_the_holder_has_confirmed_the_revocation() -> None:
    waiting = with_bob()
    pending = heartbeat(waiting, "alice", "0123")
    confirmed = heartbeat(pending, "alice", "01")

    assert (state(waiting, "bob"), assigned(waiting, "bob")) == ("UNRELEASED_PARTITIONS", "")
    assert (state(pending, "alice"), assigned(pending, "alice"), revoking(pending, "alice")) == (
        "UNREVOKED_PARTITIONS",
        "01",
        "23",
    )
    assert (assigned(pending, "bob"), pending.members["alice"].member_epoch) == ("", 1)
    assert (assigned(confirmed, "bob"), assigned(confirmed, "alice")) == ("23", "01")
    assert confirmed.members["alice"].member_epoch == 2


def test_a_group_is_assigned_at_most_once_a_second_after_the_first_join() -> None:
    first = join(EMPTY, "alice")
    second = join(assign(first), "bob", NOW_MS + 100)
    third = join(second, "carol", NOW_MS + 900)
    late = join(alone(), "bob", NOW_MS + 7_000)

    assert first.assign_at_ms == NOW_MS
    assert (second.assign_at_ms, third.assign_at_ms) == (NOW_MS + 1_000, NOW_MS + 1_000)
    assert late.assign_at_ms == NOW_MS + 7_000
    assert third.reasons == ("member_joined",)


def test_a_member_that_joins_within_the_interval_waits_for_the_assignment() -> None:
    group = join(leave_group(alone(), "alice", NOW_MS), "bob")

    assert assigned(group, "bob") == ""
    assert assigned(assign(group), "bob") == "0123"


def test_a_repeated_join_keeps_the_assignment_and_fences_the_old_epoch() -> None:
    group = join(stable(), "alice")

    assert assigned(group, "alice") == "01"
    assert group.members["alice"].member_epoch == 3
    assert group.assign_at_ms is None
    with pytest.raises(FencedMemberEpoch) as error:
        heartbeat(group, "alice", epoch=2)
    assert error.value.facts == {"member_epoch": 3}
    assert heartbeat(group, "bob").state == "STABLE"


def test_a_join_whose_answer_was_lost_can_be_repeated() -> None:
    once = join(stable(), "alice")
    twice = join(once, "alice")

    assert (assigned(twice, "alice"), assigned(twice, "bob")) == ("01", "23")
    assert twice.members["alice"].member_epoch == 4
    assert twice.assign_at_ms is None


def test_revoked_partitions_of_a_member_are_free_when_it_joins_again() -> None:
    pending = heartbeat(with_bob(), "alice", "0123")
    before_heartbeat = with_bob()

    for group in (join(pending, "alice"), join(before_heartbeat, "alice")):
        assert (assigned(group, "alice"), revoking(group, "alice")) == ("01", "")
        assert assigned(heartbeat(group, "bob"), "bob") == "23"


def test_epochs_do_not_repeat_when_a_member_leaves_and_joins_again() -> None:
    group = join(leave_group(alone(), "alice", NOW_MS), "alice")

    assert group.members["alice"].member_epoch == 3


def test_a_member_with_another_subscription_has_no_partitions_until_the_next_assignment() -> None:
    group = join(stable(), "alice", subscription=Subscription(("audit", "orders")))
    audited = update_target_assignment(group, orders(4) | {"audit": TopicMetadata(2, 2)}, NOW_MS)[0]

    assert (assigned(group, "alice"), group.reasons) == ("", ("subscription_changed",))
    assert assigned(heartbeat(group, "bob"), "bob") == "23"
    assert sorted(audited.members["alice"].assigned) == [(1, 0), (2, 0), (2, 1)]


def test_partitions_of_unsubscribed_topics_go_to_other_members() -> None:
    group = assign(join(stable(), "alice", subscription=Subscription(("audit",))))

    assert assigned(group, "alice") == ""
    assert assigned(heartbeat(group, "bob"), "bob") == "0123"


def test_a_full_group_accepts_only_its_own_members() -> None:
    group = stable(instance_id="one")

    assert join_group(group, join_request("alice"), NOW_MS, 2).members.keys() == {"alice", "bob"}
    assert join_group(group, join_request("carol", instance_id="one"), NOW_MS, 2).members.keys() == {"alice", "carol"}
    with pytest.raises(GroupMaxSizeReached):
        join_group(group, join_request("carol"), NOW_MS, 2)


# ── static members ──


def test_a_static_member_keeps_its_partitions_under_another_member_id() -> None:
    group = join(stable(instance_id="one"), "robert", instance_id="one")

    assert (assigned(group, "robert"), sorted(group.members)) == ("23", ["alice", "robert"])
    assert group.members["robert"].member_epoch == 3
    assert group.assign_at_ms is None


def test_the_second_member_with_an_instance_id_fences_the_first() -> None:
    group = join(stable(instance_id="one"), "robert", instance_id="one")

    with pytest.raises(FencedInstanceId):
        find_member(group, "bob")
    with pytest.raises(FencedInstanceId):
        take_heartbeat(group, "bob", 2, None, NOW_MS)
    with pytest.raises(FencedInstanceId):
        leave_group(group, "bob", NOW_MS)


def test_a_static_member_that_leaves_loses_its_partitions() -> None:
    left = leave_group(stable(instance_id="one"), "bob", NOW_MS)
    back = join(left, "robert", instance_id="one")

    assert left.reasons == ("member_left",)
    assert assigned(heartbeat(assign(left), "alice"), "alice") == "0123"
    assert assigned(back, "robert") == ""


def test_a_member_that_takes_over_an_instance_id_gives_up_its_own_partitions() -> None:
    group = join(stable(instance_id="one"), "alice", instance_id="one")

    assert group.members.keys() == {"alice"}
    assert (assigned(group, "alice"), group.reasons) == ("23", ("member_left",))
    assert assigned(heartbeat(assign(group), "alice"), "alice") == "0123"


# ── heartbeat ──


def test_a_heartbeat_without_owned_confirms_no_revocation() -> None:
    pending = heartbeat(with_bob(), "alice", "0123")

    assert heartbeat(pending, "alice") is pending


def test_a_released_member_revokes_at_once() -> None:
    group = heartbeat(with_bob(), "alice", released=True)

    assert (assigned(group, "alice"), assigned(group, "bob")) == ("01", "23")


def test_a_revocation_may_be_confirmed_in_parts() -> None:
    group = heartbeat(heartbeat(with_bob(), "alice"), "alice", "013")

    assert (revoking(group, "alice"), assigned(group, "bob")) == ("3", "2")
    assert group.members["alice"].member_epoch == 1


def test_one_heartbeat_confirms_a_revocation_and_gains_partitions() -> None:
    swap = stable()
    members = {
        "alice": replace(swap.members["alice"], target=frozenset({(1, 0), (1, 3)})),
        "bob": replace(swap.members["bob"], target=frozenset({(1, 1), (1, 2)})),
    }
    swap = replace(swap, group_epoch=3, assignment_epoch=3, members=members)
    bob_gave = heartbeat(swap, "bob", "2")

    group = heartbeat(bob_gave, "alice", "0")

    assert (assigned(bob_gave, "bob"), assigned(group, "alice"), assigned(group, "bob")) == ("2", "03", "12")
    assert group.members["alice"].assigned == {(1, 0): 1, (1, 3): 3}


def test_a_partition_that_returns_to_the_target_before_its_revocation_is_kept() -> None:
    pending = heartbeat(with_bob(), "alice", "0123")
    group = heartbeat(assign(leave_group(pending, "bob", NOW_MS)), "alice", "0123")

    assert group.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 1}
    assert (group.members["alice"].revoke_deadline_ms, state(group, "alice")) == (None, "STABLE")


def test_the_previous_epoch_is_accepted_when_the_answer_with_the_new_one_was_lost() -> None:
    group = stable()

    assert group.members["alice"].member_epoch == 2
    assert heartbeat(group, "alice", "01", epoch=1) is group
    assert heartbeat(group, "alice", epoch=1) is group


def test_the_previous_epoch_is_accepted_after_any_number_of_lost_answers() -> None:
    group = heartbeat(join(stable(), "bob"), "alice", "01", epoch=1)

    assert group.members["alice"].member_epoch == 3
    assert heartbeat(group, "alice", "01", epoch=1) is group


def test_the_previous_epoch_is_accepted_while_the_member_revokes() -> None:
    waiting = assign(join(stable(), "carol"), 3)
    pending = heartbeat(waiting, "alice", "01", epoch=1)

    assert revoking(pending, "alice") == "1"
    assert heartbeat(pending, "alice", "01", epoch=1) is pending


def test_the_previous_epoch_is_fenced_if_the_member_owns_partitions_that_it_does_not_hold() -> None:
    with pytest.raises(FencedMemberEpoch):
        heartbeat(stable(), "alice", "012", epoch=1)


@pytest.mark.parametrize("epoch", [-1, 1, 3])
def test_every_other_epoch_is_fenced(epoch: int) -> None:
    with pytest.raises(FencedMemberEpoch):
        heartbeat(with_bob(), "bob", epoch=epoch)


def test_a_heartbeat_of_an_earlier_epoch_does_not_confirm_later_assigned_partitions() -> None:
    grown = heartbeat(assign(leave_group(stable(), "bob", NOW_MS)), "alice")
    shrunk = assign(join(grown, "carol"))

    late = heartbeat(shrunk, "alice", "01", epoch=2)

    assert grown.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 3, (1, 3): 3}
    assert (assigned(late, "alice"), revoking(late, "alice"), assigned(late, "carol")) == ("01", "23", "")
    assert assigned(heartbeat(late, "alice", "01", epoch=3), "carol") == "23"


def test_a_heartbeat_of_a_missing_member_is_refused() -> None:
    with pytest.raises(UnknownMemberId):
        take_heartbeat(alone(), "bob", 1, None, NOW_MS)


def test_a_member_is_reconciled_when_its_heartbeat_would_only_renew_its_session() -> None:
    waiting = with_bob()
    pending = heartbeat(waiting, "alice")

    assert waiting.members["bob"].is_reconciled(2)
    assert not waiting.members["alice"].is_reconciled(2)
    assert not pending.members["alice"].is_reconciled(2)
    assert heartbeat(pending, "alice", "01").members["alice"].is_reconciled(2)


def test_a_member_at_the_latest_epoch_with_partitions_outside_its_target_is_not_reconciled() -> None:
    shrunk = assign(join(join(alone(), "bob"), "alice"))

    assert (shrunk.members["alice"].member_epoch, shrunk.assignment_epoch) == (3, 3)
    assert not shrunk.members["alice"].is_reconciled(3)


# ── sessions ──


def test_a_heartbeat_renews_the_session_when_less_than_two_thirds_of_it_remain() -> None:
    group = alone()

    assert heartbeat(group, "alice", now_ms=NOW_MS + 15_000) is group
    assert heartbeat(group, "alice", now_ms=NOW_MS + 15_001).members["alice"].deadline_ms == NOW_MS + 60_001


@pytest.mark.parametrize(
    ("session_timeout_ms", "heartbeat_interval_ms"), [(1_000, 166), (12_000, 2_000), (45_000, 5_000)]
)
def test_the_heartbeat_interval_is_a_sixth_of_the_session_and_at_most_five_seconds(
    session_timeout_ms: int, heartbeat_interval_ms: int
) -> None:
    group = alone(session_timeout_ms=session_timeout_ms)

    assert group.members["alice"].heartbeat_interval_ms == heartbeat_interval_ms


def test_a_member_without_heartbeats_expires_at_the_end_of_its_session() -> None:
    group = heartbeat(with_bob(), "bob", now_ms=NOW_MS + 20_000)

    assert expire_members(group, NOW_MS + 44_999) is group
    expired = expire_members(group, NOW_MS + 45_000)
    assert (sorted(expired.members), expired.reasons) == (["bob"], ("member_expired",))
    assert assigned(expired, "bob") == "23"
    assert assigned(heartbeat(assign(expired), "bob"), "bob") == "0123"


def test_a_group_is_empty_after_its_last_member_expires() -> None:
    group = expire_members(alone(), NOW_MS + 45_000)

    assert (group.state, group.empty_since_ms) == ("EMPTY", NOW_MS + 45_000)
    assert (assign(group).state, assign(group).assign_at_ms) == ("EMPTY", None)


def test_a_member_that_does_not_revoke_in_time_is_removed() -> None:
    pending = heartbeat(assign(join(alone(rebalance_timeout_ms=10_000), "bob")), "alice", now_ms=NOW_MS + 5_000)

    assert expire_members(pending, NOW_MS + 14_999) is pending
    removed = expire_members(pending, NOW_MS + 15_000)
    assert (sorted(removed.members), assigned(removed, "bob")) == (["bob"], "23")


def test_the_rebalance_timeout_restarts_with_each_revocation() -> None:
    pending = heartbeat(assign(join(alone(rebalance_timeout_ms=10_000), "bob")), "alice")
    more = heartbeat(assign(join(join(pending, "carol"), "dave")), "alice", now_ms=NOW_MS + 9_000)

    assert (revoking(pending, "alice"), pending.members["alice"].revoke_deadline_ms) == (
        "23",
        NOW_MS + 10_000,
    )
    assert (revoking(more, "alice"), more.members["alice"].revoke_deadline_ms) == ("123", NOW_MS + 19_000)
    assert heartbeat(more, "alice", "12", now_ms=NOW_MS + 9_500).members["alice"].revoke_deadline_ms == NOW_MS + 19_000


# ── leave ──


def test_partitions_of_a_member_that_leaves_are_assigned_at_once() -> None:
    group = leave_group(with_bob(), "alice", NOW_MS)

    assert (assigned(group, "bob"), group.reasons) == ("23", ("member_left",))
    assert group.assign_at_ms == NOW_MS + 1_000


# ── commits ──


def commit(member: Member, epoch: int, numbers: str) -> str:
    """Return the partitions that the member may not commit."""
    return "".join(str(n) for _, n in check_commit(member, epoch, [(1, int(n)) for n in numbers]))


def test_a_member_may_commit_a_partition_while_it_revokes_it() -> None:
    pending = heartbeat(with_bob(), "alice")

    assert commit(pending.members["alice"], 1, "0123") == ""
    assert commit(heartbeat(pending, "alice", "01").members["alice"], 1, "0123") == "23"
    assert commit(pending.members["bob"], 2, "23") == "23"


def test_a_commit_at_an_epoch_before_the_partition_was_assigned_is_stale() -> None:
    group = heartbeat(assign(leave_group(stable(), "bob", NOW_MS)), "alice")

    assert group.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 3, (1, 3): 3}
    assert commit(group.members["alice"], 2, "0123") == "23"
    assert commit(group.members["alice"], 3, "0123") == ""


def test_a_commit_at_the_epoch_before_a_repeated_join_is_stale() -> None:
    assert commit(join(stable(), "alice").members["alice"], 2, "01") == "01"


def test_a_commit_at_a_future_epoch_is_fenced() -> None:
    with pytest.raises(FencedMemberEpoch) as error:
        commit(stable().members["alice"], 3, "0")

    assert error.value.facts == {"member_epoch": 2}
