"""One timer for many callbacks."""

from __future__ import annotations

import time

import pytest

from app.broker.waiting.interval_timer import IntervalTimer
from tests.waiting import until_true

pytestmark = pytest.mark.anyio


async def test_each_callback_is_called_once_in_an_interval_until_it_is_removed() -> None:
    timer = IntervalTimer(0.02)
    calls: list[str] = []
    first, second = (lambda: calls.append("first")), (lambda: calls.append("second"))
    began = time.monotonic()
    timer.add(first)
    timer.add(second)

    await until_true(lambda: len(calls) >= 2)
    timer.remove(first)
    calls_of_first = calls.count("first")
    await until_true(lambda: calls.count("second") >= 4)
    timer.remove(second)
    intervals = (time.monotonic() - began) / 0.02

    assert calls[:2] == ["first", "second"]
    assert calls.count("first") == calls_of_first
    assert calls.count("second") <= intervals * 30 / 29
    assert not timer.active
