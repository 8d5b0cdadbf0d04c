"""The ledger of the bytes that requests hold."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.domain.memory.ledger import CONNECTION_BYTES, SMALL_BYTES, TINY_BYTES, Holding, MemoryLedger

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def ledger() -> MemoryLedger:
    """A ledger of 512 MiB."""
    return MemoryLedger(512 * MIB)


def fill(ledger: MemoryLedger, address: str, size: int) -> int:
    """Make holdings of a size until one is refused, and return their sum."""
    total = 0
    while Holding(ledger, address).grow(size):
        total += size
    return total


def test_the_parts_of_the_default_budget(ledger: MemoryLedger) -> None:
    assert ledger.shares._asdict() == {
        "all_held": 384 * MIB,
        "large": 256 * MIB,
        "small_of_address": 32 * MIB,
        "connections_of_one": 72 * MIB,
        "large_of_address": 96 * MIB,
        "work": 128 * MIB,
        "connections": 96 * MIB,
        "body": 32 * MIB,
    }


def test_one_address_holds_at_most_a_quarter(ledger: MemoryLedger) -> None:
    held = fill(ledger, "a", 32 * MIB) + fill(ledger, "a", SMALL_BYTES)

    assert held == ledger.held_by("a") == 128 * MIB


def test_connections_take_their_part_and_leave_the_rest_to_requests(ledger: MemoryLedger) -> None:
    open_connections = 0
    while ledger.reserve(CONNECTION_BYTES):
        open_connections += 1
    held = sum(fill(ledger, f"10.0.0.{number}", MIB) for number in range(100))
    held += sum(fill(ledger, f"10.0.1.{number}", SMALL_BYTES) for number in range(100))

    assert open_connections == 12_288
    assert held + open_connections * CONNECTION_BYTES == 384 * MIB
    ledger.unreserve(CONNECTION_BYTES)
    assert Holding(ledger, "new").grow(TINY_BYTES)
    assert not ledger.reserve(CONNECTION_BYTES)


def test_the_bytes_of_a_request_move_to_its_principal_when_its_key_is_checked(ledger: MemoryLedger) -> None:
    holding = Holding(ledger, "192.0.2.1")
    holding.grow(MIB)
    holding.assign("app")

    assert (ledger.held_by("192.0.2.1"), ledger.held_by("app")) == (0, MIB)
    holding.release()
    assert ledger.bytes == ledger.held_by("app") == 0


def test_large_holdings_leave_the_reserve_to_small_ones(ledger: MemoryLedger) -> None:
    for number in range(100):
        fill(ledger, f"10.0.0.{number}", MIB)

    assert ledger.large_bytes == 256 * MIB
    assert fill(ledger, "b", SMALL_BYTES) == 32 * MIB


def test_an_address_that_holds_its_quarter_still_sends_tiny_bodies(ledger: MemoryLedger) -> None:
    fill(ledger, "a", 32 * MIB)
    fill(ledger, "a", SMALL_BYTES)

    assert Holding(ledger, "a").grow(TINY_BYTES)
    assert not ledger.has_room("a")
    assert ledger.has_room("b")


def test_a_refused_growth_changes_nothing(ledger: MemoryLedger) -> None:
    holding = Holding(ledger, "a")
    holding.grow(SMALL_BYTES)

    assert not holding.grow(97 * MIB)
    assert (holding.bytes, ledger.small_bytes, ledger.large_bytes) == (SMALL_BYTES, SMALL_BYTES, 0)


def test_tiny_holdings_are_refused_beyond_the_sum(ledger: MemoryLedger) -> None:
    assert fill(ledger, "a", TINY_BYTES) == 384 * MIB
    assert ledger.is_full


def test_a_second_release_changes_nothing(ledger: MemoryLedger) -> None:
    holding, other = Holding(ledger, "a"), Holding(ledger, "a")
    holding.grow(MIB)
    other.grow(MIB)
    holding.release()
    holding.release()

    assert ledger.large_bytes == MIB


sizes = st.one_of(
    st.integers(0, 8 * KIB),
    st.integers(0, 2 * MIB),
    st.sampled_from([TINY_BYTES, TINY_BYTES + 1, SMALL_BYTES, SMALL_BYTES + 1]),
)


class LedgerMachine(RuleBasedStateMachine):
    """Requests of a few addresses grow and end in any order."""

    holdings: ClassVar[Bundle[Holding]] = Bundle("holdings")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = MemoryLedger(16 * MIB)
        self.open: dict[Holding, str] = {}
        self.forced = 0

    @rule(target=holdings, address=st.sampled_from("abc"))
    def begin(self, address: str) -> Holding:
        holding = Holding(self.ledger, address)
        self.open[holding] = address
        return holding

    @rule(holding=holdings, size=sizes)
    def grow(self, holding: Holding, size: int) -> None:
        before = holding.bytes
        admitted = holding.grow(size)
        assert holding.bytes == before + (size if admitted else 0)

    @rule(holding=holdings, size=sizes)
    def hold(self, holding: Holding, size: int) -> None:
        self.forced += size
        holding.hold(size)

    @rule(holding=consumes(holdings))
    def end(self, holding: Holding) -> None:
        holding.release()
        del self.open[holding]

    @invariant()
    def the_sums_are_those_of_the_holdings(self) -> None:
        held = [holding.bytes for holding in self.open]
        assert self.ledger.small_bytes == sum(size for size in held if size <= SMALL_BYTES)
        assert self.ledger.large_bytes == sum(size for size in held if size > SMALL_BYTES)
        for address in "abc":
            of_address = [holding.bytes for holding, of in self.open.items() if of == address]
            assert self.ledger.held_by(address) == sum(size for size in of_address if size > TINY_BYTES)

    @invariant()
    def only_bytes_held_without_a_limit_exceed_one(self) -> None:
        assert self.ledger.small_bytes + self.ledger.large_bytes <= 12 * MIB + self.forced
        assert self.ledger.large_bytes <= 8 * MIB + self.forced + SMALL_BYTES * len(self.open)
        for address in "abc":
            assert self.ledger.held_by(address) <= 4 * MIB + self.forced + SMALL_BYTES * len(self.open)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
