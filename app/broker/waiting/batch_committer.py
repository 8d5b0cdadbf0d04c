"""Group commit: requests that arrive while a transaction runs share the next one."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from app.domain.metrics.node_metrics import CommitCounts
from app.errors.broker_error import BrokerError
from app.errors.database import STOPPING, ServiceUnavailable, UnknownServerError

R = TypeVar("R")
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Lane(Generic[R]):
    """Requests that go into one transaction after the other.

    Attributes:
        waiting: Requests for the next batches.
        retries: Requests of a batch that the database refused: each is retried in a transaction of its own.
    """

    __slots__ = ("key", "retries", "waiting")

    def __init__(self, key: int) -> None:
        self.key = key
        self.waiting: deque[R] = deque()
        self.retries: deque[R] = deque()


class BatchCommitter(ABC, Generic[R, T]):
    """Commits requests in batches, one transaction at a time per lane.

    A lane exists while one of its transactions runs. A subclass decides which requests share a batch and answers them.

    Args:
        counts: Counts the transactions; None counts nothing.

    Attributes:
        operation: The name of the operation in log lines and errors.
        answered_errors: Errors that are the answer to the requests of a batch. After any other error, each request of
            the batch is retried in a transaction of its own.
    """

    operation: ClassVar[str]
    answered_errors: ClassVar[tuple[type[Exception], ...]] = (BrokerError,)

    def __init__(self, counts: CommitCounts | None = None) -> None:
        self._counts = counts
        self._lanes: dict[int, Lane[R]] = {}
        self._closed = False
        self._drained = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a transaction."""
        return sum(len(lane.waiting) + len(lane.retries) for lane in self._lanes.values())

    async def drain(self) -> None:
        """Return when no request waits and no transaction runs."""
        while self._lanes:
            self._drained.clear()
            await self._drained.wait()

    def refuse_waiting(self) -> None:
        """Refuse the requests whose transaction has not begun, now and from now on, because the server is stopping."""
        self._closed = True
        for lane in self._lanes.values():
            self._refuse_rest(lane)

    def _new_future(self) -> asyncio.Future[Any]:
        """Return a future of the event loop, which is kept: until Python 3.12, each look-up is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.create_future()

    def _add(self, key: int, request: R) -> None:
        """Add a request to a lane, and start its transaction unless one runs."""
        lane = self._lanes.get(key)
        if lane is not None:
            lane.waiting.append(request)
            return
        lane = self._lanes[key] = Lane(key)
        lane.waiting.append(request)
        self._start(lane)

    def _start(self, lane: Lane[R]) -> None:
        if self._closed:
            self._refuse_rest(lane)
        batch = [lane.retries.popleft()] if lane.retries else self._take(lane.waiting)
        if batch:
            began = time.perf_counter()
            self._submitted(lane, batch).add_done_callback(partial(self._finish, lane, batch, began))
            return
        del self._lanes[lane.key]
        if not self._lanes:
            self._drained.set()

    def _refuse_rest(self, lane: Lane[R]) -> None:
        rest = [*lane.retries, *lane.waiting]
        lane.retries.clear()
        lane.waiting.clear()
        if rest:
            self._refuse(lane, rest, ServiceUnavailable(STOPPING))

    def _submitted(self, lane: Lane[R], batch: list[R]) -> asyncio.Future[T]:
        """Start the transaction of a batch; an error at its start is its result."""
        try:
            return self._submit(lane, batch)
        except RuntimeError:  # from an executor that was shut down
            refused: Exception = ServiceUnavailable(STOPPING)
        except Exception as error:  # noqa: BLE001 - the border of the group commits: each request is answered
            refused = error
        failed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        failed.set_exception(refused)
        return failed

    def _finish(self, lane: Lane[R], batch: list[R], began: float, future: asyncio.Future[T]) -> None:
        if self._counts is not None:
            self._counts.add(time.perf_counter() - began, len(batch))
        error = ServiceUnavailable(STOPPING) if future.cancelled() else future.exception()
        if error is None:
            result = future.result()
            self._requeue(lane, batch, result)
            try:
                self._start(lane)  # first, so that the database works while the answers are written
            finally:
                self._answer(lane, batch, result)
            return
        if isinstance(error, self.answered_errors):
            self._refuse(lane, batch, error)
        elif len(batch) > 1:
            _log.warning(
                "a batch of %d requests failed (%s); retrying each", len(batch), self.operation, exc_info=error
            )
            lane.retries.extend(batch)
        else:
            _log.error("the %s failed", self.operation, exc_info=error)
            failure = UnknownServerError(f"the {self.operation} failed; see the server's log")
            failure.__cause__ = error
            self._refuse(lane, batch, failure)
        self._start(lane)

    @abstractmethod
    def _take(self, waiting: deque[R]) -> list[R]:
        """Remove the next batch from the waiting requests and return it; empty if there is none to run."""

    @abstractmethod
    def _submit(self, lane: Lane[R], batch: list[R]) -> asyncio.Future[T]:
        """Start the transaction of a batch."""

    def _requeue(self, lane: Lane[R], batch: list[R], result: T) -> None:
        """Put the requests that need another transaction back into the lane. By default there are none."""

    @abstractmethod
    def _answer(self, lane: Lane[R], batch: list[R], result: T) -> None:
        """Answer the requests of a committed batch."""

    @abstractmethod
    def _refuse(self, lane: Lane[R], batch: list[R], error: Exception) -> None:
        """Answer the requests of a batch whose transaction failed."""
