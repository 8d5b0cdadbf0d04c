"""Append records: requests that arrive while a transaction runs share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from app.broker.waiting.batch_committer import BatchCommitter, Lane
from app.broker.waiting.signals import Signals
from app.domain.log.append import Accepted, Append, AppendOutcome
from app.domain.metrics.node_metrics import CommitCounts, TopicTable
from app.errors.broker_error import BrokerError
from app.errors.database import LockTimeout, ServiceUnavailable
from app.errors.log import ConcurrentRequest
from app.storage.db.engine import Storage
from app.storage.log.appends import append_all

_MAX_BATCH_RECORDS = 10_000
_MAX_BATCH_BYTES = 8 * 1024 * 1024


class _Waiting:
    """An append that waits for its outcome."""

    __slots__ = ("append", "outcome", "size_bytes")

    def __init__(self, append: Append, size_bytes: int, outcome: asyncio.Future[AppendOutcome]) -> None:
        self.append = append
        self.size_bytes = size_bytes
        self.outcome = outcome


class Appender(BatchCommitter[_Waiting, list[AppendOutcome]]):
    """Appends records in batches, one transaction at a time per lane.

    A request joins the lane of its lowest partition id. Correctness depends on the partition locks, not on lanes.

    Args:
        clock: Wall clock in milliseconds.
        max_pending_bytes: Bytes of records that may wait; further requests are refused.
        topics: Counts what is appended, by topic; None counts nothing.
        counts: Counts the transactions; None counts nothing.
    """

    operation = "append"

    def __init__(
        self,
        storage: Storage,
        signals: Signals,
        *,
        clock: Callable[[], int],
        max_pending_bytes: int,
        topics: TopicTable | None = None,
        counts: CommitCounts | None = None,
    ) -> None:
        super().__init__(counts)
        self._topics = topics
        self._storage = storage
        self._signals = signals
        self._clock = clock
        self._max_pending_bytes = max_pending_bytes
        self._lane_count = storage.dialect.lanes
        self.pending_bytes = 0
        self.records = 0
        self.requests = 0
        self.transactions = 0

    def append(self, append: Append, size_bytes: int) -> asyncio.Future[AppendOutcome]:
        """Append records, and return the future of the outcome; it is set after the records are on disk.

        Args:
            append: The records and their conditions.
            size_bytes: Bytes of its records.

        Raises:
            ServiceUnavailable: Too many bytes wait, or the database cannot be reached.
            DiskFull: The disk is full.
            OutcomeUnknown: The connection was lost during COMMIT.
        """
        if self._storage.full:
            raise self._storage.disk_full()
        if self.pending_bytes and self.pending_bytes + size_bytes > self._max_pending_bytes:
            raise ServiceUnavailable("too many appends wait for the database; try again later")
        outcome = self._new_future()
        waiting = _Waiting(append, size_bytes, outcome)
        self.pending_bytes += size_bytes
        self._add(append.partition_ids_written[0] % self._lane_count, waiting)
        return outcome

    def _take(self, waiting: deque[_Waiting]) -> list[_Waiting]:
        batch: list[_Waiting] = []
        records = size_bytes = 0
        while waiting and records < _MAX_BATCH_RECORDS and size_bytes < _MAX_BATCH_BYTES:
            request = waiting.popleft()
            batch.append(request)
            records += len(request.append.records)
            size_bytes += request.size_bytes
        return batch

    def _submit(self, _: Lane[_Waiting], batch: list[_Waiting]) -> asyncio.Future[list[AppendOutcome]]:
        return self._storage.submit(append_all, [request.append for request in batch], self._clock())

    def _answer(self, _: Lane[_Waiting], batch: list[_Waiting], outcomes: list[AppendOutcome]) -> None:
        self._set_outcomes(batch, outcomes)

    def _refuse(self, lane: Lane[_Waiting], batch: list[_Waiting], error: Exception) -> None:
        """Refuse the batch; after a lock timeout, only the requests with an Idempotency-Key if there are any.

        Their keys may be locked by another transaction. The others are retried.
        """
        assert isinstance(error, BrokerError)  # noqa: S101 - `answered_errors` has no other
        keyed = [request for request in batch if request.append.key is not None]
        if not keyed or not isinstance(error, LockTimeout):
            self._set_outcomes(batch, [error] * len(batch))
            return
        running = ConcurrentRequest("another request with this Idempotency-Key is still running; try again")
        self._set_outcomes(keyed, [running] * len(keyed))
        lane.retries.extend([request for request in batch if request.append.key is None])

    def _set_outcomes(self, batch: list[_Waiting], outcomes: Sequence[AppendOutcome]) -> None:
        partition_ids_written: set[int] = set()
        for request, outcome in zip(batch, outcomes, strict=True):
            self.pending_bytes -= request.size_bytes
            if isinstance(outcome, Accepted) and not outcome.duplicate:
                partition_ids_written.update(request.append.partition_ids_written)
                self.records += len(request.append.records)
                if self._topics is not None:
                    counts = self._topics[request.append.topic]
                    counts[0] += len(request.append.records)
                    counts[1] += request.size_bytes
            if not request.outcome.done():
                request.outcome.set_result(outcome)
        self.requests += len(batch)
        self.transactions += 1
        self._signals.announce(partition_ids_written)
