"""Twenty consumers of one group, while consumers and servers are killed and answers are lost.

Every record is processed at least once, or counted exactly once; the records of each airport in order; no partition
has two owners; no committed offset goes back.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support.campaign_consumers import (
    AutoCommitConsumer,
    Consumer,
    HeartbeatConsumer,
    PollingConsumer,
    TransactionalConsumer,
)
from tests.e2e.support.group_campaign import CampaignPlan, GroupCampaign
from tests.e2e.support.lossy_client import Cluster
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
SHORT = 2_000, 6
LONGER = (100_000, 150) if LONG else (20_000, 30)
SIZES = [SHORT, pytest.param(LONGER, marks=pytest.mark.slow)]
AT_LEAST_ONCE = PollingConsumer, HeartbeatConsumer, AutoCommitConsumer


def cluster_on(database_url: str, directory: Path) -> Cluster:
    """Return two nodes on PostgreSQL; one on SQLite, which starts again after each kill."""
    number = 1 if database_url.startswith("sqlite") else 2
    return Cluster([ServerProcess(database_url, directory) for _ in range(number)])


async def run(campaign: GroupCampaign) -> None:
    """Run a campaign to its end, with all checks."""
    try:
        await campaign.run()
        if TransactionalConsumer in campaign.plan.kinds:
            await campaign.check_counts()
    finally:
        for node in campaign.cluster.nodes:
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
    plan = CampaignPlan(size[0], AT_LEAST_ONCE, size[1])

    await run(GroupCampaign(plan, cluster_on(migrated_url, tmp_path), random.Random(seed)))


@pytest.mark.parametrize("size", SIZES)
async def test_every_flight_is_counted_exactly_once(
    migrated_url: str, tmp_path: Path, size: tuple[int, int], seed: int
) -> None:
    plan = CampaignPlan(size[0], (TransactionalConsumer,), size[1])

    await run(GroupCampaign(plan, cluster_on(migrated_url, tmp_path), random.Random(seed)))


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("kinds", [AT_LEAST_ONCE, (TransactionalConsumer,)])
async def test_frozen_nodes_lose_no_flight_and_count_none_twice(
    migrated_postgres_url: str, tmp_path: Path, kinds: tuple[type[Consumer], ...], seed: int
) -> None:
    plan = CampaignPlan(LONGER[0] // 4, kinds, LONGER[1], freezes=True)

    await run(GroupCampaign(plan, cluster_on(migrated_postgres_url, tmp_path), random.Random(seed)))
