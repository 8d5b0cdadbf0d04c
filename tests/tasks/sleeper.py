"""A sleep that ends when the test says so."""

from __future__ import annotations

import asyncio


class Sleeper:
    """Records the sleeps of tasks; each one lasts until the test ends it."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[tuple[float, asyncio.Future[None]]] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        ended = asyncio.get_running_loop().create_future()
        self._begun.put_nowait((seconds, ended))
        await ended

    async def begun(self) -> tuple[float, asyncio.Future[None]]:
        """Wait until a task sleeps. Return the length of its sleep in seconds, and the future that ends it."""
        return await self._begun.get()

    async def next(self) -> float:
        """Wait until a task sleeps, end its sleep, and return its length in seconds."""
        seconds, ended = await self.begun()
        ended.set_result(None)
        return seconds
