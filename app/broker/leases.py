"""Renewing the sessions of members together: one short transaction for all beats that wait for it."""

from __future__ import annotations

import asyncio

from app.storage import members
from app.storage.engine import Storage
from app.storage.members import Standing

_Lease = tuple[int, str, int]

_MOST = 500


class Leases:
    """Renews sessions without the groups' locks; used on the event loop only."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: dict[_Lease, asyncio.Future[bool]] = {}
        self._busy = False

    async def renew(self, found: Standing) -> bool:
        """Give a member a full session. Return False if the member has changed, or is being changed."""
        lease = (found.group_id, found.member.wish.member_id, found.member.member_epoch)
        future = self._waiting.get(lease)
        if future is None:
            future = self._waiting[lease] = asyncio.get_running_loop().create_future()
        if not self._busy:
            self._start()
        return await asyncio.shield(future)

    def _start(self) -> None:
        batch = {lease: self._waiting.pop(lease) for lease in list(self._waiting)[:_MOST]}
        self._busy = bool(batch)
        if batch:
            task = self._storage.submit(members.renew, list(batch))
            task.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: dict[_Lease, asyncio.Future[bool]], done: asyncio.Future[set[_Lease]]) -> None:
        if done.cancelled():  # the server ends
            for future in (*batch.values(), *self._waiting.values()):
                future.cancel()
            return
        error = done.exception()
        for lease, future in batch.items():
            if error is not None:
                future.set_exception(error)
                future.exception()
            else:
                future.set_result(lease in done.result())
        self._start()
