"""How many bytes of records webhooks may hold."""

from __future__ import annotations

from app.broker.webhooks.deliveries.holding import MAX_BYTES, HeldMemory


def test_a_webhook_holds_at_most_its_own_share() -> None:
    memory = HeldMemory(100 * MAX_BYTES)

    assert memory.room(0) == MAX_BYTES
    assert memory.room(MAX_BYTES - 5) == 5
    assert memory.room(2 * MAX_BYTES) == 0


def test_when_all_memory_is_held_a_webhook_without_a_record_still_gets_one() -> None:
    memory = HeldMemory(1_000)
    memory.bytes = 990
    assert memory.room(100) == 10

    memory.bytes = 5_000
    assert (memory.room(100), memory.room(0)) == (0, 1)
