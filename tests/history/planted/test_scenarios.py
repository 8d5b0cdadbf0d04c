"""The scenarios of the planted faults on an unchanged server, on both databases: no anomaly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.history.checker import assert_sound
from tests.history.planted import group_scenarios, log_scenarios
from tests.history.planted.cluster import Cluster, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SCENARIOS = [
    log_scenarios.produce_and_read,
    log_scenarios.refused_sends,
    log_scenarios.deleted_records,
    log_scenarios.parked_read,
    log_scenarios.lost_commit,
    log_scenarios.two_nodes,
    group_scenarios.members,
    group_scenarios.silent_member,
    group_scenarios.automatic_commits,
    group_scenarios.transactions,
    group_scenarios.queue,
    group_scenarios.queue_by_key,
]


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_scenario_without_a_fault_has_no_anomaly(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Cluster], Awaitable[None]]
) -> None:
    cluster = Cluster()
    async with serving(cluster, migrated_url, monkeypatch), asyncio.timeout(30):
        await scenario(cluster)

    assert_sound(cluster.recorder.history)
    assert len(cluster.recorder.history) > 2
