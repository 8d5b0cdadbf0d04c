"""Wait for a condition that has no signal, and let time pass where time is the workload."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

DEADLINE_S = 30.0
POLL_INTERVAL_S = 0.01


async def until(read: Callable[[], Awaitable[T]], is_enough: Callable[[T], bool], seconds: float = DEADLINE_S) -> T:
    """Call `read` until its result is enough, and return that result.

    Raises:
        AssertionError: The deadline has passed; the message has the last result.
    """
    deadline = time.monotonic() + seconds
    while not is_enough(found := await read()):
        assert time.monotonic() < deadline, f"still {found!r} after {seconds} s"
        await asyncio.sleep(POLL_INTERVAL_S)
    return found


async def pause(seconds: float) -> None:
    """Let time pass: a client's work or retry interval, an outage, the random moment of a kill.

    Never a wait for a condition: that is `until`.
    """
    await asyncio.sleep(seconds)


async def until_true(condition: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
    """Let the event loop run until a condition of this process holds.

    Raises:
        TimeoutError: The deadline has passed.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)
