"""Group commit: batches per lane, retries after a failed batch, and draining."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from app.broker.waiting.batch_committer import BatchCommitter
from app.errors.database import DiskFull, ServiceUnavailable, UnknownServerError

if TYPE_CHECKING:
    from collections import deque

    from app.broker.waiting.batch_committer import Lane

pytestmark = pytest.mark.anyio


class Recorder(BatchCommitter[str, list[str]]):
    """Takes all that waits; the test ends each transaction. A result of "again" puts the request back."""

    operation = "request"

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.transactions: list[asyncio.Future[list[str]]] = []
        self.answers: dict[str, str | Exception] = {}
        self.stopped: Exception | None = None

    def add(self, request: str, lane: int = 0) -> None:
        self._add(lane, request)

    async def commit(self, *results: str) -> None:
        self.transactions[-1].set_result([*results])
        await asyncio.sleep(0)

    async def fail(self, error: Exception) -> None:
        self.transactions[-1].set_exception(error)
        await asyncio.sleep(0)

    def _take(self, waiting: deque[str]) -> list[str]:
        batch = list(waiting)
        waiting.clear()
        return batch

    def _submit(self, _: Lane[str], batch: list[str]) -> asyncio.Future[list[str]]:
        self.batches.append(batch)
        if self.stopped is not None:
            raise self.stopped
        self.transactions.append(asyncio.get_running_loop().create_future())
        return self.transactions[-1]

    def _requeue(self, lane: Lane[str], batch: list[str], result: list[str]) -> None:
        lane.waiting.extend(request for request, answer in zip(batch, result, strict=True) if answer == "again")

    def _answer(self, _: Lane[str], batch: list[str], result: list[str]) -> None:
        self.answers |= dict(zip(batch, result, strict=True))

    def _refuse(self, _: Lane[str], batch: list[str], error: Exception) -> None:
        self.answers |= dict.fromkeys(batch, error)


async def test_requests_that_arrive_during_a_transaction_share_the_next_one() -> None:
    recorder = Recorder()
    for request in ("a", "b", "c"):
        recorder.add(request)

    await recorder.commit("1")
    await recorder.commit("2", "3")

    assert recorder.batches == [["a"], ["b", "c"]]
    assert recorder.answers == {"a": "1", "b": "2", "c": "3"}


async def test_each_lane_has_its_own_transaction() -> None:
    recorder = Recorder()
    recorder.add("a", lane=1)
    recorder.add("b", lane=2)

    assert recorder.batches == [["a"], ["b"]]


async def test_each_request_of_a_failed_batch_is_retried_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    recorder = Recorder()
    for request in ("a", "b", "c"):
        recorder.add(request)
    await recorder.commit("1")

    await recorder.fail(RuntimeError())
    await recorder.fail(RuntimeError())
    await recorder.commit("3")

    assert recorder.batches == [["a"], ["b", "c"], ["b"], ["c"]]
    assert isinstance(recorder.answers["b"], UnknownServerError)
    assert recorder.answers["c"] == "3"


async def test_an_error_answers_the_whole_batch_without_a_retry() -> None:
    recorder = Recorder()
    for request in ("a", "b", "c"):
        recorder.add(request)
    await recorder.commit("1")
    error = DiskFull("no space")

    await recorder.fail(error)

    assert recorder.batches == [["a"], ["b", "c"]]
    assert recorder.answers == {"a": "1", "b": error, "c": error}


async def test_a_request_that_is_put_back_goes_into_the_next_transaction() -> None:
    recorder = Recorder()
    recorder.add("a")

    await recorder.commit("again")
    await recorder.commit("1")

    assert recorder.batches == [["a"], ["a"]]
    assert recorder.answers == {"a": "1"}


async def test_a_cancelled_transaction_refuses_its_batch() -> None:
    recorder = Recorder()
    recorder.add("a")

    recorder.transactions[-1].cancel()
    await recorder.drain()

    assert isinstance(recorder.answers["a"], ServiceUnavailable)


async def test_a_batch_whose_transaction_cannot_start_is_refused_and_the_lane_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    recorder = Recorder()
    recorder.stopped = RuntimeError("cannot schedule new futures after shutdown")

    recorder.add("a")
    await recorder.drain()
    recorder.stopped = None
    recorder.add("b")
    await recorder.commit("1")

    assert isinstance(recorder.answers["a"], ServiceUnavailable)
    assert recorder.answers["b"] == "1"


async def test_requests_behind_a_batch_are_refused_if_their_transactions_fail_to_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    recorder = Recorder()
    for request in ("a", "b", "c"):
        recorder.add(request)
    recorder.stopped = ValueError("a fault")

    await recorder.commit("1")
    await recorder.drain()

    assert recorder.answers.pop("a") == "1"
    assert [type(recorder.answers[each]) for each in ("b", "c")] == [UnknownServerError] * 2


async def test_an_error_of_the_service_at_the_start_is_the_answer() -> None:
    recorder = Recorder()
    recorder.stopped = error = DiskFull("no space")

    recorder.add("a")
    await recorder.drain()

    assert recorder.answers == {"a": error}


async def test_draining_ends_when_no_lane_has_a_transaction() -> None:
    recorder = Recorder()
    recorder.add("a", lane=1)
    recorder.add("b", lane=2)
    draining = asyncio.ensure_future(recorder.drain())

    await recorder.commit("2")
    assert not draining.done()
    recorder.transactions[0].set_result(["1"])
    await draining

    assert recorder.answers == {"a": "1", "b": "2"}


async def test_requests_whose_transaction_has_not_begun_are_refused_when_the_server_stops() -> None:
    recorder = Recorder()
    for request in ("a", "b", "c"):
        recorder.add(request)

    recorder.refuse_waiting()
    assert [type(recorder.answers[each]) for each in ("b", "c")] == [ServiceUnavailable] * 2
    await recorder.commit("1")
    recorder.add("d", lane=3)
    await recorder.drain()

    assert recorder.batches == [["a"]]
    assert recorder.answers["a"] == "1"
    assert isinstance(recorder.answers["d"], ServiceUnavailable)
