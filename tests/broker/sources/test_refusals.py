"""Refused deliveries are counted for the network that a sender has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.broker.sources.refusals import Refusals
from app.errors.webhooks import TooManyRefusals
from app.storage.sources.sources import Refusal
from tests.broker.node import Clock

if TYPE_CHECKING:
    from app.storage.db.engine import Storage

GUESSES = 100


def guess(refusals: Refusals, address: str) -> None:
    refusals.add(1, Refusal(0, 0, "a wrong secret", address, 0))


@pytest.mark.parametrize(
    ("addresses", "is_limited"),
    [
        (["192.0.2.1"], True),
        ([f"192.0.2.{number}" for number in range(1, 101)], False),
        ([f"2001:db8:1:2::{number:x}" for number in range(1, 101)], True),
        ([f"2001:db8:1:{number:x}::1" for number in range(1, 101)], False),
        (["fe80::1%eth0"], True),
    ],
    ids=["one IPv4", "many IPv4", "one IPv6 network", "many IPv6 networks", "link-local"],
)
def test_an_address_with_many_refusals_is_limited_for_a_minute(
    storage: Storage, addresses: list[str], *, is_limited: bool
) -> None:
    clock = Clock()
    refusals = Refusals(storage, clock)
    for number in range(GUESSES):
        guess(refusals, addresses[number % len(addresses)])

    if is_limited:
        with pytest.raises(TooManyRefusals):
            refusals.check(addresses[0])
    else:
        refusals.check(addresses[0])
    clock.advance(60_000)
    refusals.check(addresses[0])
