"""What one request takes of the memory budget besides its body."""

from __future__ import annotations

from app.broker.waiting.memory_budget import MemoryBudget
from app.domain.memory.ledger import Holding, full

FEW_RECORDS = 64
"""Up to this number, what the records of a request take besides their bytes is not counted."""
_MANY_RECORDS = 1_000
"""From this number on, an append takes so long that it needs a turn: others would wait for all of them."""
_RECORD_BYTES = 512
"""The memory of a decoded record, its offset and its entry in the answer, besides key, value and headers."""
_RECORD_WORK_BYTES = 8 * 1024


class RequestMemory:
    """The bytes that a request holds, and its turn among those that need much."""

    __slots__ = ("_address", "_budget", "_holding", "_work")

    def __init__(self, budget: MemoryBudget, address: str) -> None:
        self._budget = budget
        self._address = address
        self._holding = Holding(budget.ledger, address)
        self._work = 0

    def check_room(self) -> None:
        """Refuse a large answer if the client has not read others.

        Raises:
            ServiceUnavailable: The memory budget has no room for it.
        """
        if not self._budget.ledger.has_room(self._address):
            raise full()

    def hold(self, size_bytes: int) -> None:
        """Count bytes.

        Raises:
            ServiceUnavailable: The memory budget has no room for them.
        """
        self._holding.admit(size_bytes)

    async def take_turn(self, work_bytes: int) -> None:
        """Return when there is room for work; it replaces an earlier turn, so that no request waits with one."""
        self.end_turn()
        await self._budget.work.enter(work_bytes)
        self._work = work_bytes

    def end_turn(self) -> None:
        """End the turn, if there is one."""
        if self._work:
            self._budget.work.leave(self._work)
            self._work = 0

    async def admit_records(self, count: int) -> None:
        """Count the memory of decoded records; wait for a turn to append many."""
        self.hold(count * _RECORD_BYTES)
        work = count * _RECORD_WORK_BYTES
        if count > _MANY_RECORDS and work > self._work:
            await self.take_turn(work)

    def release(self) -> None:
        """Give everything back."""
        self._holding.release()
        self.end_turn()
