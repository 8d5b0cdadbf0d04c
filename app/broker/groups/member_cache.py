"""Snapshots of stable members, kept from a read until the next announcement of their group.

Most heartbeats change nothing; the cache answers them without the database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from app.broker.waiting.signals import Signals
from app.storage.db.engine import Storage
from app.storage.groups import members
from app.storage.groups.members import MemberSnapshot

_MAX_GROUPS = 10_000


class _CachedMember(NamedTuple):
    """A snapshot, and the difference between the database's time and the monotonic time of this process."""

    snapshot: MemberSnapshot
    clock_offset_ms: int


class _CachedGroup(NamedTuple):
    """The cached members of one group."""

    group_id: int
    members: dict[str, _CachedMember]


class MemberCache:
    """Reads members, and caches those that are stable; used on the event loop only.

    Every change of a stable member is announced, by this node or by another; an announcement drops its group from the
    cache. An announcement may be lost with the node that sends it. The renewal of a session, due at the latest when a
    third of the session is over, therefore also compares the member's epoch with the group's, and drops the member.
    """

    def __init__(self, storage: Storage, signals: Signals, clock_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._signals = signals
        self._clock_ms = clock_ms
        self._groups: dict[str, _CachedGroup] = {}
        self._names: dict[int, str] = {}
        signals.add_listener(self._drop)

    def __iter__(self) -> Iterator[tuple[str, MemberSnapshot]]:
        """Yield each cached member with the name of its group, as of now."""
        now_ms = self._clock_ms()
        for name, group in self._groups.items():
            for cached in group.members.values():
                yield name, cached.snapshot._replace(now_ms=now_ms + cached.clock_offset_ms)

    def recall(self, name: str, member_id: str, member_epoch: int | None) -> MemberSnapshot | None:
        """Return a member of this epoch as of now, if it is cached."""
        group = self._groups.get(name)
        cached = None if group is None else group.members.get(member_id)
        if cached is None or cached.snapshot.member.member_epoch != member_epoch:
            return None
        return cached.snapshot._replace(now_ms=self._clock_ms() + cached.clock_offset_ms)

    async def read(self, name: str, member_id: str) -> MemberSnapshot | None:
        """Read a member from the database, and cache it if it is stable. Return None if it does not exist."""
        group, began_ms = self._groups.get(name), self._clock_ms()
        found = await self._storage.read(members.find, name, member_id)
        if found is None or not self._signals.receives_all or found.member.state(found.assignment_epoch) != "STABLE":
            return found
        if group is None or group.group_id != found.group_id:
            self._begin(name, found.group_id)
        else:  # an announcement since the read began has dropped this object from the cache: the entry has no effect
            group.members[member_id] = _CachedMember(found._replace(last_poll=None), found.now_ms - began_ms)
        return found

    def note_renewal(self, written: MemberSnapshot, renewed: bool) -> None:  # noqa: FBT001 - a callback's result
        """Extend a cached session after its renewal, or drop the member if the renewal was refused."""
        group = self._groups.get(self._names.get(written.group_id, ""))
        member_id = written.member.join_request.member_id
        cached = None if group is None else group.members.get(member_id)
        if group is None or cached is None:
            return
        member = cached.snapshot.member
        if not renewed or member.member_epoch != written.member.member_epoch:
            del group.members[member_id]
            return
        later = msgspec.structs.replace(member, deadline_ms=max(member.deadline_ms, written.full_session_ms))
        group.members[member_id] = cached._replace(snapshot=cached.snapshot._replace(member=later))

    def _begin(self, name: str, group_id: int) -> None:
        """Cache the members of a group from the next read on: this read began before announcements were followed."""
        if len(self._groups) >= _MAX_GROUPS:
            self._drop(None)
        if (before := self._groups.get(name)) is not None:
            del self._names[before.group_id]
        self._groups[name] = _CachedGroup(group_id, {})
        self._names[group_id] = name

    def _drop(self, watch_id: int | None) -> None:
        """Drop the group of an announcement, or all groups on None."""
        if watch_id is None:
            self._groups.clear()
            self._names.clear()
        elif (name := self._names.pop(-watch_id, None)) is not None:
            self._groups.pop(name, None)
