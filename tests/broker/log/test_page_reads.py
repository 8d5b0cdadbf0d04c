"""The turns of the reads of pages."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from app.broker.log.page_reads import LARGE_PAGE_BYTES, PageReads
from app.broker.waiting.work_gate import WorkGate
from tests.waiting import until_true

if TYPE_CHECKING:
    from app.storage.db.engine import Storage

pytestmark = pytest.mark.anyio

SMALL, LARGE = LARGE_PAGE_BYTES, LARGE_PAGE_BYTES + 1


class PausedStorage:
    """A storage whose reads end when the test says so."""

    dialect = SimpleNamespace(page_reads=1)

    def __init__(self) -> None:
        self.running: list[str] = []
        self.read_names: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    async def read(self, _: Any, name: str) -> str:
        self.running.append(name)
        self.read_names.append(name)
        await self._ends.setdefault(name, asyncio.Event()).wait()
        self.running.remove(name)
        return name

    def end(self, name: str) -> None:
        self._ends.setdefault(name, asyncio.Event()).set()


def a_read() -> None:
    """Stand for the function of a read."""


@pytest.fixture
def storage() -> PausedStorage:
    """A storage without reads."""
    return PausedStorage()


@pytest.fixture
def reads(storage: PausedStorage) -> PageReads:
    """The turns of its reads."""
    return PageReads(cast("Storage", storage), WorkGate(100 * LARGE))


def begin(reads: PageReads, max_bytes: int, name: str) -> asyncio.Task[Any]:
    return asyncio.create_task(reads.read(max_bytes, None, cast("Any", a_read), name))


async def test_large_pages_are_read_one_at_a_time_and_leave_a_turn_to_small_ones(
    storage: PausedStorage, reads: PageReads
) -> None:
    large = [begin(reads, LARGE, f"large {number}") for number in range(3)]
    small = begin(reads, SMALL, "small")
    await until_true(lambda: len(storage.running) == 2)

    assert storage.running == ["large 0", "small"]
    for name in ("small", "large 0", "large 1", "large 2"):
        storage.end(name)
    assert await asyncio.gather(*large, small) == ["large 0", "large 1", "large 2", "small"]


async def test_a_large_page_of_a_client_that_left_is_not_read(storage: PausedStorage, reads: PageReads) -> None:
    async def refuse() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await reads.read(LARGE, refuse, cast("Any", a_read), "refused")
    storage.end("next")

    assert await begin(reads, LARGE, "next") == "next"
    assert storage.read_names == ["next"]


async def test_a_cancelled_read_leaves_its_turn(storage: PausedStorage, reads: PageReads) -> None:
    first = begin(reads, LARGE, "first")
    await until_true(lambda: storage.running == ["first"])
    second = begin(reads, LARGE, "second")
    first.cancel()
    storage.end("second")

    assert await second == "second"
