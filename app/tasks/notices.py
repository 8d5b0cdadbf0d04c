"""Wake readers of all nodes: send notices, receive them, and poll the log for notices that were lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from app.broker.waiting.signals import Signals
from app.storage.db.engine import Storage
from app.storage.log import pages
from app.tasks.runner import OnSuccess, Sleep

if TYPE_CHECKING:
    from app.storage.db.postgres.notices import Notices

_POLLED_AT_ONCE = 1_000


def open_notices(database_url: str) -> Notices:
    """Return the notices of a shared database. An embedded database starts without their driver."""
    from app.storage.db.postgres.notices import Notices  # noqa: PLC0415 - the import takes a tenth of an embedded start

    return Notices(database_url)


class Outbox:
    """Partitions that changed on this node, until a notice is sent to the other nodes."""

    def __init__(self) -> None:
        self._partition_ids: set[int] = set()
        self._filled = asyncio.Event()

    def put(self, partition_ids: Iterable[int]) -> None:
        """Add partitions."""
        self._partition_ids.update(partition_ids)
        if self._partition_ids:
            self._filled.set()

    async def take(self) -> set[int]:
        """Wait until there are partitions, and return them all."""
        await self._filled.wait()
        self._filled.clear()
        taken, self._partition_ids = self._partition_ids, set()
        return taken


async def send_notices(
    outbox: Outbox, notices: Notices, interval_ms: int, on_success: OnSuccess, sleep: Sleep = asyncio.sleep
) -> None:
    """Send the partitions of the outbox: at once if the last notice is `interval_ms` old, else after that interval."""
    while True:
        partition_ids = await outbox.take()
        try:
            await notices.send(partition_ids)
        except BaseException:
            outbox.put(partition_ids)
            raise
        on_success()
        await sleep(interval_ms / 1000)


async def receive_notices(signals: Signals, notices: Notices, on_success: OnSuccess) -> None:
    """Wake the readers of the partitions in each notice, and all readers when notices may have been lost."""
    try:
        async for partition_ids in notices.listen():
            on_success()
            if partition_ids is None:
                signals.receives_all = True
                signals.wake_all()
            else:
                signals.wake(partition_ids)
    finally:
        signals.receives_all = False
        signals.wake_all()


async def poll_watched(storage: Storage, signals: Signals) -> bool:
    """Wake the readers of partitions whose log end differs from the one that they have read."""
    watched = signals.watched_ids()
    present: dict[int, tuple[int, int]] = {}
    for start in range(0, len(watched), _POLLED_AT_ONCE):
        bounds = await storage.read(pages.bounds, watched[start : start + _POLLED_AT_ONCE])
        present.update({partition_id: (one.version, one.log_end_offset) for partition_id, one in bounds.items()})
    if watched:
        signals.wake_outdated(present)
    return False
