"""A consumer group by KIP-848: who may read which partition, in pure steps from one state to the next.

A member holds what it is `assigned` and what it is `revoking`: nobody else is given a partition before its holder
has confirmed that it stopped, has left, joined again or was removed. A step that frees a partition gives it at once
to the member that waits for it; a member's epoch moves only on its own heartbeat.

Source: KIP-848; Kafka's `GroupMetadataManager`, `ConsumerGroupMember`, `CurrentAssignmentBuilder`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec
from msgspec.structs import force_setattr, replace

from app.domain.groups.assignor import Partition
from app.errors.groups import FencedInstanceId, FencedMemberEpoch, GroupMaxSizeReached, UnknownMemberId

ASSIGNMENT_INTERVAL_MS = 1_000
"""A group is assigned at most so often: a storm of joins is one rebalance."""

LONGEST_HEARTBEAT_INTERVAL_MS = 5_000

_AMPLE_MS = 1_000

AssignorName = Literal["uniform", "range"]
Reason = Literal[
    "member_joined",
    "member_left",
    "member_expired",
    "subscription_changed",
    "partitions_added",
    "topic_created",
    "topic_deleted",
]
MemberState = Literal["STABLE", "UNREVOKED_PARTITIONS", "UNRELEASED_PARTITIONS"]
GroupState = Literal["EMPTY", "ASSIGNING", "RECONCILING", "STABLE"]


class Subscription(msgspec.Struct, frozen=True):
    """The topics of a member: by name, in order and each once, whether they exist or not; and by glob."""

    topics: tuple[str, ...] = ()
    topic_pattern: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "topics", tuple(sorted(set(self.topics))))

    def covers(self, name: str) -> bool:
        """Return whether a topic of this name belongs to it. Names that begin with __ need to be named."""
        if name in self.topics:
            return True
        pattern = self.topic_pattern
        return pattern is not None and not name.startswith("__") and fnmatchcase(name, pattern)


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a member joins with.

    Attributes:
        instance_id: Name of a static member, or None.
    """

    member_id: str
    subscription: Subscription
    client_id: str = ""
    instance_id: str | None = None
    auto_offset_reset: str = "earliest"
    assignor: AssignorName = "uniform"
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 300_000


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a group.

    Attributes:
        replaced_member_id: Whose place it took as the next holder of its instance_id.
        previous_epoch: What it last knew, if `member_epoch` moved from there by reconciliation; else -1.
        assigned: What it may read, each with the epoch at which it got it.
        revoking: What it may no longer read and has not yet confirmed, likewise.
        target: What it is to hold in the end.
        deadline_ms: When its session ends.
        revoke_deadline_ms: When it must have confirmed, or None.
    """

    join_request: JoinRequest
    replaced_member_id: str | None = None
    member_epoch: int
    previous_epoch: int = -1
    assigned: dict[Partition, int] = msgspec.field(default_factory=dict)
    revoking: dict[Partition, int] = msgspec.field(default_factory=dict)
    target: frozenset[Partition] = frozenset()
    deadline_ms: int
    revoke_deadline_ms: int | None = None
    joined_at_ms: int

    def state(self, assignment_epoch: int) -> MemberState:
        """Return what the member has to do, or waits for."""
        if self.revoking:
            return "UNREVOKED_PARTITIONS"
        arrived = self.member_epoch == assignment_epoch and self.assigned.keys() == self.target
        return "STABLE" if arrived else "UNRELEASED_PARTITIONS"

    def settled(self, assignment_epoch: int) -> bool:
        """Return whether a beat changes nothing but its lease: at most, it waits for partitions of others."""
        return self.member_epoch >= assignment_epoch and not self.revoking and self.assigned.keys() <= self.target

    @property
    def heartbeat_interval_ms(self) -> int:
        """How often it should heartbeat."""
        return min(LONGEST_HEARTBEAT_INTERVAL_MS, self.join_request.session_timeout_ms // 6)

    def lease_is_ample(self, now_ms: int) -> bool:
        """Return whether two heartbeats remain, and a second for the write: nobody need wait for its renewal."""
        return self.deadline_ms - now_ms >= max(self.join_request.session_timeout_ms // 3, _AMPLE_MS)

    def lease_is_fresh(self, now_ms: int) -> bool:
        """Return whether two thirds of the session remain, so that a beat need not be written."""
        return 3 * (self.deadline_ms - now_ms) >= 2 * self.join_request.session_timeout_ms


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group and its members.

    Attributes:
        group_epoch: Rises with every change of members, subscriptions or topics.
        assignment_epoch: The group_epoch that the members' targets were computed for.
        assigned_at_ms: When that was.
        assign_at_ms: When they are to be computed next, or None.
        topics: Partitions of each subscribed topic as of the last assignment.
        first_partitions: Partitions of each topic when it was first subscribed; those added later begin at their start.
        covered: The subscriptions as of the last assignment.
        reasons: Why the next assignment is due.
        empty_since_ms: Since when it has had no members, or None.
    """

    group_id: int
    name: str
    group_epoch: int = 0
    assignment_epoch: int = 0
    assigned_at_ms: int = 0
    assign_at_ms: int | None = None
    topics: dict[int, int] = msgspec.field(default_factory=dict)
    first_partitions: dict[int, int] = msgspec.field(default_factory=dict)
    covered: tuple[Subscription, ...] = ()
    reasons: tuple[Reason, ...] = ()
    empty_since_ms: int | None = None
    members: dict[str, Member] = msgspec.field(default_factory=dict)

    @property
    def state(self) -> GroupState:
        """Where the group is on the way to its targets."""
        if not self.members:
            return "EMPTY"
        if self.assignment_epoch < self.group_epoch:
            return "ASSIGNING"
        settled = all(member.state(self.assignment_epoch) == "STABLE" for member in self.members.values())
        return "STABLE" if settled else "RECONCILING"


