"""The group coordinator: joins, heartbeats, leaves, and the rebalances that any node may run at any time.

All state is in the database. A heartbeat that changes nothing is answered from a read or from the member cache, and
sessions are renewed in batches; any other call is one step of the group under its lock.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from itertools import count

from app.broker.groups import group_transactions
from app.broker.groups.group_transactions import GroupChange, Heartbeat, Limits, group_not_found
from app.broker.groups.member_cache import MemberCache
from app.broker.groups.sessions import Sessions
from app.broker.log.topics import Topics
from app.broker.waiting.deadline import monotonic_ms
from app.broker.waiting.signals import Signals
from app.domain.groups.assignor import Partition
from app.domain.groups.group import Group
from app.domain.groups.member import JoinRequest
from app.errors.database import ServiceUnavailable
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.groups import groups, rebalances
from app.storage.groups.groups import GroupSummary
from app.storage.groups.members import MemberSnapshot
from app.storage.groups.offsets import chunks
from app.storage.groups.rebalances import PastRebalance

_MAX_DUE_GROUPS = 100
_GROUPS_AT_ONCE = 16
"""Groups that one transaction rebalances; requests to them wait for it."""
_TOPIC_CHECK_INTERVAL = 200
"""Rebalance runs after which the groups are compared with the topics even if no topic seems to have changed: a group
may have been assigned while a topic was being created."""

IsDisconnected = Callable[[], Awaitable[bool]]
"""Returns whether the client of a call has disconnected."""


class Coordinator:
    """The consumer groups.

    Attributes:
        assignments: Assignments that this node has computed.
    """

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
        self.member_cache = MemberCache(storage, signals, clock_ms)
        self.sessions = Sessions(storage, self.member_cache.note_renewal, clock_ms)
        self._topics_fingerprint: tuple[int, ...] | None = None
        self._runs = count()
        self._has_recorded_run = False
        self.assignments = 0

    async def join(self, name: str, join_request: JoinRequest, *, by_poll: bool = False) -> tuple[MemberSnapshot, bool]:
        """Join, or join again with a new epoch. Return the member and whether it is new.

        Args:
            name: The group; it is created if it does not exist.
            join_request: What to join with.
            by_poll: Whether a poll joins implicitly: it may not take an instance_id back from another member.

        Raises:
            GroupMaxSizeReached: The group is full, or there are too many groups.
            FencedInstanceId: Another member has taken over its instance_id.
        """
        changed = await self._storage.write(group_transactions.join, name, join_request, self._limits, by_poll=by_poll)
        self.announce(changed)
        return changed.member(join_request.member_id), join_request.member_id not in changed.before.members

    async def heartbeat(
        self, heartbeat: Heartbeat, found: MemberSnapshot | None = None, is_disconnected: IsDisconnected | None = None
    ) -> MemberSnapshot:
        """Take a heartbeat and return the member after it; see `domain.groups.group.take_heartbeat`.

        Args:
            heartbeat: The heartbeat.
            found: The member, if it was just read.
            is_disconnected: Whether the client has disconnected.

        Raises:
            UnknownMemberId, FencedMemberEpoch, FencedInstanceId: Nothing was changed.
            ServiceUnavailable: The client has disconnected; nothing was changed.
        """
        cached = found or self.member_cache.recall(heartbeat.group, heartbeat.member_id, heartbeat.member_epoch)
        found = cached or await self.member_cache.read(heartbeat.group, heartbeat.member_id)
        if found is not None and found.member.member_epoch == heartbeat.member_epoch and found.reconciled:
            if found.member.session_is_fresh(found.now_ms) or found.member.session_is_ample(found.now_ms):
                self.sessions.note_heartbeat(found)
                return found
            if await self.sessions.renew(found):
                return found
        return await self.step(heartbeat, found, is_disconnected)

    async def step(
        self, heartbeat: Heartbeat, found: MemberSnapshot | None, is_disconnected: IsDisconnected | None = None
    ) -> MemberSnapshot:
        """Take a heartbeat under the group's lock.

        Args:
            heartbeat: The heartbeat.
            found: The member as it was last read.
            is_disconnected: Whether the client has disconnected.

        Raises:
            UnknownMemberId, FencedMemberEpoch, FencedInstanceId: Nothing was changed.
            ServiceUnavailable: The client has disconnected; nothing was changed.
        """
        owned = await self.owned_ids(heartbeat.owned, found)
        await refuse_disconnected(is_disconnected)
        changed = await self._storage.write(group_transactions.heartbeat, heartbeat, owned)
        self.announce(changed, heartbeat.member_id)
        member = changed.member(heartbeat.member_id)
        self.note_heartbeat(member)
        return member

    def note_heartbeat(self, member: MemberSnapshot) -> None:
        """Keep a heartbeat that is not in the database yet, to be written when the session needs it."""
        if member.member.session_is_fresh(member.now_ms):
            self.sessions.note_heartbeat(member)

    async def owned_ids(
        self, owned: Iterable[tuple[str, int]] | None, found: MemberSnapshot | None
    ) -> set[Partition] | None:
        """Return the ids of owned partitions; a partition that the member does not hold gets the topic id 0."""
        if owned is None:
            return None
        held = [] if found is None else [*found.member.assigned, *found.member.revoking]
        await self._topics.load_topics_of(held)
        ids: dict[tuple[str, int], set[Partition]] = {}
        for partition in held:
            if (found_partition := self._topics.find_partition(*partition)) is not None:
                ids.setdefault((found_partition[0], partition[1]), set()).add(partition)
        return {one for name, number in owned for one in ids.get((name, number), {(0, number)})}

    async def leave(self, name: str, member_id: str) -> None:
        """Remove a member; its partitions are free at once.

        Raises:
            UnknownMemberId, FencedInstanceId
        """
        self.announce(await self._storage.write(group_transactions.leave, name, member_id))

    async def get(self, name: str) -> Group:
        """Return a group with its members.

        Raises:
            GroupIdNotFound: There is no group of this name.
        """
        found = await self._storage.read(groups.find, name)
        if found is None:
            raise group_not_found()
        return found

    async def list_(self, after: str, limit: int) -> list[GroupSummary]:
        """Return up to `limit` groups in the order of their names, from the first name above `after`."""
        return await self._storage.read(groups.list_, after, limit)

    async def rebalances(self, name: str) -> list[PastRebalance]:
        """Return the last assignments of a group, the newest first.

        Raises:
            GroupIdNotFound: There is no group of this name.
        """
        found = await self._storage.read(rebalances.rebalances, name)
        if found is None:
            raise group_not_found()
        return found

    async def delete(self, name: str) -> None:
        """Delete a group without members, with its offsets.

        Raises:
            GroupIdNotFound, NonEmptyGroup
        """
        await self._storage.write_freeing(group_transactions.delete, name)

    async def rebalance(self) -> bool:
        """Expire members, and schedule and compute assignments, in all groups. Safe on every node at once."""
        await self.sessions.write_due()
        fingerprint, names = await self._storage.read(_due)
        if fingerprint != self._topics_fingerprint or next(self._runs) % _TOPIC_CHECK_INTERVAL == 0:
            names |= set(await self._storage.read(rebalances.outdated))
        changes = 0
        shuffled = random.sample(sorted(names), len(names))  # a group that fails must not always block the same others
        for some in chunks(shuffled, _GROUPS_AT_ONCE):
            changed = await self._storage.write(
                group_transactions.rebalance_all, sorted(some), expires=self._has_recorded_run
            )
            for each in changed:
                self.announce(each)
            changes += len(changed)
        self._topics_fingerprint = fingerprint
        return changes >= _MAX_DUE_GROUPS

    async def drain(self) -> None:
        """Return when all sessions whose heartbeats were answered are renewed in the database."""
        await self.sessions.drain()

    async def record_running_node(self) -> bool:
        """Record in the database that a node runs the rebalances."""
        await self._storage.write(rebalances.record_running_node, first=not self._has_recorded_run)
        self._has_recorded_run = True
        return False

    def announce(self, changed: GroupChange, actor: str | None = None) -> None:
        """Wake the polls of a group if something changed for members other than the actor."""
        before, after = changed.before, changed.after
        self.assignments += after.assigned_at_ms != before.assigned_at_ms
        others = (before.members.keys() | after.members.keys()) - {actor}
        if after.assignment_epoch != before.assignment_epoch or any(
            before.members.get(name) is not after.members.get(name) for name in others
        ):
            self._signals.announce([watch_id(after.group_id)])


async def refuse_disconnected(is_disconnected: IsDisconnected | None) -> None:
    """Refuse a call whose client has disconnected: it may have sent another call since, perhaps to another node.

    If it ran late, this call would release partitions that the later call was assigned, or commit records that the
    client has not processed.

    Raises:
        ServiceUnavailable: Nothing was changed.
    """
    if is_disconnected is not None and await is_disconnected():
        raise ServiceUnavailable("the client disconnected before its request was processed; nothing was done")


def watch_id(group_id: int) -> int:
    """Return the id that polls watch for changes of a group: negative, since ids of partitions are positive."""
    return -group_id


def _due(tx: Tx) -> tuple[tuple[int, ...], set[str]]:
    """Return the fingerprint of the topics, and the names of groups that are due."""
    return rebalances.fingerprint(tx), set(rebalances.due(tx, _MAX_DUE_GROUPS))
