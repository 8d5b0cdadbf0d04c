"""The target assignment of a group: schedule a new one when topics change, and compute it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from app.domain.groups.assignor import ASSIGNORS, Assignment, Partition, Subscriber
from app.domain.groups.group import Group, Reason, assign_free_partitions, schedule_assignment
from app.domain.groups.member import AssignorName, Member, Subscription


class TopicMetadata(msgspec.Struct, frozen=True):
    """The id of a topic and its number of partitions."""

    topic_id: int
    partitions: int


class Rebalance(msgspec.Struct, frozen=True):
    """One assignment: its time, its reasons, and the target assignment of each member."""

    group_epoch: int
    at_ms: int
    reasons: tuple[Reason, ...]
    targets: dict[str, tuple[Partition, ...]]


def schedule_on_topic_change(group: Group, topics: Mapping[str, TopicMetadata], now_ms: int) -> Group:
    """Schedule an assignment if the subscribed topics have changed since the last one, unless one is scheduled.

    Args:
        group: The group.
        topics: The existing topics by name.
        now_ms: Time of the database.
    """
    subscriptions = group.subscriptions
    found = {
        topic.topic_id: topic.partitions
        for name, topic in topics.items()
        if any(subscription.matches(name) for subscription in subscriptions)
    }
    if found == group.topics or group.assign_at_ms is not None:
        return group
    reasons: set[Reason] = set()
    if found.keys() - group.topics.keys():
        reasons.add("topic_created")
    if group.topics.keys() - found.keys():
        reasons.add("topic_deleted")
    if any(found.get(topic_id, 0) > partitions for topic_id, partitions in group.topics.items()):
        reasons.add("partitions_added")
    return schedule_assignment(replace(group, group_epoch=group.group_epoch + 1), now_ms, *sorted(reasons))


def update_target_assignment(group: Group, topics: Mapping[str, TopicMetadata], now_ms: int) -> tuple[Group, Rebalance]:
    """Compute a new target assignment, and assign the free partitions.

    Args:
        group: The group.
        topics: The existing topics by name.
        now_ms: Time of the database.
    """
    topic_ids = {
        subscription: frozenset(topic.topic_id for name, topic in topics.items() if subscription.matches(name))
        for subscription in group.subscriptions
    }
    subscribed_ids = frozenset[int]().union(*topic_ids.values())
    subscribed = {topic.topic_id: topic.partitions for topic in topics.values() if topic.topic_id in subscribed_ids}
    targets = ASSIGNORS[_assignor(group)](_subscribers(group, topic_ids), subscribed)
    assigned = replace(
        group,
        assignment_epoch=group.group_epoch,
        assigned_at_ms=now_ms,
        assign_at_ms=None,
        reasons=(),
        topics=subscribed,
        members=_with_targets(group.members, targets, subscribed),
    )
    if group.members:
        assigned = _with_subscriptions(assigned, topics)
    sorted_targets = {name: tuple(sorted(target)) for name, target in targets.items()}
    rebalance = Rebalance(group.group_epoch, now_ms, group.reasons, sorted_targets)
    return assign_free_partitions(assigned), rebalance


def _subscribers(group: Group, topic_ids: Mapping[Subscription, frozenset[int]]) -> dict[str, Subscriber]:
    """Return the members as input of an assignor."""
    return {
        name: Subscriber(topic_ids[member.join_request.subscription], member.target, member.join_request.instance_id)
        for name, member in group.members.items()
    }


def _with_targets(members: Mapping[str, Member], targets: Assignment, topics: Mapping[int, int]) -> dict[str, Member]:
    """Return the members with their new target assignment, without partitions of deleted topics."""
    return {name: replace(_without_deleted(member, topics), target=targets[name]) for name, member in members.items()}


def _with_subscriptions(group: Group, topics: Mapping[str, TopicMetadata]) -> Group:
    """Return the group with its subscriptions as of this assignment.

    A new topic that a subscription of the last assignment matches has been created since: all of it is read from its
    start.
    """
    initial = {
        topic.topic_id: 0 if any(before.matches(name) for before in group.assigned_subscriptions) else topic.partitions
        for name, topic in topics.items()
        if topic.topic_id in group.topics
    }
    subscriptions = tuple(sorted(group.subscriptions, key=lambda one: (one.topics, one.topic_pattern or "")))
    return replace(group, initial_partitions=initial | group.initial_partitions, assigned_subscriptions=subscriptions)


def _without_deleted(member: Member, topics: Mapping[int, int]) -> Member:
    """Return a member without its partitions of topics that are deleted or no longer subscribed."""
    assigned = {p: since for p, since in member.assigned.items() if p[0] in topics}
    revoking = {p: since for p, since in member.revoking.items() if p[0] in topics}
    deadline_ms = member.revoke_deadline_ms if revoking else None
    return replace(member, assigned=assigned, revoking=revoking, revoke_deadline_ms=deadline_ms)


def _assignor(group: Group) -> AssignorName:
    """Return the assignor that most members request; of several, the last by name."""
    votes = Counter(member.join_request.assignor for member in group.members.values())
    return max(votes, key=lambda name: (votes[name], name), default="uniform")
