"""Group commit: appends that arrive while a transaction runs share the next one."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from app.broker.waiting.signals import Signals
from app.domain.log.append import Accepted, Append, AppendOutcome
from app.errors.broker_error import BrokerError
from app.errors.database import DiskFull, LockTimeout, ServiceUnavailable, UnknownServerError
from app.errors.log import ConcurrentRequest
from app.storage.db.engine import Storage
from app.storage.log.appends import append_all

_MAX_BATCH_RECORDS = 10_000
_MAX_BATCH_BYTES = 8 * 1024 * 1024

_log = logging.getLogger(__name__)


class _Waiting:
    """An append that waits for its outcome."""

    __slots__ = ("append", "outcome", "size_bytes")

    def __init__(self, append: Append, size_bytes: int, outcome: asyncio.Future[AppendOutcome]) -> None:
        self.append = append
        self.size_bytes = size_bytes
        self.outcome = outcome


class _Lane:
    """Appends that go into one transaction after the other."""

    __slots__ = ("alone", "busy", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.alone: deque[_Waiting] = deque()
        """Those of a batch that the database refused: each is tried in a transaction of its own."""
        self.busy = False


class Appender:
    """Commits appends in batches, one transaction at a time per lane.

    A request goes to the lane of its lowest partition; correctness comes from the partition locks.

    Args:
        clock: Wall clock in milliseconds.
        max_pending_bytes: Bytes of records that may wait; beyond that requests are refused.
    """

    def __init__(self, storage: Storage, signals: Signals, *, clock: Callable[[], int], max_pending_bytes: int) -> None:
        self._storage = storage
        self._signals = signals
        self._clock = clock
        self._max_pending_bytes = max_pending_bytes
        self._lanes = [_Lane() for _ in range(storage.dialect.lanes)]
        self._idle: asyncio.Event | None = None
        self.pending_bytes = 0
        self.records = 0
        self.requests = 0
        self.transactions = 0

    async def append(self, append: Append, size_bytes: int) -> AppendOutcome:
        """Append, and return the outcome once it is on disk.

        Args:
            append: What to append.
            size_bytes: Bytes of its records.

        Raises:
            ServiceUnavailable: Too much waits already, or the database cannot be reached.
            DiskFull: No space is left.
            OutcomeUnknown: The connection was lost during COMMIT.
        """
        if self._storage.full:
            raise DiskFull("the database has no space left; nothing was written")
        if self.pending_bytes and self.pending_bytes + size_bytes > self._max_pending_bytes:
            raise ServiceUnavailable("too many appends wait for the database; try again later")
        waiting = _Waiting(append, size_bytes, asyncio.get_running_loop().create_future())
        self.pending_bytes += size_bytes
        lane = self._lanes[append.partition_ids_written[0] % len(self._lanes)]
        lane.waiting.append(waiting)
        if not lane.busy:
            self._start(lane)
        return await waiting.outcome

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        while any(lane.busy for lane in self._lanes):
            self._idle = asyncio.Event()
            await self._idle.wait()

    def _start(self, lane: _Lane) -> None:
        batch = _take(lane)
        lane.busy = bool(batch)
        if not batch:
            if self._idle is not None:
                self._idle.set()
            return
        task = self._storage.submit(append_all, [waiting.append for waiting in batch], self._clock())
        task.add_done_callback(partial(self._finish, lane, batch))

    def _finish(self, lane: _Lane, batch: list[_Waiting], task: asyncio.Future[list[AppendOutcome]]) -> None:
        error = task.exception()
        if error is None:
            try:
                self._start(lane)  # first: the database goes on while the answers are written
            finally:
                self._settle(batch, task.result())
            return
        if isinstance(error, BrokerError):
            self._refuse(lane, batch, error)
        elif len(batch) > 1:
            _log.warning("the database refused a batch of %d requests; trying each alone", len(batch), exc_info=error)
            lane.alone.extend(batch)
        else:
            _log.error("an append failed", exc_info=error)
            self._settle(batch, [UnknownServerError("the append failed; the server's log tells why")])
        self._start(lane)

    def _settle(self, batch: list[_Waiting], outcomes: list[AppendOutcome]) -> None:
        partition_ids_written: set[int] = set()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self.pending_bytes -= waiting.size_bytes
            if isinstance(outcome, Accepted) and not outcome.duplicate:
                partition_ids_written.update(waiting.append.partition_ids_written)
                self.records += len(waiting.append.records)
            if not waiting.outcome.done():
                waiting.outcome.set_result(outcome)
        self.requests += len(batch)
        self.transactions += 1
        self._signals.announce(partition_ids_written)

    def _refuse(self, lane: _Lane, batch: list[_Waiting], error: BrokerError) -> None:
        """Refuse the batch; where a lock was not to be had, only those who may have waited for it."""
        if not isinstance(error, LockTimeout):
            self._settle(batch, [error] * len(batch))
            return
        keyed = [waiting for waiting in batch if waiting.append.key is not None]
        rest = [waiting for waiting in batch if waiting.append.key is None]
        running = ConcurrentRequest("another request with this Idempotency-Key is still running; try again")
        self._settle(keyed, [running] * len(keyed))
        if keyed:
            lane.alone.extend(rest)
        else:
            self._settle(rest, [error] * len(rest))


def _take(lane: _Lane) -> list[_Waiting]:
    if lane.alone:
        return [lane.alone.popleft()]
    batch: list[_Waiting] = []
    records = size_bytes = 0
    while lane.waiting and records < _MAX_BATCH_RECORDS and size_bytes < _MAX_BATCH_BYTES:
        waiting = lane.waiting.popleft()
        batch.append(waiting)
        records += len(waiting.append.records)
        size_bytes += waiting.size_bytes
    return batch
