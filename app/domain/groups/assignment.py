"""The target assignment of a group: when its topics call for a new one, and computing it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from app.domain.groups.assignor import ASSIGNORS, Partition, Subscriber
from app.domain.groups.group import AssignorName, Group, Member, Reason, due, give


class Shape(msgspec.Struct, frozen=True):
    """A topic as the assignors see it."""

    topic_id: int
    partitions: int


class Rebalance(msgspec.Struct, frozen=True):
    """One assignment: when, why, and what each member is to hold."""

    group_epoch: int
    at_ms: int
    reasons: tuple[Reason, ...]
    targets: dict[str, tuple[Partition, ...]]


def notice_topics(group: Group, shapes: Mapping[str, Shape], now_ms: int) -> Group:
    """Note that the subscribed topics are not those of the last assignment, unless the next is due anyway.

    Args:
        group: The group.
        shapes: The topics there are, by name.
        now_ms: Time of the database.
    """
    subscriptions = {member.join_request.subscription for member in group.members.values()}
    found = {
        shape.topic_id: shape.partitions
        for name, shape in shapes.items()
        if any(subscription.covers(name) for subscription in subscriptions)
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
    return due(replace(group, group_epoch=group.group_epoch + 1), now_ms, *sorted(reasons))


def retarget(group: Group, shapes: Mapping[str, Shape], now_ms: int) -> tuple[Group, Rebalance]:
    """Compute the members' targets anew, and give them what is free.

    Args:
        group: The group.
        shapes: The topics there are, by name.
        now_ms: Time of the database.
    """
    by_subscription = {
        subscription: frozenset(shape.topic_id for name, shape in shapes.items() if subscription.covers(name))
        for subscription in {member.join_request.subscription for member in group.members.values()}
    }
    subscribed = frozenset[int]().union(*by_subscription.values())
    topics = {shape.topic_id: shape.partitions for shape in shapes.values() if shape.topic_id in subscribed}
    subscribers = {
        name: Subscriber(
            by_subscription[member.join_request.subscription], member.target, member.join_request.instance_id
        )
        for name, member in group.members.items()
    }
    targets = ASSIGNORS[_assignor(group)](subscribers, topics)
    assigned = replace(
        group,
        assignment_epoch=group.group_epoch,
        assigned_at_ms=now_ms,
        assign_at_ms=None,
        reasons=(),
        topics=topics,
        members={
            name: replace(_without_deleted(member, topics), target=targets[name])
            for name, member in group.members.items()
        },
    )
    if group.members:
        first = {
            shape.topic_id: 0 if any(before.covers(name) for before in group.covered) else shape.partitions
            for name, shape in shapes.items()
            if shape.topic_id in subscribed
        }
        covered = tuple(sorted(by_subscription, key=lambda one: (one.topics, one.topic_pattern or "")))
        assigned = replace(assigned, first_partitions=first | group.first_partitions, covered=covered)
    to_hold = {name: tuple(sorted(target)) for name, target in targets.items()}
    return give(assigned), Rebalance(group.group_epoch, now_ms, group.reasons, to_hold)


def _without_deleted(member: Member, topics: Mapping[int, int]) -> Member:
    """Take from a member the partitions of topics that are gone: its own subscription covers all that it holds."""
    assigned = {p: since for p, since in member.assigned.items() if p[0] in topics}
    revoking = {p: since for p, since in member.revoking.items() if p[0] in topics}
    deadline_ms = member.revoke_deadline_ms if revoking else None
    return replace(member, assigned=assigned, revoking=revoking, revoke_deadline_ms=deadline_ms)


def _assignor(group: Group) -> AssignorName:
    """Return the assignor that most members want."""
    votes = Counter(member.join_request.assignor for member in group.members.values())
    return max(votes, key=lambda name: (votes[name], name), default="uniform")
