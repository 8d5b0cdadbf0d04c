"""Transactions of a group: each loads the group under its lock, runs one pure step of `domain.groups` and saves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from app.domain.groups.assignment import TopicMetadata, schedule_on_topic_change, update_target_assignment
from app.domain.groups.assignor import Partition
from app.domain.groups.group import Group, expire_members, find_member, join_group, leave_group, take_heartbeat
from app.domain.groups.member import JoinRequest
from app.errors.broker_error import BrokerError
from app.errors.groups import GroupIdNotFound, GroupMaxSizeReached, NonEmptyGroup, UnknownMemberId
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.groups import groups, initial_offsets, rebalances
from app.storage.groups.members import MemberSnapshot


class Limits(NamedTuple):
    """The greatest number of groups, and of members in each."""

    groups: int
    members: int


class Heartbeat(NamedTuple):
    """A heartbeat.

    Attributes:
        member_epoch: The epoch that the client has; None stands for the current one.
        owned: Topic and partition of all that the member still works on; None confirms no revocation.
        released: Whether the member works on no partition, so that all its revoked partitions are free at once.
    """

    group: str
    member_id: str
    member_epoch: int | None
    owned: frozenset[tuple[str, int]] | None = None
    released: bool = False


class GroupChange(NamedTuple):
    """A group before and after a step."""

    before: Group
    after: Group
    now_ms: int

    def member(self, member_id: str) -> MemberSnapshot:
        """Return a member after the step."""
        group = self.after
        return MemberSnapshot(
            group.group_id, group.group_epoch, group.assignment_epoch, group.members[member_id], self.now_ms
        )


def join(tx: Tx, name: str, join_request: JoinRequest, limits: Limits, *, by_poll: bool) -> GroupChange:
    """Add a member to a group; the group is created if it does not exist.

    Raises:
        GroupMaxSizeReached: The group is full, or there are too many groups.
        FencedInstanceId: With `by_poll`, and another member has taken over its instance_id.
    """
    before = load_or_create(tx, name, limits.groups)
    if by_poll and join_request.member_id in {member.replaced_member_id for member in before.members.values()}:
        find_member(before, join_request.member_id)
    now_ms = clock.read(tx)
    joined = assign_if_due(tx, join_group(before, join_request, now_ms, limits.members), now_ms)
    epoch = joined.members[join_request.member_id].member_epoch
    after = take_heartbeat(joined, join_request.member_id, epoch, None, now_ms, released=True)
    return save(tx, before, after, now_ms)


def heartbeat(tx: Tx, request: Heartbeat, owned: Collection[Partition] | None) -> GroupChange:
    """Take a heartbeat, and assign the group if that is due.

    Args:
        tx: A transaction.
        request: The heartbeat.
        owned: Its owned partitions by id.

    Raises:
        UnknownMemberId, FencedInstanceId, FencedMemberEpoch: Nothing is changed.
    """
    before, now_ms = load(tx, request.group)
    stepped = with_heartbeat(before, request, owned, now_ms)
    return save(tx, before, assign_if_due(tx, stepped, now_ms), now_ms)


def with_heartbeat(group: Group, request: Heartbeat, owned: Collection[Partition] | None, now_ms: int) -> Group:
    """Return the group after a heartbeat; see `take_heartbeat`."""
    epoch = request.member_epoch
    if epoch is None:
        epoch = find_member(group, request.member_id).member_epoch
    return take_heartbeat(group, request.member_id, epoch, owned, now_ms, released=request.released)


def leave(tx: Tx, name: str, member_id: str) -> GroupChange:
    """Remove a member, and assign the group if that is due.

    Raises:
        UnknownMemberId, FencedInstanceId: Nothing is changed.
    """
    before, now_ms = load(tx, name)
    return save(tx, before, assign_if_due(tx, leave_group(before, member_id, now_ms), now_ms), now_ms)


def rebalance_all(tx: Tx, names: Sequence[str], *, expires: bool) -> list[GroupChange]:
    """Rebalance groups, given in ascending order, in one transaction. Return the changes."""
    changes = [rebalance(tx, name, expires=expires) for name in names]
    return [change for change in changes if change is not None]


def rebalance(tx: Tx, name: str, *, expires: bool) -> GroupChange | None:
    """Expire members, and schedule and compute an assignment, as due. Return None if nothing changed."""
    before = groups.load(tx, name)
    if before is None:
        return None
    now_ms = clock.read(tx)
    after = expire_members(before, now_ms) if expires and rebalances.is_node_running(tx, now_ms) else before
    topics = rebalances.topic_metadata(tx, after.subscriptions)
    after = schedule_on_topic_change(after, topics, now_ms)
    changed = save(tx, before, assign_if_due(tx, after, now_ms, topics), now_ms)
    return None if changed.after is before else changed


def delete(tx: Tx, name: str) -> None:
    """Delete a group without members, with its offsets.

    Raises:
        GroupIdNotFound, NonEmptyGroup
    """
    found = groups.load(tx, name)
    if found is None:
        raise group_not_found()
    if found.members:
        raise NonEmptyGroup(
            f"the group still has members, {len(found.members)}; stop them first", members=len(found.members)
        )
    groups.delete_(tx, found)


def load(tx: Tx, name: str) -> tuple[Group, int]:
    """Lock a group and return it with the database's time.

    Raises:
        UnknownMemberId: The group does not exist.
    """
    found = groups.load(tx, name)
    if found is None:
        raise UnknownMemberId(
            "there is no such group, and so no such member; GET /v1/groups lists the groups, a join creates one"
        )
    return found, clock.read(tx)


def load_or_create(tx: Tx, name: str, max_groups: int) -> Group:
    """Lock a group; it is created if it does not exist.

    Raises:
        GroupMaxSizeReached: There are too many groups.
    """
    found = groups.load(tx, name)
    while found is None:
        if groups.count(tx) >= max_groups:
            raise GroupMaxSizeReached(f"there are {max_groups} groups; delete some, or raise MILLRACE_MAX_GROUPS")
        groups.create(tx, name, clock.read(tx))
        found = groups.load(tx, name)
    return found


def assign_if_due(tx: Tx, group: Group, now_ms: int, topics: Mapping[str, TopicMetadata] | None = None) -> Group:
    """Return the group with a new target assignment if one is due, and add it to the group's history.

    Args:
        tx: A write transaction.
        group: The locked group.
        now_ms: Time of the transaction.
        topics: The topics that the group's subscriptions may match, if they were read before.
    """
    if group.assign_at_ms is None or group.assign_at_ms > now_ms:
        return group
    if topics is None:
        topics = rebalances.topic_metadata(tx, group.subscriptions)
    assigned, rebalance = update_target_assignment(group, topics, now_ms)
    rebalances.add_rebalance(tx, group, rebalance, {topic.topic_id: name for name, topic in topics.items()})
    return assigned


def save(tx: Tx, before: Group, after: Group, now_ms: int) -> GroupChange:
    """Save what a step changed in a locked group, and commit the initial offsets of newly assigned partitions."""
    if after is not before:
        groups.save(tx, before, after)
        initial_offsets.resolve(tx, before, after, now_ms)
    return GroupChange(before, after, now_ms)


def member_not_found(tx: Tx, name: str, member_id: str) -> BrokerError:
    """Return the error for a member that is not in its group: it is unknown, or its instance_id was taken over."""
    try:
        find_member(groups.find(tx, name) or Group(group_id=0, name=name), member_id)
    except BrokerError as error:
        return error
    return UnknownMemberId("the group had no such member a moment ago; try again")


def group_not_found() -> GroupIdNotFound:
    """Return the error for a group that does not exist."""
    return GroupIdNotFound(
        "there is no group of this name; GET /v1/groups lists the groups; "
        "a join, a poll with topics or a commit creates one"
    )
