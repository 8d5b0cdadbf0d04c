"""Renewing the sessions of members together: one short transaction for all beats of a moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from app.errors import BrokerError
from app.storage import members
from app.storage.engine import Storage
from app.storage.members import Standing

_Lease = tuple[int, str, int]

Renewed = Callable[[Standing, bool], None]
"""Told of a member as it stood when its renewal was asked for, and whether that was done."""

_MOST = 500
_LONGEST_S = 1.0
_SHARE = 8

_log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    """A member that is to be renewed, and those who wait for it."""

    found: Standing
    done: asyncio.Future[bool]


class Leases:
    """Renews sessions without the groups' locks; used on the event loop only.

    While a third of a session and a second remain nobody waits for its renewal: were it lost with this process, the
    member would beat at another node before its time is over. A member that beats as often as it should is renewed
    when half remains, so that none waits.
    """

    def __init__(self, storage: Storage, renewed: Renewed) -> None:
        self._storage = storage
        self._renewed = renewed
        self._waiting: dict[_Lease, _Waiting] = {}
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    def renew_soon(self, found: Standing) -> None:
        """Give a member a full session, together with all others of the next second, or sooner if little remains."""
        self._add(found)
        if self._busy:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + min(_LONGEST_S, (found.member.deadline_ms - found.now_ms) / 1_000 / _SHARE)
        if self._timer is not None and self._timer.when() > at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(at, self._start)

    async def renew(self, found: Standing) -> bool:
        """Give a member a full session. Return False if the member has changed, or is being changed."""
        future = self._add(found)
        if not self._busy:
            self._start()
        return await asyncio.shield(future)

    async def drain(self) -> None:
        """Write what waits, and return when nothing waits any more."""
        while self._waiting or self._busy:
            if not self._busy:
                self._start()
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def _add(self, found: Standing) -> asyncio.Future[bool]:
        lease = (found.group_id, found.member.wish.member_id, found.member.member_epoch)
        if (waiting := self._waiting.get(lease)) is None:
            waiting = self._waiting[lease] = _Waiting(found, asyncio.get_running_loop().create_future())
        return waiting.done

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = {lease: self._waiting.pop(lease) for lease in list(self._waiting)[:_MOST]}
        self._busy = bool(batch)
        if not batch and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if batch:
            task = self._storage.submit(members.renew, list(batch))
            task.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: dict[_Lease, _Waiting], done: asyncio.Future[set[_Lease]]) -> None:
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
            if error is not None:
                one.done.set_exception(error)
                one.done.exception()
            else:
                renewed = lease in done.result()
                self._renewed(one.found, renewed)
                one.done.set_result(renewed)
        self._start()
