"""The bytes that requests hold, and the limits of their sum.

The budget has three parts:

- Half is for large holdings: bodies, what they inflate to, and answers that clients have not read yet.
- A quarter is a reserve for small holdings, which may also use what the large ones leave.
- A quarter is for work: decoding a body and reading a page take several times their bytes. Work waits for its turn,
  see `app/broker/waiting/work_gate.py`, and is not counted here.

Connections and waiting requests are counted with a fixed size each, and take at most three sixteenths of the budget.
One principal, or one address without a key, holds at most a quarter of the budget.
"""

from __future__ import annotations

from typing import NamedTuple

from app.errors.database import ServiceUnavailable

TINY_BYTES = 4 * 1024
"""Up to this size, holdings are not counted by address."""
SMALL_BYTES = 64 * 1024
"""The largest holding that may use the reserve."""
CONNECTION_BYTES = 8 * 1024
"""The memory of an open connection."""
WAITING_BYTES = 16 * 1024
"""The memory of a long poll, an acquire or a stream that waits, besides its connection."""
WORK_FACTOR = 4
"""How many times its bytes a body takes while it is decoded and appended, and a page while it is read and encoded."""

_FULL = "the requests under way fill the memory budget; nothing was done, send this request again later"


class Shares(NamedTuple):
    """The parts of a budget, in bytes.

    Attributes:
        all_held: All holdings.
        large: Large holdings.
        small_of_address: Small holdings of one address.
        large_of_address: Large holdings of one address.
        work: Work under way.
        connections: Connections and requests that wait, which are part of `all_held`.
        connections_of_one: Those of one principal, or of one address.
        body: The largest body: its work fits, and an address can send it.
    """

    all_held: int
    large: int
    small_of_address: int
    large_of_address: int
    work: int
    connections: int
    connections_of_one: int
    body: int


def shares_of(budget_bytes: int) -> Shares:
    """Return the parts of a budget."""
    unit = budget_bytes // 16
    return Shares(
        all_held=12 * unit,
        large=8 * unit,
        small_of_address=unit,
        large_of_address=3 * unit,
        work=4 * unit,
        connections=3 * unit,
        connections_of_one=3 * unit * 3 // 4,
        body=4 * unit // WORK_FACTOR,
    )


