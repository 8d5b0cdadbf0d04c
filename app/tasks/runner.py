"""Background tasks: repeated at intervals, at once while there is more work, and after a pause when they fail."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from app.domain.metrics.node_metrics import TaskCounts
from app.errors.database import DatabaseMisplaced, DiskFull, OutcomeUnknown, ServiceUnavailable

Step = Callable[[], Awaitable[bool]]
"""One step of work. Returns whether there is more to do now."""

OnSuccess = Callable[[], None]
"""Called by a task when its work succeeds: its earlier failures no longer count."""

Work = Callable[[OnSuccess], Awaitable[None]]

Sleep = Callable[[float], Awaitable[None]]
"""Returns after a time in seconds."""

_FAILURES_UNTIL_FAILING = 5
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0
_MISPLACED_PAUSE_S = 1.0

_log = logging.getLogger(__name__)


class TaskRunner:
    """The background tasks of a node. A failure is logged and counted, and the task runs again after a growing pause.

    Args:
        sleep: Waits between steps and after failures.
        in_outage: Returns whether the database fails, which is logged elsewhere.
        counts: What is counted of each task, by its name.
    """

    def __init__(
        self,
        sleep: Sleep = asyncio.sleep,
        in_outage: Callable[[], bool] = lambda: False,
        counts: dict[str, TaskCounts] | None = None,
    ) -> None:
        self._sleep = sleep
        self._in_outage = in_outage
        self._tasks: list[asyncio.Task[None]] = []
        self._failures: dict[str, int] = {}
        self._counts = {} if counts is None else counts
        self._stopping = False

    def every(self, name: str, interval_ms: int, step: Step) -> None:
        """Run `step` every `interval_ms`, ten percent more or less, and again at once while it returns True."""
        self.forever(name, lambda on_success: self._run_steps(name, step, interval_ms / 1000, on_success))

    def forever(self, name: str, work: Work) -> None:
        """Run `work`, and run it again whenever it ends."""
        self._failures[name] = 0
        self._counts[name] = TaskCounts()
        self._tasks.append(asyncio.create_task(self._repeat(name, work), name=name))

    def failing(self) -> list[str]:
        """Return the names of the tasks that failed at least five times in a row."""
        return [name for name, failures in self._failures.items() if failures >= _FAILURES_UNTIL_FAILING]

    def stopped(self) -> list[str]:
        """Return the names of the tasks that have ended although the node runs. No task ends by itself."""
        return [task.get_name() for task in self._tasks if task.done() and not self._stopping]

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, name: str, work: Work) -> None:
        def on_success() -> None:
            self._failures[name] = 0
            counts.runs += 1

        counts = self._counts[name]
        while True:
            try:
                await work(on_success)
            except DatabaseMisplaced:  # `Storage.check_files` has logged it
                await self._sleep(_MISPLACED_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - the border of the background tasks
                self._failures[name] += 1
                counts.failures += 1
                self._report(name, error)
                await self._sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures[name], 10)))

    def _report(self, name: str, error: Exception) -> None:
        """Log a failure, unless it follows from an outage of the database, which is in the log already."""
        failures = self._failures[name]
        if not isinstance(error, ServiceUnavailable | DiskFull | OutcomeUnknown):
            _log.error("the background task %s failed (%d in a row)", name, failures, exc_info=error)
        elif failures == _FAILURES_UNTIL_FAILING and not self._in_outage():
            _log.error("the background task %s failed %d times in a row: %s", name, failures, error.detail)

    async def _run_steps(self, name: str, step: Step, interval_s: float, on_success: OnSuccess) -> None:
        counts, more = self._counts[name], True
        while more:
            began = time.perf_counter()
            try:
                more = await step()
            finally:
                counts.seconds += time.perf_counter() - began
            on_success()
        await self._sleep(interval_s * random.uniform(0.9, 1.1))  # noqa: S311 - spreads the work of nodes over time
