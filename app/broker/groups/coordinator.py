"""Consumer groups: join, heartbeat, leave, and the rebalancing that any node may do at any time.

All state is in the database. A beat that changes nothing is answered from a read, or from what the last read found; a
lease that grows old is renewed together with others; everything else is one step of `domain.group` under the group's
lock.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import count
from typing import NamedTuple

from app.broker.groups.member_cache import MemberCache
from app.broker.groups.sessions import Sessions
from app.broker.log.topics import Topics
from app.broker.waiting.deadline import monotonic_ms
from app.broker.waiting.signals import Signals
from app.domain.groups import assignment
from app.domain.groups import group as rules
from app.domain.groups.assignor import Partition
from app.domain.groups.group import Group, JoinRequest, Member
from app.errors.broker_error import BrokerError
from app.errors.database import ServiceUnavailable
from app.errors.groups import GroupIdNotFound, GroupMaxSizeReached, NonEmptyGroup, UnknownMemberId
from app.storage.db import clock
from app.storage.db.engine import Storage, Tx
from app.storage.groups import groups, initial_offsets, rebalances
from app.storage.groups.groups import GroupSummary
from app.storage.groups.members import MemberSnapshot
from app.storage.groups.rebalances import PastRebalance

_DUE_AT_ONCE = 100
_LOOKS_AT_TOPICS = 200
"""So often at the latest the groups are compared with the topics: one may be assigned while a topic is created."""

Step = Callable[[Group, int], Group]
"""One pure step: a group and the database's time in, a group out."""

Gone = Callable[[], Awaitable[bool]]
"""Finds out whether the client of a call has gone."""

Before = Callable[[Tx, int, Member], None]
"""What is to happen under the locks before a heartbeat: it gets the group's id and the member."""


class Limits(NamedTuple):
    """How many groups there may be, and members in each."""

    groups: int
    members: int


class Heartbeat(NamedTuple):
    """A heartbeat.

    Attributes:
        member_epoch: The epoch that the member knows; None stands for whichever it has.
        owned: Topic and partition of all that it still works on; None where it does not say, which confirms nothing.
        released: It works on nothing, so that all it is to give up is free at once.
    """

    group: str
    member_id: str
    member_epoch: int | None
    owned: frozenset[tuple[str, int]] | None = None
    released: bool = False


class GroupChange(NamedTuple):
    """What a step made of a group."""

    before: Group
    after: Group
    now_ms: int


