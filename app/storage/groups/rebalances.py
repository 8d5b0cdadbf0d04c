"""Rebalances: the groups that are due, whether members may expire, the topics to assign, the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, exists, func, insert, or_, select, update

from app.domain.groups.assignment import Rebalance, TopicMetadata
from app.domain.groups.group import ASSIGNMENT_INTERVAL_MS, Group
from app.domain.groups.member import Subscription
from app.storage.db import clock
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import consumer_groups, group_members, group_rebalances, group_ticks, partitions, topics
from app.storage.db.transaction import Tx
from app.storage.groups.groups import decode_group_details

KEPT_REBALANCES = 20
MAX_OUTAGE_MS = 5_000
"""If no node has run for longer, members do not expire: they had no node to send heartbeats to."""

_groups, _members = consumer_groups.c, group_members.c

_DUE = CompiledStatement(
    select(_groups.name)
    .where(_groups.assign_at_ms <= bindparam("at_ms"))
    .union(
        select(_groups.name)
        .join(group_members, _members.group_id == _groups.group_id)
        .where(_members.deadline_ms <= bindparam("at_ms")),
        select(_groups.name)
        .join(group_members, _members.group_id == _groups.group_id)
        .where(_members.revoke_deadline_ms <= bindparam("at_ms")),
    )
    .limit(bindparam("at_most"))
)
_LAST_RUN = CompiledStatement(select(group_ticks.c.ticked_at_ms))
_LAST_RUN_LOCKED = CompiledStatement(select(group_ticks.c.ticked_at_ms).with_for_update())
_RECORD_RUN = update(group_ticks).values(ticked_at_ms=bindparam("now"))
_ANY_MEMBER = select(exists().select_from(group_members))
_LOCK_GROUPS_WITH_MEMBERS = (
    select(_groups.group_id)
    .join(group_members, _members.group_id == _groups.group_id)
    .order_by(_groups.name, _members.member_id)
    .with_for_update(of=[consumer_groups, group_members])
)
_EMPTY_GROUPS = (
    select(_groups.group_id)
    .where(_groups.assign_at_ms > bindparam("latest"), _groups.empty_since_ms.is_not(None))
    .order_by(_groups.name)
    .with_for_update(skip_locked=True)
)
_FULL_SESSIONS = update(group_members).values(
    deadline_ms=bindparam("now") + _members.session_timeout_ms,
    revoke_deadline_ms=_members.revoke_deadline_ms + bindparam("outage"),
)
_EARLIER_ASSIGNMENTS = (
    update(consumer_groups)
    .where(_groups.assign_at_ms > bindparam("latest"))
    .where(or_(_groups.empty_since_ms.is_(None), _groups.group_id.in_(_EMPTY_GROUPS)))
    .values(assign_at_ms=bindparam("latest"))
)
_TOPICS = (
    select(topics.c.name, topics.c.topic_id, func.count(partitions.c.partition_id))
    .join(partitions, partitions.c.topic_id == topics.c.topic_id)
    .group_by(topics.c.name, topics.c.topic_id)
)
_TOPICS_NAMED = _TOPICS.where(topics.c.name.in_(bindparam("names", expanding=True)))
_ADD = insert(group_rebalances)
_DROP_OLD = (
    delete(group_rebalances)
    .where(group_rebalances.c.group_id == bindparam("id"))
    .where(
        group_rebalances.c.group_epoch
        <= select(group_rebalances.c.group_epoch)
        .where(group_rebalances.c.group_id == bindparam("id"))
        .order_by(group_rebalances.c.group_epoch.desc())
        .limit(1)
        .offset(KEPT_REBALANCES + 1)
        .scalar_subquery()
    )
)
"""Keeps one more than is shown: the assignment before the oldest one shown."""

_REBALANCES = (
    select(
        group_rebalances.c.group_epoch,
        group_rebalances.c.at_ms,
        group_rebalances.c.reasons,
        group_rebalances.c.targets,
    )
    .join(consumer_groups, _groups.group_id == group_rebalances.c.group_id)
    .where(_groups.name == bindparam("name"))
    .order_by(group_rebalances.c.group_epoch.desc())
)

_GROUP_ID = select(_groups.group_id).where(_groups.name == bindparam("name"))
_WITH_MEMBERS = select(_groups.name, _groups.details).where(_groups.empty_since_ms.is_(None))
_FINGERPRINT = CompiledStatement(
    select(
        func.count(), func.coalesce(func.max(topics.c.topic_id), 0), func.coalesce(func.sum(topics.c.version), 0)
    ).select_from(topics)
)

_targets = msgspec.json.Decoder(dict[str, list[tuple[str, int]]])


class PastRebalance(NamedTuple):
    """One assignment of a group's history.

    Attributes:
        before: Topic and partition of each member's target assignment before.
        after: The same after.
    """

    group_epoch: int
    at_ms: int
    reasons: list[str]
    before: dict[str, list[tuple[str, int]]]
    after: dict[str, list[tuple[str, int]]]


def topic_metadata(tx: Tx, subscriptions: Iterable[Subscription]) -> dict[str, TopicMetadata]:
    """Return the topics that subscriptions may match, by name: all topics if one has a pattern."""
    subscriptions = tuple(subscriptions)
    if any(one.topic_pattern is not None for one in subscriptions):
        rows = tx.connection.execute(_TOPICS).all()
    else:
        names = sorted({name for one in subscriptions for name in one.topics})
        rows = tx.connection.execute(_TOPICS_NAMED, {"names": names}).all() if names else []
    return {name: TopicMetadata(topic_id, partitions) for name, topic_id, partitions in rows}


def due(tx: Tx, limit: int) -> list[str]:
    """Return names of groups of which an assignment, or the expiry of a member, is due."""
    at_ms = clock.read(tx)
    return [name for (name,) in _DUE.rows(tx, {"at_ms": at_ms, "at_most": limit})]


def is_node_running(tx: Tx, at_ms: int) -> bool:
    """Return whether a node has run within the last `MAX_OUTAGE_MS`, so that members may expire."""
    ((last_run_ms,),) = _LAST_RUN.rows(tx, {})
    return abs(at_ms - int(last_run_ms)) <= MAX_OUTAGE_MS


def record_running_node(tx: Tx, *, first: bool = False) -> None:
    """Record that a node runs the rebalances. After an outage of all nodes, give every member a full session.

    A step back of the clock counts as an outage; the deadlines of revocations step back with it.

    Args:
        tx: A transaction of its own.
        first: Whether the node has just started. If no other node shares the database, there was an outage before.
    """
    if not tx.connection.execute(_ANY_MEMBER).scalar_one():
        return
    ((last_run_ms,),) = _LAST_RUN_LOCKED.rows(tx, {})
    at_ms = clock.read(tx)
    if abs(at_ms - last_run_ms) > MAX_OUTAGE_MS or (first and not tx.dialect.shared):
        tx.connection.execute(_LOCK_GROUPS_WITH_MEMBERS).all()
        tx.connection.execute(_FULL_SESSIONS, {"now": at_ms, "outage": at_ms - last_run_ms})
        tx.connection.execute(_EARLIER_ASSIGNMENTS, {"latest": at_ms + ASSIGNMENT_INTERVAL_MS})
    tx.connection.execute(_RECORD_RUN, {"now": at_ms})


def add_rebalance(tx: Tx, group: Group, rebalance: Rebalance, names: Mapping[int, str]) -> None:
    """Add an assignment to the group's history, and delete the oldest."""
    targets = {
        member: [(names[topic_id], partition) for topic_id, partition in target]
        for member, target in rebalance.targets.items()
    }
    tx.connection.execute(
        _ADD,
        {
            "group_id": group.group_id,
            "group_epoch": rebalance.group_epoch,
            "at_ms": rebalance.at_ms,
            "reasons": ",".join(rebalance.reasons),
            "targets": msgspec.json.encode(targets),
        },
    )
    tx.connection.execute(_DROP_OLD, {"id": group.group_id})


