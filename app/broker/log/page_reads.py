"""The turns of the reads of pages: large ones do not keep the others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar

from app.broker.waiting.work_gate import WorkGate
from app.domain.memory.ledger import WORK_FACTOR
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx

P = ParamSpec("P")
T = TypeVar("T")

LARGE_PAGE_BYTES = 2 * 1024 * 1024
"""A page that may have more bytes is read in its turn. The default of `max_bytes` is 1 MiB."""

PageCheck = Callable[[], Awaitable[None]]
"""Called before a large page is read; raises an error if the page is not to be read."""


class PageReads:
    """Reads pages; of the large ones, one at a time.

    Args:
        storage: The database.
        work: Limits the memory of work under way.
    """

    def __init__(self, storage: Storage, work: WorkGate) -> None:
        self._storage = storage
        self._work = work
        self._others = asyncio.Semaphore(storage.dialect.page_reads)
        self._large = asyncio.Semaphore(1)

    async def read(
        self,
        max_bytes: int,
        check: PageCheck | None,
        function: Callable[Concatenate[Tx, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a read of a page of at most `max_bytes`.

        After a large page, the next one waits as long as the page took, so that other reads and writes go on.

        Raises:
            Exception: The exception of `check`.
        """
        if max_bytes <= LARGE_PAGE_BYTES:
            async with self._others:
                return await self._storage.read(function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        await self._large.acquire()
        pause = 0.0
        try:
            if check is not None:
                await check()
            work = max_bytes * WORK_FACTOR
            await self._work.enter(work)
            began = loop.time()
            try:
                return await self._storage.read(function, *args, **kwargs)
            finally:
                pause = loop.time() - began
                self._work.leave(work)
        finally:
            loop.call_later(pause, self._large.release)
