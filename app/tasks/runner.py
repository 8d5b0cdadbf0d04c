"""Runs steps again and again: at intervals, at once while there is more, and on after a failure."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

Step = Callable[[], Awaitable[bool]]
"""One step of work. Returns whether there is more to do now."""

OnSuccess = Callable[[], None]
"""Told by work that goes on_success: failures before no longer count."""

Work = Callable[[OnSuccess], Awaitable[None]]

_FAILURES_UNTIL_UNREADY = 5
_LONGEST_PAUSE_S = 30.0

_log = logging.getLogger(__name__)


class TaskRunner:
    """The background tasks of a node. A failing step is logged, counted and tried again with growing pauses."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._failures: dict[str, int] = {}

    def every(self, name: str, interval_ms: int, step: Step) -> None:
        """Run `step` every `interval_ms`, give or take a tenth, and again at once while it returns True."""
        self.forever(name, lambda on_success: _paced(step, interval_ms / 1000, on_success))

    def forever(self, name: str, work: Work) -> None:
        """Run `work` and, whenever it ends, again."""
        self._failures[name] = 0
        self._tasks.append(asyncio.create_task(self._keep(name, work), name=name))

    def failing(self) -> list[str]:
        """Return the names of the tasks that failed five times in a row."""
        return [name for name, failures in self._failures.items() if failures >= _FAILURES_UNTIL_UNREADY]

    async def stop(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, work: Work) -> None:
        def on_success() -> None:
            self._failures[name] = 0

        while True:
            try:
                await work(on_success)
            except Exception:  # noqa: BLE001 - the border of the background tasks
                self._failures[name] += 1
                _log.exception("the background task %s failed (%d in a row)", name, self._failures[name])
                await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(self._failures[name], 10)))


async def _paced(step: Step, interval_s: float, on_success: OnSuccess) -> None:
    while await step():
        on_success()
    on_success()
    await asyncio.sleep(interval_s * random.uniform(0.9, 1.1))  # noqa: S311 - spreads the nodes' work