def join(group: Group, join_request: JoinRequest, now_ms: int, max_members: int) -> Group:
    """Add a member, or take one in again with a new epoch; its old one is fenced.

    Who joins again works on nothing: it keeps what it was assigned and is to keep, all else is free at once. With
    another subscription it waits for the next assignment, which gives it back what is still its own.

    Raises:
        GroupMaxSizeReached: The group is full.
    """
    before = _holder(group, join_request)
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
        renamed = before.join_request.member_id != join_request.member_id
        kept = (
            before.target & before.assigned.keys()
            if before.join_request.subscription == join_request.subscription
            else ()
        )
        member = replace(
            member,
            replaced_member_id=before.join_request.member_id if renamed else before.replaced_member_id,
            assigned=dict.fromkeys(kept, epoch),
            target=before.target,
            joined_at_ms=before.joined_at_ms,
        )
    others = {name: one for name, one in group.members.items() if one is not before and name != join_request.member_id}
    joined = replace(group, group_epoch=epoch, members=others | {join_request.member_id: member}, empty_since_ms=None)
    if before is None:
        joined = due(joined, now_ms, "member_joined")
    elif (before.join_request.subscription, before.join_request.assignor) != (
        join_request.subscription,
        join_request.assignor,
    ):
        joined = due(joined, now_ms, "subscription_changed")
    elif len(joined.members) < len(group.members):  # it had two places, by its instance_id and by its name
        joined = due(joined, now_ms, "member_left")
    elif group.assignment_epoch == group.group_epoch:
        joined = replace(joined, assignment_epoch=epoch)
    return give(joined)


def find(group: Group, member_id: str) -> Member:
    """Return a member.

    Raises:
        FencedInstanceId: Another process took its place.
        UnknownMemberId: There is none of this name.
    """
    if found := group.members.get(member_id):
        return found
    if any(member.replaced_member_id == member_id for member in group.members.values()):
        raise FencedInstanceId("another member has joined with this instance_id; stop this one")
    raise UnknownMemberId("the group has no such member: it left, expired or never joined; join again")


def check_epoch(member: Member, member_epoch: int, owned: Collection[Partition] | None) -> None:
    """Refuse a beat of an epoch that is not the member's own.

    The previous one is taken where it moved by reconciliation and the member owns nothing that it does not hold: the
    answer that told of the move was lost.

    Raises:
        FencedMemberEpoch: With the member's epoch.
    """
    if member_epoch == member.member_epoch:
        return
    held = member.assigned.keys() | member.revoking.keys()
    if member_epoch < 0 or member_epoch != member.previous_epoch or not held.issuperset(owned or ()):
        raise _fenced(member, member_epoch)