class Coordinator:
    """The consumer groups."""

    def __init__(
        self,
        storage: Storage,
        topics: Topics,
        signals: Signals,
        limits: Limits,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._limits = limits
        self._standings = MemberCache(storage, signals, clock_ms)
        self._leases = Sessions(storage, self._standings.note_renewal, clock_ms)
        self._topics_seen: tuple[int, ...] | None = None
        self._looks = count()
        self._ticked = False

    async def join(self, name: str, join_request: JoinRequest, *, by_poll: bool = False) -> tuple[MemberSnapshot, bool]:
        """Join, or join again with a new epoch. Return the member and whether it is new.

        Args:
            name: The group, created if there is none.
            join_request: What to join with.
            by_poll: Nobody decided to start this member: it may not take a place back that another has taken.

        Raises:
            GroupMaxSizeReached: The group is full, or there are too many groups.
            FencedInstanceId: Another member has its place.
        """
        changed = await self._storage.write(_join, name, join_request, self._limits, by_poll=by_poll)
        self._announce(changed)
        return _standing(changed, join_request.member_id), join_request.member_id not in changed.before.members

    async def heartbeat(
        self, heartbeat: Heartbeat, found: MemberSnapshot | None = None, gone: Gone | None = None
    ) -> MemberSnapshot:
        """Take a heartbeat and return how the member stands then; see `domain.group.beat`.

        Args:
            heartbeat: The heartbeat.
            found: How the member stands, if that was just read.
            gone: Whether its client has gone.

        Raises:
            UnknownMemberId, FencedMemberEpoch, FencedInstanceId: Nothing was changed.
        """
        known = found or self._standings.recall(heartbeat.group, heartbeat.member_id, heartbeat.member_epoch)
        found = known or await self._standings.read(heartbeat.group, heartbeat.member_id)
        if found is not None and found.member.member_epoch == heartbeat.member_epoch and found.settled:
            if found.member.lease_is_fresh(found.now_ms) or found.member.lease_is_ample(found.now_ms):
                self._leases.hear(found)
                return found
            if await self._leases.renew(found):
                return found
        return await self.step(heartbeat, found, gone=gone)

    async def step(
        self, heartbeat: Heartbeat, found: MemberSnapshot | None, before: Before | None = None, gone: Gone | None = None
    ) -> MemberSnapshot:
        """Take a heartbeat under the group's lock.

        Args:
            heartbeat: The heartbeat.
            found: How the member stood shortly before.
            before: What is to happen first, in the same transaction.
            gone: Whether its client has gone.

        Raises:
            ServiceUnavailable: The client has gone; nothing was changed.
        """
        owned = None if heartbeat.owned is None else await self._ids(heartbeat.owned, found)
        await refuse_gone(gone)
        step = partial(_heartbeat, heartbeat=heartbeat, owned=owned)
        changed = await self._storage.write(_change, heartbeat.group, step, (heartbeat.member_id, before))
        self._announce(changed, heartbeat.member_id)
        standing = _standing(changed, heartbeat.member_id)
        self.hear(standing)
        return standing

    def hear(self, standing: MemberSnapshot) -> None:
        """Remember that a member heartbeat, which the database may not know yet."""
        if standing.member.lease_is_fresh(standing.now_ms):
            self._leases.hear(standing)

    async def _ids(self, owned: Iterable[tuple[str, int]], found: MemberSnapshot | None) -> set[Partition]:
        """Return the ids of partitions by name, among those that a member holds; others get an id that is none."""
        held = [] if found is None else [*found.member.assigned, *found.member.revoking]
        await self._topics.learn(held)
        ids: dict[tuple[str, int], set[Partition]] = {}
        for partition in held:
            if (place := self._topics.place(*partition)) is not None:
                ids.setdefault((place[0], partition[1]), set()).add(partition)
        return {one for name, number in owned for one in ids.get((name, number), {(0, number)})}

    async def leave(self, name: str, member_id: str) -> None:
        """Remove a member; its partitions are free at once.

        Raises:
            UnknownMemberId, FencedInstanceId
        """
        changed = await self._storage.write(_change, name, lambda group, now_ms: rules.leave(group, member_id, now_ms))
        self._announce(changed)

    async def get(self, name: str) -> Group:
        """Return a group with its members.

        Raises:
            GroupIdNotFound: There is none of this name.
        """
        found = await self._storage.read(groups.find, name)
        if found is None:
            raise not_found()
        return found

    async def list_(self, after: str, limit: int) -> list[GroupSummary]:
        """Return up to `limit` groups in order of their names, from the first name above `after`."""
        return await self._storage.read(groups.list_, after, limit)

    async def rebalances(self, name: str) -> list[PastRebalance]:
        """Return the last assignments of a group, the newest first.

        Raises:
            GroupIdNotFound: There is none of this name.
        """
        found = await self._storage.read(rebalances.rebalances, name)
        if found is None:
            raise not_found()
        return found

    async def delete(self, name: str) -> None:
        """Delete a group without members, with its offsets.

        Raises:
            GroupIdNotFound, NonEmptyGroup
        """
        await self._storage.write(_delete, name)

    async def rebalance(self) -> bool:
        """Do what is due in all groups: expire members, note other topics, assign. Safe on every node at once."""
        await self._leases.settle()
        seen, names = await self._storage.read(_look)
        if seen != self._topics_seen or next(self._looks) % _LOOKS_AT_TOPICS == 0:
            names |= set(await self._storage.read(rebalances.outdated))
        changes = 0
        for name in random.sample(sorted(names), len(names)):  # one that fails is not always before the same others
            changed = await self._storage.write(_rebalance, name, expires=self._ticked)
            if changed is not None:
                self._announce(changed)
                changes += 1
        self._topics_seen = seen
        return changes >= _DUE_AT_ONCE

    async def drain(self) -> None:
        """Return when all sessions whose beats were answered are renewed."""
        await self._leases.drain()

    async def tick(self) -> bool:
        """Note in the database that somebody looks after the groups."""
        await self._storage.write(rebalances.tick, first=not self._ticked)
        self._ticked = True
        return False

    def _announce(self, changed: GroupChange, actor: str | None = None) -> None:
        """Wake the polls of the group if something changed for others than the actor, who knows it."""
        before, after = changed.before, changed.after
        others = (before.members.keys() | after.members.keys()) - {actor}
        if after.assignment_epoch != before.assignment_epoch or any(
            before.members.get(name) is not after.members.get(name) for name in others
        ):
            self._signals.announce([watch_id(after.group_id)])


async def refuse_gone(gone: Gone | None) -> None:
    """Refuse a call whose client has gone: it may have sent another since, perhaps to another node.

    Taken late, this one would give away what the other was given, or commit what that has not done yet.

    Raises:
        ServiceUnavailable: Nothing was changed.
    """
    if gone is not None and await gone():
        raise ServiceUnavailable("the client has gone before its call was taken; nothing was done")


def watch_id(group_id: int) -> int:
    """Return what polls of a group watch for its changes: below all ids of partitions."""
    return -group_id


def refuse(tx: Tx, name: str, member_id: str) -> BrokerError:
    """Return why a member that is not there is refused: unknown, or its place was taken."""
    try:
        rules.find(groups.find(tx, name) or Group(group_id=0, name=name), member_id)
    except BrokerError as refusal:
        return refusal
    return UnknownMemberId("the group had no such member a moment ago; try again")


def not_found() -> GroupIdNotFound:
    """Return the refusal of a group that is not there."""
    return GroupIdNotFound("there is no group of this name; a join, a poll with topics or a commit creates it")


def _look(tx: Tx) -> tuple[tuple[int, ...], set[str]]:
    """Return what tells whether topics have changed, and the groups that are due."""
    return rebalances.fingerprint(tx), set(rebalances.due(tx, _DUE_AT_ONCE))


def _standing(changed: GroupChange, member_id: str) -> MemberSnapshot:
    group = changed.after
    return MemberSnapshot(
        group.group_id, group.group_epoch, group.assignment_epoch, group.members[member_id], changed.now_ms
    )


def _join(tx: Tx, name: str, join_request: JoinRequest, limits: Limits, *, by_poll: bool) -> GroupChange:
    before = load_or_create(tx, name, limits.groups)
    if by_poll and join_request.member_id in {member.replaced_member_id for member in before.members.values()}:
        rules.find(before, join_request.member_id)
    now_ms = clock.read(tx)
    joined = _assigned(tx, rules.join(before, join_request, now_ms, limits.members), now_ms)
    epoch = joined.members[join_request.member_id].member_epoch
    after = rules.heartbeat(joined, join_request.member_id, epoch, None, now_ms, released=True)
    return _saved(tx, before, after, now_ms)


def _heartbeat(group: Group, now_ms: int, *, heartbeat: Heartbeat, owned: set[Partition] | None) -> Group:
    epoch = (
        rules.find(group, heartbeat.member_id).member_epoch
        if heartbeat.member_epoch is None
        else heartbeat.member_epoch
    )
    return rules.heartbeat(group, heartbeat.member_id, epoch, owned, now_ms, released=heartbeat.released)


def _change(tx: Tx, name: str, step: Step, first: tuple[str, Before | None] | None = None) -> GroupChange:
    """Take one step of a group, and assign it if that is due."""
    before = groups.load(tx, name)
    if before is None:
        raise UnknownMemberId("there is no such group, and so no such member; join first")
    now_ms = clock.read(tx)
    stepped = step(before, now_ms)
    if first is not None and first[1] is not None:
        first[1](tx, before.group_id, before.members[first[0]])
    return _saved(tx, before, _assigned(tx, stepped, now_ms), now_ms)


def _rebalance(tx: Tx, name: str, *, expires: bool) -> GroupChange | None:
    """Do what is due in a group. Return None if nothing was."""
    before = groups.load(tx, name)
    if before is None:
        return None
    now_ms = clock.read(tx)
    after = rules.expire(before, now_ms) if expires and rebalances.ticking(tx, now_ms) else before
    subscriptions = {member.join_request.subscription for member in after.members.values()}
    shapes = rebalances.shapes(tx, subscriptions)
    after = assignment.notice_topics(after, shapes, now_ms)
    changed = _saved(tx, before, _assigned(tx, after, now_ms), now_ms)
    return None if changed.after is before else changed


def _assigned(tx: Tx, group: Group, now_ms: int) -> Group:
    """Compute the targets if that is due."""
    if group.assign_at_ms is None or group.assign_at_ms > now_ms:
        return group
    shapes = rebalances.shapes(tx, {member.join_request.subscription for member in group.members.values()})
    assigned, rebalance = assignment.retarget(group, shapes, now_ms)
    rebalances.add_rebalance(tx, group, rebalance, {shape.topic_id: name for name, shape in shapes.items()})
    return assigned


def _saved(tx: Tx, before: Group, after: Group, now_ms: int) -> GroupChange:
    if after is not before:
        groups.save(tx, before, after)
        initial_offsets.resolve(tx, before, after, now_ms)
    return GroupChange(before, after, now_ms)


def load_or_create(tx: Tx, name: str, max_groups: int) -> Group:
    """Lock a group, created if there is none of this name.

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


def _delete(tx: Tx, name: str) -> None:
    found = groups.load(tx, name)
    if found is None:
        raise not_found()
    if found.members:
        raise NonEmptyGroup(
            f"the group still has members, {len(found.members)}; stop them first", members=len(found.members)
        )
    groups.delete_(tx, found)