def rebalances(tx: Tx, name: str) -> list[PastRebalance] | None:
    """Return the last assignments of a group, the newest first, or None if the group does not exist."""
    if tx.connection.execute(_GROUP_ID, {"name": name}).one_or_none() is None:
        return None
    rows = tx.connection.execute(_REBALANCES, {"name": name}).all()
    targets = [_targets.decode(encoded) for *_, encoded in rows] + [{}]
    return [
        PastRebalance(epoch, at_ms, reasons.split(",") if reasons else [], targets[index + 1], targets[index])
        for index, (epoch, at_ms, reasons, _) in enumerate(rows[:KEPT_REBALANCES])
    ]


def fingerprint(tx: Tx) -> tuple[int, ...]:
    """Return values of which at least one differs after any change of topics."""
    (values,) = _FINGERPRINT.rows(tx, {})
    return tuple(map(int, values))


def outdated(tx: Tx) -> list[str]:
    """Return names of groups whose subscribed topics have changed since their last assignment."""
    present = {name: TopicMetadata(topic_id, count) for name, topic_id, count in tx.connection.execute(_TOPICS)}
    found = []
    for name, encoded in tx.connection.execute(_WITH_MEMBERS):
        details = decode_group_details(encoded)
        if _partitions_of(details.assigned_subscriptions, present) != details.topics:
            found.append(name)
    return found


def _partitions_of(subscriptions: Iterable[Subscription], present: Mapping[str, TopicMetadata]) -> dict[int, int]:
    """Return the number of partitions of each topic that subscriptions match."""
    matched: set[str] = set()
    for subscription in subscriptions:
        matched.update(subscription.topics)
        if subscription.topic_pattern is not None:
            matched.update(name for name in present if subscription.matches(name))
    return {present[name].topic_id: present[name].partitions for name in matched & present.keys()}
