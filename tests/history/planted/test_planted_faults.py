"""The checker finds each planted fault: a fault that it does not find fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.history.checker import check
from tests.history.planted.cluster import Cluster, serving
from tests.history.planted.group_faults import GROUP_FAULTS
from tests.history.planted.log_faults import LOG_FAULTS

if TYPE_CHECKING:
    from tests.history.planted.fault import Fault

FAULTS = LOG_FAULTS + GROUP_FAULTS
PATIENCE_S = 0.5


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=pytest.mark.postgres if fault.shared else (), id=fault.name) for fault in FAULTS],
)
async def test_a_planted_fault_is_found(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    url = request.getfixturevalue("migrated_postgres_url" if fault.shared else "sqlite_url")
    cluster = Cluster(patience_s=PATIENCE_S)
    fault.plant(monkeypatch, cluster)
    async with serving(cluster, url, monkeypatch), asyncio.timeout(30):
        await fault.scenario(cluster)

    assert fault.rule in {anomaly.rule for anomaly in check(cluster.recorder.history)}


def test_at_least_25_faults_are_planted() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25
