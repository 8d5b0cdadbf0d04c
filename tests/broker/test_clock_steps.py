"""A clock that steps back: nothing is frozen for longer than its own interval, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.broker.queues.deliveries.delivery_batcher import DeliveryBatcher
from app.domain.queues.delivery import Acknowledge, Acknowledgement, Acquire
from app.domain.queues.in_flight import AcknowledgeType
from app.storage.db import clock
from app.storage.log import clock_ticks
from tests.broker.node import Node
from tests.broker.queues import jobs

if TYPE_CHECKING:
    from app.storage.db.transaction import Tx

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000
LOCK_MS = 30_000
DELAY_MS = 60_000
ONE = Acquire(1, 1 << 20)


def before_the_step(tx: Tx) -> int:
    """Return the time of a clock that will step back by an hour."""
    return clock.read(tx) + HOUR_MS


async def step_back(node: Node) -> None:
    """Store that the last check was by the clock before the step, and check the clock."""

    def store(tx: Tx) -> None:
        clock_ticks.save(tx, clock_ticks.load(tx), before_the_step(tx))

    await node.storage.write(store)
    await node.services.clock.check()


async def available_at_ms(node: Node) -> tuple[int, int]:
    """Return the time at which the next record of the queue becomes available, and the time now."""
    answer = await node.services.deliveries.acquire("jobs", ONE)
    assert answer.deliveries == []
    assert answer.available_at_ms is not None
    return answer.available_at_ms, answer.now_ms


def deliveries_before_the_step(node: Node) -> DeliveryBatcher:
    services = node.services
    return DeliveryBatcher(
        node.storage,
        services.queues,
        services.signals,
        recheck_ms=1_000,
        to_archive=lambda: None,
        time=before_the_step,
    )


async def test_a_lock_ends_one_lock_duration_after_the_step_at_the_latest(node: Node) -> None:
    await jobs.create(node, lock_duration_ms=LOCK_MS)
    await jobs.produce_keyed(node, None)
    assert (await deliveries_before_the_step(node).acquire("jobs", ONE)).deliveries

    await step_back(node)

    until_ms, now_ms = await available_at_ms(node)
    assert until_ms <= now_ms + LOCK_MS


async def test_a_delay_keeps_its_length_and_a_time_of_delivery_stays(node: Node) -> None:
    await jobs.create(node, lock_duration_ms=LOCK_MS)
    await jobs.produce_keyed(node, None)
    earlier = deliveries_before_the_step(node)
    (delivery,) = (await earlier.acquire("jobs", ONE)).deliveries
    release = Acknowledgement(delivery.delivery_id, AcknowledgeType.RELEASE, DELAY_MS)
    await earlier.acknowledge("jobs", Acknowledge([release]))
    await jobs.produce_keyed(node, None, deliver_at_ms=jobs.FAR_MS)
    assert (await earlier.acquire("jobs", ONE)).deliveries == []

    await step_back(node)

    until_ms, now_ms = await available_at_ms(node)
    assert until_ms <= now_ms + DELAY_MS
    found = await node.storage.read(
        lambda tx: tx.connection.exec_driver_sql("SELECT max(until_ms) FROM delayed_records").scalar_one()
    )
    assert found == jobs.FAR_MS


async def test_an_assignment_is_due_one_interval_after_the_step_at_the_latest(node: Node) -> None:
    await node.create(partitions=1)
    await node.join("alice")
    await node.storage.write(
        lambda tx: (
            tx.connection.exec_driver_sql(
                f"UPDATE consumer_groups SET assigned_at_ms = assigned_at_ms + {HOUR_MS}, assign_at_ms = NULL"
            ).rowcount
        )
    )
    await node.join("bob")

    found = await node.storage.read(
        lambda tx: tx.connection.exec_driver_sql("SELECT assign_at_ms FROM consumer_groups").scalar_one()
    )
    assert found is None or found <= await node.storage.read(clock.read) + 1_000

    await node.storage.write(
        lambda tx: (
            tx.connection.exec_driver_sql(f"UPDATE consumer_groups SET assign_at_ms = {before_the_step(tx)}").rowcount
        )
    )
    now_ms = await node.storage.read(clock.read)
    await node.storage.write(
        lambda tx: tx.connection.exec_driver_sql(f"UPDATE group_ticks SET ticked_at_ms = {now_ms + HOUR_MS}").rowcount
    )
    await node.groups.record_running_node()
    assert (
        await node.storage.read(
            lambda tx: tx.connection.exec_driver_sql("SELECT assign_at_ms FROM consumer_groups").scalar_one()
        )
        <= await node.storage.read(clock.read) + 1_000
    )


async def test_sessions_and_revocations_end_in_their_own_time_after_the_step(node: Node) -> None:
    await node.create(partitions=1)
    await node.join("alice")
    now_ms = await node.storage.read(clock.read)

    def move(tx: Tx) -> None:
        tx.connection.exec_driver_sql(
            f"UPDATE group_members SET deadline_ms = deadline_ms + {HOUR_MS}, revoke_deadline_ms = {now_ms + HOUR_MS}"
        )
        tx.connection.exec_driver_sql(f"UPDATE group_ticks SET ticked_at_ms = {now_ms + HOUR_MS}")

    await node.storage.write(move)
    await node.groups.record_running_node()

    (deadline_ms, revoke_deadline_ms, timeout_ms) = await node.storage.read(
        lambda tx: tx.connection.exec_driver_sql(
            "SELECT deadline_ms, revoke_deadline_ms, session_timeout_ms FROM group_members"
        ).one()
    )
    after_ms = await node.storage.read(clock.read)
    assert deadline_ms <= after_ms + timeout_ms
    assert revoke_deadline_ms <= after_ms
