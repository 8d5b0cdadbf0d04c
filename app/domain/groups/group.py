"""A consumer group by KIP-848: the assignment of partitions to members, in pure steps from one state to the next.

A member holds the partitions that it is `assigned` and those that it is `revoking`. A partition is assigned to another
member only after its holder has confirmed the revocation, left, joined again or was removed. A step that frees a
partition assigns it at once to the member that waits for it. A member's epoch rises only on its own heartbeat.

Source: KIP-848; Kafka's `GroupMetadataManager`, `CurrentAssignmentBuilder`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec
from msgspec.structs import replace

from app.domain.groups.assignor import Partition
from app.domain.groups.member import AssignorName, JoinRequest, Member, Subscription, check_epoch
from app.errors.groups import FencedInstanceId, GroupMaxSizeReached, UnknownMemberId

ASSIGNMENT_INTERVAL_MS = 1_000
"""Shortest time between two assignments of a group, so that many joins at once cause one rebalance."""

Reason = Literal[
    "member_joined",
    "member_left",
    "member_expired",
    "subscription_changed",
    "partitions_added",
    "topic_created",
    "topic_deleted",
]
GroupState = Literal["EMPTY", "ASSIGNING", "RECONCILING", "STABLE"]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group and its members.

    Attributes:
        group_epoch: Rises with every change of members, subscriptions or topics.
        assignment_epoch: The group_epoch for which the target assignment was computed.
        assigned_at_ms: Time of the last assignment.
        assign_at_ms: Time of the next assignment, or None.
        topics: Number of partitions of each subscribed topic as of the last assignment.
        initial_partitions: Number of partitions of each topic when it was first subscribed; partitions added later are
            read from their start.
        assigned_subscriptions: The subscriptions as of the last assignment.
        reasons: Causes of the next assignment.
        empty_since_ms: Time at which the last member left, or None.
    """

    group_id: int
    name: str
    group_epoch: int = 0
    assignment_epoch: int = 0
    assigned_at_ms: int = 0
    assign_at_ms: int | None = None
    topics: dict[int, int] = msgspec.field(default_factory=dict)
    initial_partitions: dict[int, int] = msgspec.field(default_factory=dict)
    assigned_subscriptions: tuple[Subscription, ...] = ()
    reasons: tuple[Reason, ...] = ()
    empty_since_ms: int | None = None
    members: dict[str, Member] = msgspec.field(default_factory=dict)

    @property
    def state(self) -> GroupState:
        """The state of the group."""
        if not self.members:
            return "EMPTY"
        if self.assignment_epoch < self.group_epoch:
            return "ASSIGNING"
        stable = all(member.state(self.assignment_epoch) == "STABLE" for member in self.members.values())
        return "STABLE" if stable else "RECONCILING"

    @property
    def subscriptions(self) -> set[Subscription]:
        """The different subscriptions of its members."""
        return {member.join_request.subscription for member in self.members.values()}


def join_group(group: Group, join_request: JoinRequest, now_ms: int, max_members: int) -> Group:
    """Add a member, or let it join again with a new epoch; its old epoch is fenced.

    A member that joins again works on no partition: it keeps the assigned partitions of its target, and all others are
    free at once. With another subscription it keeps none until the next assignment.

    Raises:
        GroupMaxSizeReached: The group is full.
    """
    before = _replaced_member(group, join_request)
    if before is None and len(group.members) >= max_members:
        raise GroupMaxSizeReached(f"the group has its {max_members} members; wait until one leaves")
    epoch = group.group_epoch + 1
    member = Member(
        join_request=join_request,
        member_epoch=epoch,
        deadline_ms=now_ms + join_request.session_timeout_ms,
        joined_at_ms=now_ms,
    )
    if before is not None:
        member = _joined_again(member, before)
    others = {name: one for name, one in group.members.items() if one is not before and name != join_request.member_id}
    joined = replace(group, group_epoch=epoch, members=others | {join_request.member_id: member}, empty_since_ms=None)
    if before is None:
        joined = schedule_assignment(joined, now_ms, "member_joined")
    elif _assignment_inputs(before.join_request) != _assignment_inputs(join_request):
        joined = schedule_assignment(joined, now_ms, "subscription_changed")
    elif len(joined.members) < len(group.members):  # its instance_id and its member_id belonged to two members
        joined = schedule_assignment(joined, now_ms, "member_left")
    elif group.assignment_epoch == group.group_epoch:
        joined = replace(joined, assignment_epoch=epoch)
    return assign_free_partitions(joined)


def _joined_again(member: Member, before: Member) -> Member:
    """Return a member that joins, with what it keeps of the member that it replaces."""
    same_subscription = before.join_request.subscription == member.join_request.subscription
    kept = before.target & before.assigned.keys() if same_subscription else ()
    renamed = before.join_request.member_id != member.join_request.member_id
    return replace(
        member,
        replaced_member_id=before.join_request.member_id if renamed else before.replaced_member_id,
        assigned=dict.fromkeys(kept, member.member_epoch),
        target=before.target,
        joined_at_ms=before.joined_at_ms,
    )


def _assignment_inputs(join_request: JoinRequest) -> tuple[Subscription, AssignorName]:
    return join_request.subscription, join_request.assignor


