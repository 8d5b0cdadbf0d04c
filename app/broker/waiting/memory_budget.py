"""The memory of the requests under way, and the worker thread that decodes large bodies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from app.broker.waiting.work_gate import WorkGate
from app.domain.memory.ledger import MemoryLedger

P = ParamSpec("P")
T = TypeVar("T")

_MUCH_BYTES = 16 * 1024 * 1024
_SHORT_S = 0.005
_PAUSE_FACTOR = 2


class MemoryBudget:
    """What all requests may hold, and the turns of those that need much.

    Args:
        budget_bytes: What all requests may take.
        trim: Returns memory that is free to the system; runs in a worker thread.

    Attributes:
        ledger: The bytes that are held.
        work: The turns: decoding a large body, reading a large page.
    """

    def __init__(self, budget_bytes: int, trim: Callable[[], None]) -> None:
        self.ledger = MemoryLedger(budget_bytes)
        self.work = WorkGate(self.ledger.shares.work)
        self._trim = trim
        self._worker: ThreadPoolExecutor | None = None
        self._not_before = 0.0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the worker thread.

        Decoders hold the interpreter's lock. After a call that took long, the next one waits for twice as long, so
        that the event loop and the database come to their turn between them.
        """
        self.work.used = True
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "millrace-decode")
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, lambda: self._paced(lambda: function(*args, **kwargs))
        )

    async def trim(self) -> bool:
        """Return free memory to the system after requests have held much. Return False: there is no more to do now."""
        ledger, work = self.ledger, self.work
        worked = work.used and work.bytes == 0
        if worked or (ledger.peak_bytes > _MUCH_BYTES and ledger.bytes <= ledger.peak_bytes // 2):
            work.used = work.used and not worked
            ledger.peak_bytes = ledger.bytes
            await asyncio.to_thread(self._trim)
        return False

    def close(self) -> None:
        """End the worker thread."""
        if self._worker is not None:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _paced(self, function: Callable[[], T]) -> T:
        if (pause := self._not_before - time.monotonic()) > 0:
            time.sleep(pause)
        begin = time.monotonic()
        try:
            return function()
        finally:
            end = time.monotonic()
            if end - begin > _SHORT_S:
                self._not_before = end + _PAUSE_FACTOR * (end - begin)
