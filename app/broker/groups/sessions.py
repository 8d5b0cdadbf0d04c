"""Renewing the sessions of members in batches: one short transaction for many heartbeats.

A session ends when a member sends no heartbeat for its session timeout. Most heartbeats are not written: in the first
third of a session the database may be behind. A heartbeat that is not written yet is kept in memory, and is written
when the member sends no further heartbeat.
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

OnRenewal = Callable[[MemberSnapshot, bool], None]
"""Called with a member as of the heartbeat that was written, and whether its session was renewed."""

_MAX_BATCH = 500
_MAX_DELAY_S = 1.0
_MAX_DELAY_SHARE = 8
"""A renewal is delayed by at most one part in so many of what remains of the session."""

_log = logging.getLogger(__name__)


class _Pending(NamedTuple):
    """A heartbeat in the next batches, by its time of the monotonic clock; `done` is set when it is written."""

    found: MemberSnapshot
    heartbeat_ms: int
    done: asyncio.Future[bool]


class _Deferred(NamedTuple):
    """A heartbeat that is written when it is due, unless the member sends a later one before."""

    found: MemberSnapshot
    heartbeat_ms: int
    due_ms: int


class Sessions:
    """Renews sessions without the groups' locks; used on the event loop only.

    While a third of the session and at least a second remain, a heartbeat is answered before its renewal is written:
    if the renewal is lost with this process, the member still has time to send a heartbeat to another node. A member
    that sends heartbeats at the recommended interval is renewed when half of its session remains, and never waits.
    """

    def __init__(self, storage: Storage, on_renewal: OnRenewal, clock_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._on_renewal = on_renewal
        self._clock_ms = clock_ms
        self._pending: dict[SessionKey, _Pending] = {}
        self._deferred: dict[SessionKey, _Deferred] = {}
        self._due: list[tuple[int, SessionKey]] = []
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    @property
    def next_batch_at(self) -> float | None:
        """Time of the event loop at which the next batch is written, or None if no batch is scheduled."""
        return None if self._timer is None else self._timer.when()

    def note_heartbeat(self, found: MemberSnapshot) -> None:
        """Take a heartbeat that need not be written yet.

        A session that is no longer fresh is renewed within a second, or sooner if little of it remains. A fresh
        session is renewed when a third of it remains, if no later heartbeat comes before; see `write_due`.
        """
        if found.member.session_is_fresh(found.now_ms):
            self._defer(found)
            return
        self._add(found, self._clock_ms())
        if self._writing:
            return
        loop = asyncio.get_running_loop()
        left_s = (found.member.deadline_ms - found.now_ms) / 1_000
        at = loop.time() + min(_MAX_DELAY_S, left_s / _MAX_DELAY_SHARE)
        if self._timer is not None and self._timer.when() > at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(at, self._write_batch)

    async def renew(self, found: MemberSnapshot) -> bool:
        """Give a member a full session. Return False if the member has to reconcile, has changed or is locked."""
        future = self._add(found, self._clock_ms())
        if not self._writing:
            self._write_batch()
        return await asyncio.shield(future)

    async def write_due(self) -> None:
        """Write the last heartbeats of members that have sent no other since."""
        now_ms, due = self._clock_ms(), []
        while self._due and self._due[0][0] <= now_ms:
            due_ms, session = heappop(self._due)
            if (one := self._deferred.get(session)) is not None and one.due_ms == due_ms:
                due.append(one)
        await self._write(due)

    async def drain(self) -> None:
        """Write all heartbeats that are not written, and return when none are left."""
        while self._deferred or self._pending or self._writing:
            deferred = [*self._deferred.values()]
            self._due.clear()
            await self._write(deferred)
            if self._pending or self._writing:
                if not self._writing:
                    self._write_batch()
                if self._idle is None or self._idle.done():
                    self._idle = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._idle)

    async def _write(self, heartbeats: Sequence[_Deferred]) -> None:
        """Write heartbeats; those that the database refuses now are deferred until the next call of `write_due`."""
        pending = [self._add(one.found, one.heartbeat_ms) for one in heartbeats]
        if pending and not self._writing:
            self._write_batch()
        for one, done in zip(
            heartbeats, await asyncio.gather(*map(asyncio.shield, pending), return_exceptions=True), strict=True
        ):
            if isinstance(done, Exception):
                self._defer_until(one.due_ms, one.found, one.heartbeat_ms)

    def _defer(self, found: MemberSnapshot) -> None:
        member, session = found.member, found.session_key
        before, now_ms = self._deferred.get(session), self._clock_ms()
        if before is not None:
            self._deferred[session] = _Deferred(found, now_ms, before.due_ms)
        elif member.deadline_ms < found.full_session_ms:
            left_ms = member.deadline_ms - found.now_ms
            self._defer_until(now_ms + left_ms - member.join_request.session_timeout_ms // 3, found, now_ms)

    def _defer_until(self, due_ms: int, found: MemberSnapshot, heartbeat_ms: int) -> None:
        """Defer a heartbeat, unless a later one is deferred or pending."""
        session = found.session_key
        if session not in self._deferred and session not in self._pending:
            self._deferred[session] = _Deferred(found, heartbeat_ms, due_ms)
            heappush(self._due, (due_ms, session))

    def _add(self, found: MemberSnapshot, heartbeat_ms: int) -> asyncio.Future[bool]:
        """Add the last heartbeat of a member to the next batch."""
        session = found.session_key
        before = self._pending.get(session)
        done = asyncio.get_running_loop().create_future() if before is None else before.done
        self._pending[session] = _Pending(found, heartbeat_ms, done)
        self._deferred.pop(session, None)
        return done

    def _write_batch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = {session: self._pending.pop(session) for session in list(self._pending)[:_MAX_BATCH]}
        self._writing = bool(batch)
        if not batch and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if batch:
            now_ms = self._clock_ms()
            ages_ms = {session: now_ms - one.heartbeat_ms for session, one in batch.items()}
            task = self._storage.submit(members.renew_sessions, ages_ms)
            task.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: dict[SessionKey, _Pending], done: asyncio.Future[Renewal]) -> None:
        if done.cancelled():  # the server stops
            for one in (*batch.values(), *self._pending.values()):
                one.done.cancel()
            self._pending.clear()
            self._writing = False
            return
        error = done.exception()
        if error is not None and not isinstance(error, BrokerError):
            _log.error("sessions could not be renewed", exc_info=error)
        for session, one in batch.items():
            if one.done.done():
                continue
            if error is not None:
                one.done.set_exception(error)
                one.done.exception()
            else:
                renewed = session in done.result().renewed
                self._on_renewal(one.found, renewed)
                one.done.set_result(renewed)
                if session in done.result().locked:
                    self._defer_until(self._clock_ms(), one.found, one.heartbeat_ms)
        self._write_batch()