def heartbeat(
    group: Group,
    member_id: str,
    member_epoch: int,
    owned: Collection[Partition] | None,
    now_ms: int,
    *,
    released: bool = False,
) -> Group:
    """Take a heartbeat: confirm what it no longer owns, move it towards its target, renew its session.

    Args:
        group: The group.
        member_id: Who beats.
        member_epoch: The epoch it knows.
        owned: What it still works on, or None where it does not say; that confirms nothing.
        now_ms: Time of the database.
        released: It works on nothing, so that all it is to give up is free at once.

    Raises:
        UnknownMemberId, FencedInstanceId, FencedMemberEpoch: The group is as it was.
    """
    member = find(group, member_id)
    check_epoch(member, member_epoch, owned)
    still = () if released else owned
    held = member.assigned | member.revoking
    assigned = {p: since for p, since in held.items() if p in member.target}
    revoking = {
        p: since
        for p, since in held.items()
        # An epoch says nothing of what was given at a later one.
        if p not in member.target and (still is None or p in still or member_epoch < since)
    }
    moved = replace(member, assigned=assigned, revoking=revoking)
    if not revoking:
        moved = replace(moved, revoke_deadline_ms=None)
        if group.assignment_epoch > member.member_epoch:
            moved = replace(moved, member_epoch=group.assignment_epoch, previous_epoch=member_epoch)
    elif revoking.keys() - member.revoking.keys():
        moved = replace(moved, revoke_deadline_ms=now_ms + member.join_request.rebalance_timeout_ms)
    if moved != member or not member.lease_is_fresh(now_ms):
        moved = replace(moved, deadline_ms=max(member.deadline_ms, now_ms + member.join_request.session_timeout_ms))
    return group if moved == member else give(replace(group, members=group.members | {member_id: moved}))


def leave(group: Group, member_id: str, now_ms: int) -> Group:
    """Remove a member; its partitions are free at once.

    Raises:
        UnknownMemberId, FencedInstanceId: The group is as it was.
    """
    find(group, member_id)
    return _without(group, {member_id}, now_ms, "member_left")


def expire(group: Group, now_ms: int) -> Group:
    """Remove the members whose session is over, or who did not give up partitions in time."""
    late = {
        name
        for name, member in group.members.items()
        if member.deadline_ms <= now_ms
        or (member.revoke_deadline_ms is not None and member.revoke_deadline_ms <= now_ms)
    }
    return _without(group, late, now_ms, "member_expired") if late else group


def due(group: Group, now_ms: int, *reasons: Reason) -> Group:
    """Let the group be assigned: now, or when the interval since the last time is over."""
    assign_at_ms = group.assign_at_ms
    if assign_at_ms is None:
        assign_at_ms = max(now_ms, group.assigned_at_ms + ASSIGNMENT_INTERVAL_MS)
    return replace(group, assign_at_ms=assign_at_ms, reasons=tuple(dict.fromkeys(group.reasons + reasons)))


def give(group: Group) -> Group:
    """Give free partitions to the members at the current epoch that wait for them."""
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
    given = {
        name: replace(member, assigned=member.assigned | dict.fromkeys(gained, member.member_epoch))
        for name, member in waiting.items()
        if (gained := member.target - held)
    }
    return replace(group, members=group.members | given) if given else group


def check_commit(member: Member, member_epoch: int, partitions: Iterable[Partition]) -> list[Partition]:
    """Return the partitions that a member may not commit at an epoch: not held, or got at a later epoch.

    Raises:
        FencedMemberEpoch: The epoch is none that the member ever had.
    """
    if member_epoch > member.member_epoch:
        raise _fenced(member, member_epoch)
    held = member.assigned | member.revoking
    return [p for p in partitions if p not in held or member_epoch < held[p]]


def _fenced(member: Member, member_epoch: int) -> FencedMemberEpoch:
    return FencedMemberEpoch(
        f"member_epoch is {member.member_epoch}, not {member_epoch}; drop all partitions and join again",
        member_epoch=member.member_epoch,
    )


def _holder(group: Group, join_request: JoinRequest) -> Member | None:
    """Return the member whose place one that joins takes: of its instance_id, else of its name."""
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
    return give(due(left, now_ms, reason))
