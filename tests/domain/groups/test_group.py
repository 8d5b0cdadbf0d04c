"""The rules of a consumer group, step by step."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from app.domain.groups.assignment import TopicMetadata, update_target_assignment
from app.domain.groups.group import (
    Group,
    JoinRequest,
    Member,
    Subscription,
    check_commit,
    expire_members,
    find_member,
    join_group,
    leave_group,
    take_heartbeat,
)
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
    """Beat at the epoch the group knows, or at another."""
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
    """Return a group of alice, at epoch 1, who has all four partitions."""
    return assign(join(EMPTY, "alice", **options))


def with_bob(**options: Any) -> Group:
    """Return a group in which bob waits, at epoch 2, for two partitions that alice is to give up."""
    return assign(join(alone(), "bob", **options))


def settled(**options: Any) -> Group:
    """Return a group at epoch 2 in which alice has partitions 0 and 1, and bob 2 and 3."""
    return heartbeat(heartbeat(with_bob(**options), "alice"), "alice", "01")


# ── join ──


def test_the_first_member_has_all_at_once() -> None:
    group = alone()

    assert group.state == "STABLE"
    assert group.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 1}
    assert (group.group_epoch, group.assignment_epoch, group.empty_since_ms) == (1, 1, None)


def test_a_group_goes_from_empty_to_assigning_to_reconciling_to_stable() -> None:
    joined = join(alone(), "bob")

    assert EMPTY.state == "EMPTY"
    assert joined.state == "ASSIGNING"
    assert assign(joined).state == "RECONCILING"
    assert settled().state == "STABLE"


def test_a_newcomer_waits_until_the_holder_has_confirmed() -> None:
    waiting = with_bob()
    told = heartbeat(waiting, "alice", "0123")
    confirmed = heartbeat(told, "alice", "01")

    assert (state(waiting, "bob"), assigned(waiting, "bob")) == ("UNRELEASED_PARTITIONS", "")
    assert (state(told, "alice"), assigned(told, "alice"), revoking(told, "alice")) == (
        "UNREVOKED_PARTITIONS",
        "01",
        "23",
    )
    assert (assigned(told, "bob"), told.members["alice"].member_epoch) == ("", 1)
    assert (assigned(confirmed, "bob"), assigned(confirmed, "alice")) == ("23", "01")
    assert confirmed.members["alice"].member_epoch == 2


def test_joins_in_a_storm_are_assigned_at_most_once_a_second_after_the_first() -> None:
    first = join(EMPTY, "alice")
    second = join(assign(first), "bob", NOW_MS + 100)
    third = join(second, "carol", NOW_MS + 900)
    late = join(alone(), "bob", NOW_MS + 7_000)

    assert first.assign_at_ms == NOW_MS
    assert (second.assign_at_ms, third.assign_at_ms) == (NOW_MS + 1_000, NOW_MS + 1_000)
    assert late.assign_at_ms == NOW_MS + 7_000
    assert third.reasons == ("member_joined",)


def test_who_joins_alone_within_the_interval_is_given_its_partitions_by_the_assignment() -> None:
    group = join(leave_group(alone(), "alice", NOW_MS), "bob")

    assert assigned(group, "bob") == ""
    assert assigned(assign(group), "bob") == "0123"


def test_a_join_again_keeps_the_assignment_without_a_rebalance_and_fences_the_old_epoch() -> None:
    group = join(settled(), "alice")

    assert assigned(group, "alice") == "01"
    assert group.members["alice"].member_epoch == 3
    assert group.assign_at_ms is None
    with pytest.raises(FencedMemberEpoch) as refusal:
        heartbeat(group, "alice", epoch=2)
    assert refusal.value.facts == {"member_epoch": 3}
    assert heartbeat(group, "bob").state == "STABLE"


def test_a_join_whose_answer_was_lost_is_sent_again_without_harm() -> None:
    once = join(settled(), "alice")
    twice = join(once, "alice")

    assert (assigned(twice, "alice"), assigned(twice, "bob")) == ("01", "23")
    assert twice.members["alice"].member_epoch == 4
    assert twice.assign_at_ms is None


def test_what_a_member_was_to_give_up_is_free_when_it_joins_again() -> None:
    told = heartbeat(with_bob(), "alice", "0123")
    not_yet_told = with_bob()

    for group in (join(told, "alice"), join(not_yet_told, "alice")):
        assert (assigned(group, "alice"), revoking(group, "alice")) == ("01", "")
        assert assigned(heartbeat(group, "bob"), "bob") == "23"


def test_epochs_do_not_repeat_when_a_member_leaves_and_comes_again() -> None:
    group = join(leave_group(alone(), "alice", NOW_MS), "alice")

    assert group.members["alice"].member_epoch == 3


def test_a_member_with_another_subscription_reads_nothing_until_the_next_assignment() -> None:
    group = join(settled(), "alice", subscription=Subscription(("audit", "orders")))
    audited = update_target_assignment(group, orders(4) | {"audit": TopicMetadata(2, 2)}, NOW_MS)[0]

    assert (assigned(group, "alice"), group.reasons) == ("", ("subscription_changed",))
    assert assigned(heartbeat(group, "bob"), "bob") == "23"
    assert sorted(audited.members["alice"].assigned) == [(1, 0), (2, 0), (2, 1)]


def test_what_a_smaller_subscription_no_longer_covers_goes_to_others() -> None:
    group = assign(join(settled(), "alice", subscription=Subscription(("audit",))))

    assert assigned(group, "alice") == ""
    assert assigned(heartbeat(group, "bob"), "bob") == "0123"


def test_the_order_of_topics_makes_no_other_subscription() -> None:
    one, other = Subscription(("a", "b")), Subscription(("b", "a", "b"))

    assert one == other
    assert other.topics == ("a", "b")


def test_a_full_group_takes_its_own_members_again_but_no_other() -> None:
    group = settled(instance_id="one")

    assert join_group(group, join_request("alice"), NOW_MS, 2).members.keys() == {"alice", "bob"}
    assert join_group(group, join_request("carol", instance_id="one"), NOW_MS, 2).members.keys() == {"alice", "carol"}
    with pytest.raises(GroupMaxSizeReached):
        join_group(group, join_request("carol"), NOW_MS, 2)


# ── static members ──


def test_a_static_member_comes_back_by_another_name_to_what_it_had() -> None:
    group = join(settled(instance_id="one"), "robert", instance_id="one")

    assert (assigned(group, "robert"), sorted(group.members)) == ("23", ["alice", "robert"])
    assert group.members["robert"].member_epoch == 3
    assert group.assign_at_ms is None


def test_the_second_holder_of_an_instance_fences_the_first() -> None:
    group = join(settled(instance_id="one"), "robert", instance_id="one")

    with pytest.raises(FencedInstanceId):
        find_member(group, "bob")
    with pytest.raises(FencedInstanceId):
        take_heartbeat(group, "bob", 2, None, NOW_MS)
    with pytest.raises(FencedInstanceId):
        leave_group(group, "bob", NOW_MS)


def test_a_static_member_that_leaves_is_gone() -> None:
    left = leave_group(settled(instance_id="one"), "bob", NOW_MS)
    back = join(left, "robert", instance_id="one")

    assert left.reasons == ("member_left",)
    assert assigned(heartbeat(assign(left), "alice"), "alice") == "0123"
    assert assigned(back, "robert") == ""


def test_a_member_that_takes_the_place_of_an_instance_leaves_its_own() -> None:
    group = join(settled(instance_id="one"), "alice", instance_id="one")

    assert group.members.keys() == {"alice"}
    assert (assigned(group, "alice"), group.reasons) == ("23", ("member_left",))
    assert assigned(heartbeat(assign(group), "alice"), "alice") == "0123"


# ── beat ──


def test_a_beat_that_does_not_say_what_it_owns_confirms_nothing() -> None:
    told = heartbeat(with_bob(), "alice", "0123")

    assert heartbeat(told, "alice") is told


def test_a_member_that_works_on_nothing_gives_up_at_once() -> None:
    group = heartbeat(with_bob(), "alice", released=True)

    assert (assigned(group, "alice"), assigned(group, "bob")) == ("01", "23")


def test_a_part_may_be_confirmed_before_the_rest() -> None:
    group = heartbeat(heartbeat(with_bob(), "alice"), "alice", "013")

    assert (revoking(group, "alice"), assigned(group, "bob")) == ("3", "2")
    assert group.members["alice"].member_epoch == 1


def test_one_beat_confirms_and_gains() -> None:
    swap = settled()
    members = {
        "alice": replace(swap.members["alice"], target=frozenset({(1, 0), (1, 3)})),
        "bob": replace(swap.members["bob"], target=frozenset({(1, 1), (1, 2)})),
    }
    swap = replace(swap, group_epoch=3, assignment_epoch=3, members=members)
    bob_gave = heartbeat(swap, "bob", "2")

    group = heartbeat(bob_gave, "alice", "0")

    assert (assigned(bob_gave, "bob"), assigned(group, "alice"), assigned(group, "bob")) == ("2", "03", "12")
    assert group.members["alice"].assigned == {(1, 0): 1, (1, 3): 3}


def test_what_the_target_gives_back_before_it_was_given_up_is_read_on() -> None:
    told = heartbeat(with_bob(), "alice", "0123")
    group = heartbeat(assign(leave_group(told, "bob", NOW_MS)), "alice", "0123")

    assert group.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 1}
    assert (group.members["alice"].revoke_deadline_ms, state(group, "alice")) == (None, "STABLE")


def test_the_previous_epoch_is_taken_when_the_answer_that_moved_it_was_lost() -> None:
    group = settled()

    assert group.members["alice"].member_epoch == 2
    assert heartbeat(group, "alice", "01", epoch=1) is group
    assert heartbeat(group, "alice", epoch=1) is group


def test_the_epoch_a_member_last_knew_is_taken_however_many_answers_were_lost() -> None:
    group = heartbeat(join(settled(), "bob"), "alice", "01", epoch=1)

    assert group.members["alice"].member_epoch == 3
    assert heartbeat(group, "alice", "01", epoch=1) is group


def test_the_previous_epoch_is_taken_while_the_member_still_gives_up() -> None:
    waiting = assign(join(settled(), "carol"), 3)
    told = heartbeat(waiting, "alice", "01", epoch=1)

    assert revoking(told, "alice") == "1"
    assert heartbeat(told, "alice", "01", epoch=1) is told


def test_the_previous_epoch_is_refused_with_what_the_member_does_not_hold() -> None:
    with pytest.raises(FencedMemberEpoch):
        heartbeat(settled(), "alice", "012", epoch=1)


@pytest.mark.parametrize("epoch", [-1, 1, 3])
def test_every_other_epoch_is_fenced(epoch: int) -> None:
    with pytest.raises(FencedMemberEpoch):
        heartbeat(with_bob(), "bob", epoch=epoch)


def test_a_beat_of_an_earlier_epoch_does_not_confirm_what_was_given_later() -> None:
    grown = heartbeat(assign(leave_group(settled(), "bob", NOW_MS)), "alice")
    shrunk = assign(join(grown, "carol"))

    late = heartbeat(shrunk, "alice", "01", epoch=2)

    assert grown.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 3, (1, 3): 3}
    assert (assigned(late, "alice"), revoking(late, "alice"), assigned(late, "carol")) == ("01", "23", "")
    assert assigned(heartbeat(late, "alice", "01", epoch=3), "carol") == "23"


def test_a_member_that_is_not_there_is_unknown() -> None:
    with pytest.raises(UnknownMemberId):
        take_heartbeat(alone(), "bob", 1, None, NOW_MS)


def test_a_member_is_settled_when_its_beat_would_only_renew_its_lease() -> None:
    waiting = with_bob()
    told = heartbeat(waiting, "alice")

    assert waiting.members["bob"].is_reconciled(2)
    assert not waiting.members["alice"].is_reconciled(2)
    assert not told.members["alice"].is_reconciled(2)
    assert heartbeat(told, "alice", "01").members["alice"].is_reconciled(2)


def test_a_member_at_the_latest_epoch_that_has_too_much_is_not_settled() -> None:
    shrunk = assign(join(join(alone(), "bob"), "alice"))

    assert (shrunk.members["alice"].member_epoch, shrunk.assignment_epoch) == (3, 3)
    assert not shrunk.members["alice"].is_reconciled(3)


# ── sessions ──


def test_a_beat_is_written_when_less_than_two_thirds_of_the_session_remain() -> None:
    group = alone()

    assert heartbeat(group, "alice", now_ms=NOW_MS + 15_000) is group
    assert heartbeat(group, "alice", now_ms=NOW_MS + 15_001).members["alice"].deadline_ms == NOW_MS + 60_001


@pytest.mark.parametrize(
    ("session_timeout_ms", "heartbeat_interval_ms"), [(1_000, 166), (12_000, 2_000), (45_000, 5_000)]
)
def test_a_member_beats_six_times_in_a_session_and_at_least_every_five_seconds(
    session_timeout_ms: int, heartbeat_interval_ms: int
) -> None:
    group = alone(session_timeout_ms=session_timeout_ms)

    assert group.members["alice"].heartbeat_interval_ms == heartbeat_interval_ms


def test_a_silent_member_is_removed_when_its_session_is_over_and_not_before() -> None:
    group = heartbeat(with_bob(), "bob", now_ms=NOW_MS + 20_000)

    assert expire_members(group, NOW_MS + 44_999) is group
    expired = expire_members(group, NOW_MS + 45_000)
    assert (sorted(expired.members), expired.reasons) == (["bob"], ("member_expired",))
    assert assigned(expired, "bob") == "23"
    assert assigned(heartbeat(assign(expired), "bob"), "bob") == "0123"


def test_the_last_member_leaves_an_empty_group() -> None:
    group = expire_members(alone(), NOW_MS + 45_000)

    assert (group.state, group.empty_since_ms) == ("EMPTY", NOW_MS + 45_000)
    assert (assign(group).state, assign(group).assign_at_ms) == ("EMPTY", None)


def test_a_member_that_does_not_give_up_in_time_is_removed() -> None:
    told = heartbeat(assign(join(alone(rebalance_timeout_ms=10_000), "bob")), "alice", now_ms=NOW_MS + 5_000)

    assert expire_members(told, NOW_MS + 14_999) is told
    removed = expire_members(told, NOW_MS + 15_000)
    assert (sorted(removed.members), assigned(removed, "bob")) == (["bob"], "23")


def test_a_member_has_the_whole_time_for_what_it_was_told_last() -> None:
    told = heartbeat(assign(join(alone(rebalance_timeout_ms=10_000), "bob")), "alice")
    more = heartbeat(assign(join(join(told, "carol"), "dave")), "alice", now_ms=NOW_MS + 9_000)

    assert (revoking(told, "alice"), told.members["alice"].revoke_deadline_ms) == ("23", NOW_MS + 10_000)
    assert (revoking(more, "alice"), more.members["alice"].revoke_deadline_ms) == ("123", NOW_MS + 19_000)
    assert heartbeat(more, "alice", "12", now_ms=NOW_MS + 9_500).members["alice"].revoke_deadline_ms == NOW_MS + 19_000


# ── leave ──


def test_what_a_leaver_had_is_free_at_once_for_who_waits_for_it() -> None:
    group = leave_group(with_bob(), "alice", NOW_MS)

    assert (assigned(group, "bob"), group.reasons) == ("23", ("member_left",))
    assert group.assign_at_ms == NOW_MS + 1_000


# ── commits ──


def commit(member: Member, epoch: int, numbers: str) -> str:
    """Return the partitions that may not be committed."""
    return "".join(str(n) for _, n in check_commit(member, epoch, [(1, int(n)) for n in numbers]))


def test_a_commit_counts_for_what_the_member_holds_even_while_it_gives_it_up() -> None:
    told = heartbeat(with_bob(), "alice")

    assert commit(told.members["alice"], 1, "0123") == ""
    assert commit(heartbeat(told, "alice", "01").members["alice"], 1, "0123") == "23"
    assert commit(told.members["bob"], 2, "23") == "23"


def test_a_commit_is_stale_at_an_epoch_before_it_got_the_partition() -> None:
    group = heartbeat(assign(leave_group(settled(), "bob", NOW_MS)), "alice")

    assert group.members["alice"].assigned == {(1, 0): 1, (1, 1): 1, (1, 2): 3, (1, 3): 3}
    assert commit(group.members["alice"], 2, "0123") == "23"
    assert commit(group.members["alice"], 3, "0123") == ""


def test_a_zombie_commits_nothing_after_its_name_has_joined_again() -> None:
    assert commit(join(settled(), "alice").members["alice"], 2, "01") == "01"


def test_a_commit_at_an_epoch_the_member_never_had_is_fenced() -> None:
    with pytest.raises(FencedMemberEpoch) as refusal:
        commit(settled().members["alice"], 3, "0")

    assert refusal.value.facts == {"member_epoch": 2}


# ── subscriptions ──


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
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
def test_a_pattern_is_a_glob_that_minds_case_and_passes_over_internal_topics(
    pattern: str, name: str, covered: bool
) -> None:
    assert Subscription((), pattern).matches(name) is covered


def test_an_internal_topic_is_read_by_who_names_it() -> None:
    assert Subscription(("__internal",)).matches("__internal")


@pytest.mark.parametrize(
    ("session_ms", "left_ms", "ample"),
    [(30_000, 14_900, True), (30_000, 10_000, True), (30_000, 9_999, False), (2_000, 1_000, True), (2_000, 999, False)],
)
def test_a_renewal_may_be_late_while_two_heartbeats_and_a_second_remain(
    session_ms: int, left_ms: int, ample: bool
) -> None:
    member = join(EMPTY, "alice", session_timeout_ms=session_ms).members["alice"]

    assert member.session_is_ample(member.deadline_ms - left_ms) is ample
