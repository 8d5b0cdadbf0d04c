"""The task runner: pace, repetition, pauses after failures, and stop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from app.tasks.runner import TaskRunner
from tests.tasks.sleeper import Sleeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.tasks.runner import OnSuccess

pytestmark = pytest.mark.anyio


class Script:
    """A step that returns or raises what the test says, one result per run, and then reports no more work."""

    def __init__(self, *results: bool | Exception) -> None:
        self._results = [*results]
        self.runs = 0

    async def step(self) -> bool:
        self.runs += 1
        result = self._results.pop(0) if self._results else False
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


@pytest.fixture
async def runner(sleeper: Sleeper, caplog: pytest.LogCaptureFixture) -> AsyncIterator[TaskRunner]:
    caplog.set_level(logging.CRITICAL, "app.tasks.runner")
    runner = TaskRunner(sleeper.sleep)
    yield runner
    await runner.stop()


def failures(count: int) -> list[Exception]:
    return [RuntimeError("the database is away") for _ in range(count)]


async def test_a_step_runs_once_per_interval_give_or_take_ten_percent(runner: TaskRunner, sleeper: Sleeper) -> None:
    script = Script()
    runner.every("cleaning", 1000, script.step)

    pauses = [await sleeper.next() for _ in range(20)]

    assert script.runs == 20
    assert all(0.9 <= pause <= 1.1 for pause in pauses)
    assert len(set(pauses)) > 1


async def test_a_step_runs_again_at_once_while_there_is_more(runner: TaskRunner, sleeper: Sleeper) -> None:
    script = Script(True, True, False)
    runner.every("cleaning", 1000, script.step)

    await sleeper.next()

    assert script.runs == 3


async def test_the_pause_doubles_with_each_failure_up_to_thirty_seconds(runner: TaskRunner, sleeper: Sleeper) -> None:
    runner.every("cleaning", 1000, Script(*failures(11)).step)

    pauses = [await sleeper.next() for _ in range(11)]

    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


async def test_a_task_is_failing_after_five_failures_in_a_row(runner: TaskRunner, sleeper: Sleeper) -> None:
    runner.every("cleaning", 1000, Script(*failures(5)).step)

    for _ in range(5):
        await sleeper.next()

    assert runner.failing() == ["cleaning"]


async def test_four_failures_are_not_reported(runner: TaskRunner, sleeper: Sleeper) -> None:
    runner.every("cleaning", 1000, Script(*failures(4)).step)

    for _ in range(4):
        await sleeper.next()

    assert runner.failing() == []


async def test_a_success_resets_failures_and_pause(runner: TaskRunner, sleeper: Sleeper) -> None:
    runner.every("cleaning", 1000, Script(*failures(5), False, *failures(1)).step)

    for _ in range(5):
        await sleeper.next()
    interval = await sleeper.next()

    assert 0.9 <= interval <= 1.1
    assert runner.failing() == []
    assert await sleeper.next() == 0.2


async def test_each_success_of_a_step_with_more_work_resets_the_failures(runner: TaskRunner, sleeper: Sleeper) -> None:
    runner.every("cleaning", 1000, Script(*failures(4), True, *failures(1)).step)

    for _ in range(5):
        await sleeper.next()

    assert runner.failing() == []


async def test_a_failure_is_logged_with_its_traceback(
    runner: TaskRunner, sleeper: Sleeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "app.tasks.runner")
    runner.every("cleaning", 1000, Script(*failures(1)).step)

    await sleeper.next()

    (record,) = caplog.records
    assert record.getMessage() == "the background task cleaning failed (1 in a row)"
    assert record.exc_info is not None


async def test_work_that_ends_runs_again(runner: TaskRunner) -> None:
    runs: asyncio.Queue[int] = asyncio.Queue(1)

    async def work(_: OnSuccess) -> None:
        await runs.put(1)

    runner.forever("listening", work)

    assert [await runs.get() for _ in range(3)] == [1, 1, 1]


async def test_one_failing_task_does_not_keep_another_from_running(runner: TaskRunner, sleeper: Sleeper) -> None:
    runner.every("cleaning", 1000, Script(*failures(1)).step)
    script = Script()
    runner.every("polling", 60_000, script.step)

    pauses = sorted([await sleeper.next(), await sleeper.next()])

    assert pauses[0] == 0.2
    assert pauses[1] >= 54
    assert script.runs == 1


async def test_stopping_ends_tasks_that_work_and_tasks_that_sleep(sleeper: Sleeper) -> None:
    runner = TaskRunner(sleeper.sleep)
    ended = asyncio.Event()

    async def work(_: OnSuccess) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    runner.forever("listening", work)
    runner.every("cleaning", 1000, Script().step)
    _, sleep = await sleeper.begun()

    await runner.stop()

    assert ended.is_set()
    assert sleep.cancelled()
