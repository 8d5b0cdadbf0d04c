"""How stable members stand, remembered from one read to the next announcement of their group.

Most beats are of members for which nothing changes; this answers them without the database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from app.broker.waiting.signals import Signals
from app.storage.db.engine import Storage
from app.storage.groups import members
from app.storage.groups.members import MemberSnapshot

_MOST_GROUPS = 10_000


class _Known(NamedTuple):
    """A standing, and what the database's time is ahead of this process' monotonic time."""

    standing: MemberSnapshot
    ahead_ms: int


class _Page(NamedTuple):
    """The remembered members of one group."""

    group_id: int
    known: dict[str, _Known]


class MemberCache:
    """Reads how members stand, and remembers those that are stable; used on the event loop only.

    Whatever moves a stable member is announced, by this node or by another, and with that its group is forgotten. An
    announcement may be lost with the node that owes it: so the renewal of a lease, at the latest when a third of the
    session is over, finds out whether the group has another assignment, and then the member is forgotten as well.
    """

    def __init__(self, storage: Storage, signals: Signals, clock_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._signals = signals
        self._clock_ms = clock_ms
        self._pages: dict[str, _Page] = {}
        self._names: dict[int, str] = {}
        signals.add_listener(self._forget)

    def recall(self, name: str, member_id: str, member_epoch: int | None) -> MemberSnapshot | None:
        """Return how a member of this epoch stands now, if that is remembered."""
        page = self._pages.get(name)
        found = None if page is None else page.known.get(member_id)
        if found is None or found.standing.member.member_epoch != member_epoch:
            return None
        return found.standing._replace(now_ms=self._clock_ms() + found.ahead_ms)

    async def read(self, name: str, member_id: str) -> MemberSnapshot | None:
        """Return how a member stands in the database, or None."""
        page, began_ms = self._pages.get(name), self._clock_ms()
        found = await self._storage.read(members.find, name, member_id)
        if found is None or not self._signals.receives_all or found.member.state(found.assignment_epoch) != "STABLE":
            return found
        if page is None or page.group_id != found.group_id:
            self._begin(name, found.group_id)
        else:  # announced meanwhile, it is no longer among the pages, and nobody finds what it is given
            page.known[member_id] = _Known(found._replace(last_poll=None), found.now_ms - began_ms)
        return found

    def note_renewal(self, asked: MemberSnapshot, renewed: bool) -> None:  # noqa: FBT001 - how it ended
        """Take note of how the renewal of a lease ended that was asked for."""
        page = self._pages.get(self._names.get(asked.group_id, ""))
        member_id = asked.member.join_request.member_id
        known = None if page is None else page.known.get(member_id)
        if page is None or known is None:
            return
        member = known.standing.member
        if not renewed or member.member_epoch != asked.member.member_epoch:
            del page.known[member_id]
            return
        later = msgspec.structs.replace(member, deadline_ms=max(member.deadline_ms, asked.full_session_ms))
        page.known[member_id] = known._replace(standing=known.standing._replace(member=later))

    def _begin(self, name: str, group_id: int) -> None:
        """Remember members of a group from the next read on: the last began before its announcements were heard."""
        if len(self._pages) >= _MOST_GROUPS:
            self._forget(None)
        if (before := self._pages.get(name)) is not None:
            del self._names[before.group_id]
        self._pages[name] = _Page(group_id, {})
        self._names[group_id] = name

    def _forget(self, watch_id: int | None) -> None:
        if watch_id is None:
            self._pages.clear()
            self._names.clear()
        elif (name := self._names.pop(-watch_id, None)) is not None:
            self._pages.pop(name, None)
