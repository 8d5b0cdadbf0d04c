"""What the rebalancer asks: which groups are due, whether silence counts, what there is to assign; and the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, exists, func, select, update

from app.domain.groups.assignment import Rebalance, Shape
from app.domain.groups.group import Group, Subscription
from app.storage.db import clock
from app.storage.db.engine import Query, Tx
from app.storage.db.tables import consumer_groups, group_members, group_rebalances, group_ticks, partitions, topics
from app.storage.groups.groups import decode_group_details

KEPT_REBALANCES = 20
SILENCE_MS = 5_000
"""Where no node ticked for so long, silence of the members proves nothing."""

_groups, _members = consumer_groups.c, group_members.c

_DUE = Query(
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
_TICKED = Query(select(group_ticks.c.ticked_at_ms))
_TICKED_LOCKED = Query(select(group_ticks.c.ticked_at_ms).with_for_update())
_TICK = update(group_ticks).values(ticked_at_ms=bindparam("now"))
_ANY_MEMBER = select(exists().select_from(group_members))
_FULL_SESSIONS = update(group_members).values(
    deadline_ms=bindparam("now") + _members.session_timeout_ms,
    revoke_deadline_ms=_members.revoke_deadline_ms + bindparam("silence"),
)
_SHAPES = (
    select(topics.c.name, topics.c.topic_id, func.count(partitions.c.partition_id))
    .join(partitions, partitions.c.topic_id == topics.c.topic_id)
    .group_by(topics.c.name, topics.c.topic_id)
)
_SHAPES_NAMED = _SHAPES.where(topics.c.name.in_(bindparam("names", expanding=True)))
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
"""One more is kept than shown: the oldest shown begins from it."""

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
_FINGERPRINT = Query(
    select(
        func.count(), func.coalesce(func.max(topics.c.topic_id), 0), func.coalesce(func.sum(topics.c.version), 0)
    ).select_from(topics)
)

_targets = msgspec.json.Decoder(dict[str, list[tuple[str, int]]])


class PastRebalance(NamedTuple):
    """One assignment of a group's history.

    Attributes:
        before: Topic and partition of what each member was to hold before it.
        after: The same after it.
    """

    group_epoch: int
    at_ms: int
    reasons: list[str]
    before: dict[str, list[tuple[str, int]]]
    after: dict[str, list[tuple[str, int]]]


def shapes(tx: Tx, subscriptions: Iterable[Subscription]) -> dict[str, Shape]:
    """Return the topics that subscriptions may cover, by name: all of them if there is a pattern."""
    subscriptions = tuple(subscriptions)
    if any(one.topic_pattern is not None for one in subscriptions):
        rows = tx.connection.execute(_SHAPES).all()
    else:
        names = sorted({name for one in subscriptions for name in one.topics})
        rows = tx.connection.execute(_SHAPES_NAMED, {"names": names}).all() if names else []
    return {name: Shape(topic_id, partitions) for name, topic_id, partitions in rows}


def due(tx: Tx, limit: int) -> list[str]:
    """Return names of groups that are to be assigned, or of which a member's time is over."""
    at_ms = clock.read(tx)
    return [row[0] for row in _DUE.rows(tx, {"at_ms": at_ms, "at_most": limit})]


def ticking(tx: Tx, at_ms: int) -> bool:
    """Return whether some node looked after the groups within the last seconds, so that silence counts."""
    return abs(at_ms - int(_TICKED.rows(tx, {})[0][0])) <= SILENCE_MS


def tick(tx: Tx, *, first: bool = False) -> None:
    """Note that a node looks after the groups; after a time in which none did, give every member a full session.

    Args:
        tx: A transaction of its own.
        first: Whether the node has just started. Where it alone has the database, nobody looked before.
    """
    if not tx.connection.execute(_ANY_MEMBER).scalar_one():
        return
    ticked_at_ms = int(_TICKED_LOCKED.rows(tx, {})[0][0])
    at_ms = clock.read(tx)
    if abs(at_ms - ticked_at_ms) > SILENCE_MS or (first and not tx.dialect.shared):
        tx.connection.execute(_FULL_SESSIONS, {"now": at_ms, "silence": max(0, at_ms - ticked_at_ms)})
    tx.connection.execute(_TICK, {"now": at_ms})


def add_rebalance(tx: Tx, group: Group, rebalance: Rebalance, names: Mapping[int, str]) -> None:
    """Add an assignment to the group's history and drop the oldest."""
    targets = {
        member: [(names[topic_id], partition) for topic_id, partition in target]
        for member, target in rebalance.targets.items()
    }
    tx.connection.execute(
        tx.dialect.insert(group_rebalances).values(
            group_id=group.group_id,
            group_epoch=rebalance.group_epoch,
            at_ms=rebalance.at_ms,
            reasons=",".join(rebalance.reasons),
            targets=msgspec.json.encode(targets),
        )
    )
    tx.connection.execute(_DROP_OLD, {"id": group.group_id})


def rebalances(tx: Tx, name: str) -> list[PastRebalance] | None:
    """Return the last assignments of a group, the newest first, or None if there is no such group."""
    if tx.connection.execute(_GROUP_ID, {"name": name}).one_or_none() is None:
        return None
    rows = tx.connection.execute(_REBALANCES, {"name": name}).all()
    targets = [_targets.decode(encoded) for *_, encoded in rows] + [{}]
    return [
        PastRebalance(epoch, at_ms, reasons.split(",") if reasons else [], targets[index + 1], targets[index])
        for index, (epoch, at_ms, reasons, _) in enumerate(rows[:KEPT_REBALANCES])
    ]


def fingerprint(tx: Tx) -> tuple[int, ...]:
    """Return what differs after any change of topics: who has seen it need not look at the topics."""
    return tuple(int(value) for value in _FINGERPRINT.rows(tx, {})[0])


def outdated(tx: Tx) -> list[str]:
    """Return names of groups whose subscribed topics are not those of their last assignment."""
    present = {name: Shape(topic_id, count) for name, topic_id, count in tx.connection.execute(_SHAPES)}
    found = []
    for name, encoded in tx.connection.execute(_WITH_MEMBERS):
        details = decode_group_details(encoded)
        if _partitions_of(details.covered, present) != details.topics:
            found.append(name)
    return found


def _partitions_of(subscriptions: Iterable[Subscription], present: Mapping[str, Shape]) -> dict[int, int]:
    """Return the number of partitions of each topic that subscriptions cover."""
    covered: set[str] = set()
    for subscription in subscriptions:
        covered.update(subscription.topics)
        if subscription.topic_pattern is not None:
            covered.update(name for name in present if subscription.covers(name))
    return {present[name].topic_id: present[name].partitions for name in covered & present.keys()}
