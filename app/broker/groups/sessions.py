"""Renewing the sessions of members together: one short transaction for all beats of a moment.

A session ends when a member has been silent for as long as it lasts. Most beats are not written: in the first third of
a session the database may wait. What it does not know yet, this node remembers, and tells it of who fell silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from app.errors.broker_error import BrokerError
from app.storage.db.engine import Storage
from app.storage.groups import members
from app.storage.groups.members import MemberSnapshot, Renewal, SessionKey

Renewed = Callable[[MemberSnapshot, bool], None]
"""Told of a member as it stood at the beat that is written now, and whether it is where its group is."""

_MOST = 500
_LONGEST_S = 1.0
_SHARE = 8

_log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    """A member whose last heartbeat, at a time of the clock, is to be written, and those who wait for that."""

    found: MemberSnapshot
    heard_ms: int
    done: asyncio.Future[bool]


class _Resting(NamedTuple):
    """A member whose last beat need not be written before it is due, nor at all if it beats after that."""

    found: MemberSnapshot
    heard_ms: int
    due_ms: int


class Sessions:
    """Renews sessions without the groups' locks; used on the event loop only.

    While a third of a session and a second remain nobody waits for its renewal: were it lost with this process, the
    member would beat at another node before its time is over. A member that beats as often as it should is renewed
    when half remains, so that none waits.
    """

    def __init__(self, storage: Storage, renewed: Renewed, clock_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._renewed = renewed
        self._clock_ms = clock_ms
        self._waiting: dict[SessionKey, _Waiting] = {}
        self._resting: dict[SessionKey, _Resting] = {}
        self._due: list[tuple[int, SessionKey]] = []
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    def hear(self, found: MemberSnapshot) -> None:
        """Take a beat that need not be written yet.

        A session that is no longer fresh is renewed with all others of the next second, or sooner if little remains. A
        fresh one is when a third remains, if the member beats no more; see `settle`.
        """
        if found.member.lease_is_fresh(found.now_ms):
            self._rest(found)
            return
        self._add(found, self._clock_ms())
        if self._busy:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + min(_LONGEST_S, (found.member.deadline_ms - found.now_ms) / 1_000 / _SHARE)
        if self._timer is not None and self._timer.when() > at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(at, self._start)

    async def renew(self, found: MemberSnapshot) -> bool:
        """Give a member a full session. Return False if it is to change, has changed, or is being changed."""
        future = self._add(found, self._clock_ms())
        if not self._busy:
            self._start()
        return await asyncio.shield(future)

    async def settle(self) -> None:
        """Write the last beats of members that fell silent before the database knew of these beats."""
        now_ms, late = self._clock_ms(), []
        while self._due and self._due[0][0] <= now_ms:
            due_ms, lease = heappop(self._due)
            if (one := self._resting.get(lease)) is not None and one.due_ms == due_ms:
                late.append(one)
        await self._write(late)

    async def drain(self) -> None:
        """Write all beats that are not written, and return when none are left."""
        while self._resting or self._waiting or self._busy:
            resting = [*self._resting.values()]
            self._due.clear()
            await self._write(resting)
            if self._waiting or self._busy:
                if not self._busy:
                    self._start()
                if self._idle is None or self._idle.done():
                    self._idle = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._idle)

    async def _write(self, beats: Sequence[_Resting]) -> None:
        """Write beats; those that the database does not take now rest until the next look."""
        waiting = [self._add(one.found, one.heard_ms) for one in beats]
        if waiting and not self._busy:
            self._start()
        for one, done in zip(
            beats, await asyncio.gather(*map(asyncio.shield, waiting), return_exceptions=True), strict=True
        ):
            if isinstance(done, Exception):
                self._rest_until(one.due_ms, one.found, one.heard_ms)

    def _rest(self, found: MemberSnapshot) -> None:
        member, before, heard_ms = found.member, self._resting.get(found.lease), self._clock_ms()
        if before is not None:
            self._resting[found.lease] = _Resting(found, heard_ms, before.due_ms)
        elif member.deadline_ms < found.full_session_ms:
            left_ms = member.deadline_ms - found.now_ms
            self._rest_until(heard_ms + left_ms - member.join_request.session_timeout_ms // 3, found, heard_ms)

    def _rest_until(self, due_ms: int, found: MemberSnapshot, heard_ms: int) -> None:
        """Let a beat rest, unless a later one does or is to be written."""
        if found.lease not in self._resting and found.lease not in self._waiting:
            self._resting[found.lease] = _Resting(found, heard_ms, due_ms)
            heappush(self._due, (due_ms, found.lease))

    def _add(self, found: MemberSnapshot, heard_ms: int) -> asyncio.Future[bool]:
        """Let the latest beat of a member be written."""
        before = self._waiting.get(found.lease)
        done = asyncio.get_running_loop().create_future() if before is None else before.done
        self._waiting[found.lease] = _Waiting(found, heard_ms, done)
        self._resting.pop(found.lease, None)
        return done

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = {lease: self._waiting.pop(lease) for lease in list(self._waiting)[:_MOST]}
        self._busy = bool(batch)
        if not batch and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if batch:
            now_ms = self._clock_ms()
            task = self._storage.submit(members.renew, {lease: now_ms - one.heard_ms for lease, one in batch.items()})
            task.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: dict[SessionKey, _Waiting], done: asyncio.Future[Renewal]) -> None:
        if done.cancelled():  # the server ends
            for one in (*batch.values(), *self._waiting.values()):
                one.done.cancel()
            self._waiting.clear()
            self._busy = False
            return
        error = done.exception()
        if error is not None and not isinstance(error, BrokerError):
            _log.error("sessions could not be renewed", exc_info=error)
        for lease, one in batch.items():
            if one.done.done():
                continue
            if error is not None:
                one.done.set_exception(error)
                one.done.exception()
            else:
                renewed = lease in done.result().settled
                self._renewed(one.found, renewed)
                one.done.set_result(renewed)
                if lease in done.result().busy:
                    self._rest_until(self._clock_ms(), one.found, one.heard_ms)
        self._start()