def find_member(group: Group, member_id: str) -> Member:
    """Return a member.

    Raises:
        FencedInstanceId: Another member has taken over its instance_id.
        UnknownMemberId: The group has no such member.
    """
    if found := group.members.get(member_id):
        return found
    if any(member.replaced_member_id == member_id for member in group.members.values()):
        raise FencedInstanceId("another member has joined with this instance_id; stop this one")
    raise UnknownMemberId("the group has no such member: it left, expired or never joined; join again")


def take_heartbeat(
    group: Group,
    member_id: str,
    member_epoch: int,
    owned: Collection[Partition] | None,
    now_ms: int,
    *,
    released: bool = False,
) -> Group:
    """Take a heartbeat: confirm revocations, move the member towards its target assignment, renew its session.

    Args:
        group: The group.
        member_id: The member.
        member_epoch: The epoch that the client has.
        owned: Partitions that the member still works on; None confirms no revocation.
        now_ms: Time of the database.
        released: Whether the member works on no partition, so that all its revoked partitions are free at once.

    Raises:
        UnknownMemberId, FencedInstanceId, FencedMemberEpoch: The group is unchanged.
    """
    member = find_member(group, member_id)
    check_epoch(member, member_epoch, owned)
    reconciled = _revoke(member, member_epoch, () if released else owned, now_ms)
    if not reconciled.revoking and group.assignment_epoch > member.member_epoch:
        reconciled = replace(reconciled, member_epoch=group.assignment_epoch, previous_epoch=member_epoch)
    if reconciled != member or not member.session_is_fresh(now_ms):
        session_end_ms = now_ms + member.join_request.session_timeout_ms
        reconciled = replace(reconciled, deadline_ms=max(member.deadline_ms, session_end_ms))
    if reconciled == member:
        return group
    return assign_free_partitions(replace(group, members=group.members | {member_id: reconciled}))


def _revoke(member: Member, member_epoch: int, owned: Collection[Partition] | None, now_ms: int) -> Member:
    """Divide what a member holds into assigned and revoking; partitions that it no longer owns are dropped."""
    held = member.assigned | member.revoking
    assigned = {p: since for p, since in held.items() if p in member.target}
    revoking = {
        p: since
        for p, since in held.items()
        # A partition assigned at a later epoch than the client's is missing from `owned` without being revoked.
        if p not in member.target and (owned is None or p in owned or member_epoch < since)
    }
    revoke_deadline_ms = member.revoke_deadline_ms
    if not revoking:
        revoke_deadline_ms = None
    elif revoking.keys() - member.revoking.keys():
        revoke_deadline_ms = now_ms + member.join_request.rebalance_timeout_ms
    return replace(member, assigned=assigned, revoking=revoking, revoke_deadline_ms=revoke_deadline_ms)


def leave_group(group: Group, member_id: str, now_ms: int) -> Group:
    """Remove a member; its partitions are free at once.

    Raises:
        UnknownMemberId, FencedInstanceId: The group is unchanged.
    """
    find_member(group, member_id)
    return _without(group, {member_id}, now_ms, "member_left")


def expire_members(group: Group, now_ms: int) -> Group:
    """Remove the members whose session is over, or that have not confirmed a revocation in time."""
    expired = {
        name
        for name, member in group.members.items()
        if member.deadline_ms <= now_ms
        or (member.revoke_deadline_ms is not None and member.revoke_deadline_ms <= now_ms)
    }
    return _without(group, expired, now_ms, "member_expired") if expired else group


def schedule_assignment(group: Group, now_ms: int, *reasons: Reason) -> Group:
    """Schedule the next assignment: now, or when the interval since the last one is over.

    After a step back of the clock, the last one may lie in the future: the interval then begins now.
    """
    assign_at_ms = group.assign_at_ms
    if assign_at_ms is None:
        assign_at_ms = max(now_ms, min(group.assigned_at_ms, now_ms) + ASSIGNMENT_INTERVAL_MS)
    return replace(group, assign_at_ms=assign_at_ms, reasons=tuple(dict.fromkeys(group.reasons + reasons)))


def assign_free_partitions(group: Group) -> Group:
    """Assign free partitions to the members at the current epoch that wait for them."""
    waiting = {
        name: member
        for name, member in group.members.items()
        if member.member_epoch == group.assignment_epoch
        and not member.revoking
        and member.assigned.keys() < member.target
    }
    if not waiting:
        return group
    held = {p for member in group.members.values() for p in (*member.assigned, *member.revoking)}
    assigned = {
        name: replace(member, assigned=member.assigned | dict.fromkeys(gained, member.member_epoch))
        for name, member in waiting.items()
        if (gained := member.target - held)
    }
    return replace(group, members=group.members | assigned) if assigned else group


def _replaced_member(group: Group, join_request: JoinRequest) -> Member | None:
    """Return the member that a join replaces: the one with its instance_id, else the one with its member_id."""
    members = group.members.values() if join_request.instance_id is not None else ()
    same = (member for member in members if member.join_request.instance_id == join_request.instance_id)
    return next(same, group.members.get(join_request.member_id))


def _without(group: Group, names: Collection[str], now_ms: int, reason: Reason) -> Group:
    members = {name: member for name, member in group.members.items() if name not in names}
    left = replace(
        group,
        group_epoch=group.group_epoch + 1,
        members=members,
        empty_since_ms=None if members else now_ms,
    )
    return assign_free_partitions(schedule_assignment(left, now_ms, reason))