class MemoryLedger:
    """Counts the bytes that requests hold.

    A holding is the sum of what one request holds. Its size decides which limits apply to it; when it grows, all of it
    moves from one part to the next.

    Attributes:
        shares: The limits.
        small_bytes: The sum of the tiny and the small holdings.
        large_bytes: The sum of the large holdings.
        reserved_bytes: The sum of connections and of requests that wait.
        refused: How often a limit forbade something.
        peak_bytes: The highest sum of all holdings; the caller may set it back. Tiny ones do not raise it.
    """

    __slots__ = (
        "_large_of",
        "_small_of",
        "large_bytes",
        "peak_bytes",
        "refused",
        "reserved_bytes",
        "shares",
        "small_bytes",
    )

    def __init__(self, budget_bytes: int) -> None:
        self.shares = shares_of(budget_bytes)
        self.small_bytes = 0
        self.large_bytes = 0
        self.reserved_bytes = 0
        self.peak_bytes = 0
        self.refused = 0
        self._small_of: dict[str, int] = {}
        self._large_of: dict[str, int] = {}

    def grow(self, held: int, added: int, address: str) -> bool:
        """Add bytes to a holding. Return False, and change nothing, if a limit forbids it.

        Args:
            held: What the request holds already.
            added: The bytes to add.
            address: The principal of the client, or its address.
        """
        if held + added <= TINY_BYTES:
            if self.small_bytes + self.large_bytes + self.reserved_bytes + added > self.shares.all_held:
                self.refused += 1
                return False
            self.small_bytes += added
            return True
        self._remove(held, address)
        if not self._admits(held + added, address):
            self._add(held, address)
            self.refused += 1
            return False
        self._add(held + added, address)
        return True

    def hold(self, held: int, added: int, address: str) -> None:
        """Add bytes that exist already, such as those of an answer, without a limit."""
        self._remove(held, address)
        self._add(held + added, address)

    def release(self, held: int, address: str) -> None:
        """Remove a holding."""
        self._remove(held, address)

    def reserve(self, size_bytes: int) -> bool:
        """Count a connection or a request that waits. Return False, and change nothing, without room for it."""
        reserved = self.reserved_bytes + size_bytes
        if reserved > self.shares.connections or self.bytes + reserved > self.shares.all_held:
            return False
        self.reserved_bytes = reserved
        return True

    def unreserve(self, size_bytes: int) -> None:
        """Give back what `reserve` counted."""
        self.reserved_bytes -= size_bytes

    def has_room(self, address: str) -> bool:
        """Return whether an address may have a further large holding."""
        shares = self.shares
        return self.large_bytes < shares.large and self._large_of.get(address, 0) < shares.large_of_address

    @property
    def is_full(self) -> bool:
        """Whether even a small holding is refused."""
        return self.bytes + self.reserved_bytes + SMALL_BYTES > self.shares.all_held

    def held_by(self, address: str) -> int:
        """Return the bytes of the small and large holdings of an address."""
        return self._small_of.get(address, 0) + self._large_of.get(address, 0)

    def _admits(self, total: int, address: str) -> bool:
        shares = self.shares
        if self.bytes + self.reserved_bytes + total > shares.all_held:
            return False
        if total <= SMALL_BYTES:
            return self._small_of.get(address, 0) + total <= shares.small_of_address
        if self.large_bytes + total > shares.large:
            return False
        return self._large_of.get(address, 0) + total <= shares.large_of_address

    @property
    def bytes(self) -> int:
        """The sum of all holdings."""
        return self.small_bytes + self.large_bytes

    def _add(self, held: int, address: str) -> None:
        if held > SMALL_BYTES:
            self.large_bytes += held
            self._large_of[address] = self._large_of.get(address, 0) + held
        else:
            self.small_bytes += held
            if held > TINY_BYTES:
                self._small_of[address] = self._small_of.get(address, 0) + held
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _remove(self, held: int, address: str) -> None:
        if held > SMALL_BYTES:
            self.large_bytes -= held
            _take(self._large_of, address, held)
            return
        self.small_bytes -= held
        if held > TINY_BYTES:
            _take(self._small_of, address, held)


class Holding:
    """What one request holds.

    Attributes:
        bytes: The sum.
    """

    __slots__ = ("_address", "_ledger", "bytes")

    def __init__(self, ledger: MemoryLedger, address: str) -> None:
        self._ledger = ledger
        self._address = address
        self.bytes = 0

    def grow(self, added: int) -> bool:
        """Add bytes. Return False, and change nothing, if a limit forbids it."""
        if self._ledger.grow(self.bytes, added, self._address):
            self.bytes += added
            return True
        return False

    def admit(self, added: int) -> None:
        """Add bytes.

        Raises:
            ServiceUnavailable: A limit forbids it; nothing is changed.
        """
        if not self.grow(added):
            raise full()

    def hold(self, added: int) -> None:
        """Add bytes that exist already."""
        self._ledger.hold(self.bytes, added, self._address)
        self.bytes += added

    def assign(self, principal: str) -> None:
        """Count the bytes as those of a principal from now on."""
        self._ledger.release(self.bytes, self._address)
        self._address = principal
        self._ledger.hold(0, self.bytes, principal)

    def release(self) -> None:
        """Give all bytes back; a second call does nothing."""
        self._ledger.release(self.bytes, self._address)
        self.bytes = 0


def full() -> ServiceUnavailable:
    """Return the error for a request for which a budget has no room."""
    return ServiceUnavailable(_FULL)


def _take(of_addresses: dict[str, int], address: str, held: int) -> None:
    left = of_addresses[address] - held
    if left:
        of_addresses[address] = left
    else:
        del of_addresses[address]
