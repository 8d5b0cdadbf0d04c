"""Twenty consumers share a day's flights while they and the servers are killed and answers are lost.

Every record is processed at least once, or counted exactly once; each airport's in order; no partition has two
owners; committed offsets never go back.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.campaign import Campaign, Plan
from tests.e2e.consumers import AutoConsumer, BeatingConsumer, Consumer, CountingConsumer, PollingConsumer
from tests.e2e.lossy import Fleet
from tests.e2e.node import Node

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LONG = os.environ.get("MILLRACE_TORTURE") == "long"
SHORT = 2_000, 6
LONGER = (100_000, 150) if LONG else (20_000, 30)
SIZES = [SHORT, pytest.param(LONGER, marks=pytest.mark.slow)]
AT_LEAST_ONCE = PollingConsumer, BeatingConsumer, AutoConsumer


def nodes_on(database_url: str, directory: Path) -> Fleet:
    """Two nodes on PostgreSQL; SQLite has one, which comes back after each kill."""
    return Fleet([Node(database_url, directory) for _ in range(1 if database_url.startswith("sqlite") else 2)])


async def run(campaign: Campaign) -> None:
    """Run a campaign to its end, with all checks."""
    try:
        await campaign.run()
        if CountingConsumer in campaign.plan.kinds:
            await campaign.check_counts()
    finally:
        for node in campaign.fleet.nodes:
            node.kill()
    print(campaign.summary())
    campaign.check_journal()
    assert campaign.statuses["lost"] > 0
    assert campaign.statuses["unread"] > 0
    assert campaign.journal.takeovers > 0


@pytest.mark.parametrize("size", SIZES)
async def test_every_flight_is_processed_at_least_once_and_in_order(
    migrated_url: str, tmp_path: Path, size: tuple[int, int], seed: int
) -> None:
    plan = Plan(size[0], AT_LEAST_ONCE, size[1])

    await run(Campaign(plan, nodes_on(migrated_url, tmp_path), random.Random(seed)))


@pytest.mark.parametrize("size", SIZES)
async def test_every_flight_is_counted_exactly_once(
    migrated_url: str, tmp_path: Path, size: tuple[int, int], seed: int
) -> None:
    plan = Plan(size[0], (CountingConsumer,), size[1])

    await run(Campaign(plan, nodes_on(migrated_url, tmp_path), random.Random(seed)))


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("kinds", [AT_LEAST_ONCE, (CountingConsumer,)])
async def test_nodes_that_freeze_and_wake_lose_nothing_and_count_nothing_twice(
    migrated_postgres_url: str, tmp_path: Path, kinds: tuple[type[Consumer], ...], seed: int
) -> None:
    plan = Plan(LONGER[0] // 4, kinds, LONGER[1], freezes=True)

    await run(Campaign(plan, nodes_on(migrated_postgres_url, tmp_path), random.Random(seed)))
