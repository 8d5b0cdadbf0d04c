"""`verify` and `backup` beside a server under load find each moment consistent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.storage.db.opening import open_snapshot
from app.storage.db.sqlite.copies import copy_database
from app.storage.verification import verification
from app.storage.verification.report import Report
from tests.serving import running

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

LOADS = 8


def verified(database_url: str) -> Report:
    report = Report()
    with open_snapshot(database_url) as snapshot:
        verification.verify(snapshot, report)
    return report


async def load(client: httpx2.AsyncClient, number: int) -> None:
    """Change every part of the state once."""
    records = [{"key": f"k{key}", "value": None if key == number % 5 else number} for key in range(5)]
    stamp = {"Producer-Id": "load", "Producer-Epoch": "0", "Producer-Sequence": str(number)}
    calls = [
        client.post("/v1/topics/prices/records", json={"records": records}),
        client.post("/v1/topics/orders/records", json={"records": records}, headers=stamp),
        client.post(
            "/v1/topics/orders/records", json={"key": "k", "value": number}, headers={"Idempotency-Key": f"{number}"}
        ),
        client.post("/v1/groups/mail/members/carol/poll", json={"topics": ["orders"], "auto_commit": True}),
        client.post("/v1/queues/jobs/acquire", json={"max_records": 3}),
    ]
    *_, acquired = await asyncio.gather(*calls)
    outcomes = ("accept", "reject", "release")
    ended = [
        {"delivery_id": each["delivery_id"], "outcome": outcomes[index]}
        for index, each in enumerate(acquired.json()["deliveries"])
    ]
    if ended:
        await client.post("/v1/queues/jobs/acknowledge", json={"acknowledgements": ended})
    end = (await client.get("/v1/topics/orders/partitions/0")).json()["log_end_offset"]
    before = {"before_offset": max(0, end - 20)}
    await client.delete("/v1/topics/orders/partitions/0/records", params=before)
    await client.put(f"/v1/topics/passing-{number % 3}", json={"partitions": 1})
    await client.delete(f"/v1/topics/passing-{(number + 1) % 3}")


@pytest.mark.anyio
async def test_every_moment_under_load_is_consistent(migrated_url: str, tmp_path: Path) -> None:
    reports: list[Report] = []
    copies: list[Report] = []
    settings = {"database_url": migrated_url, "retention_interval_ms": 20}
    async with running(settings) as (_, client):
        for name in ("prices", "orders"):
            config = {"cleanup_policy": "compact" if name == "prices" else "delete"}
            await client.put(f"/v1/topics/{name}", json={"partitions": 2, "config": config})
        await client.put("/v1/queues/jobs", json={"topic": "orders", "dead_letter_topic": "dead", "ordering": "key"})

        async def keep_loading() -> None:
            for number in range(LOADS):
                await load(client, number)

        loading = asyncio.ensure_future(keep_loading())
        while not loading.done():
            reports.append(await asyncio.to_thread(verified, migrated_url))
            if migrated_url.startswith("sqlite"):
                copy = tmp_path / f"copy-{len(copies)}.db"
                await asyncio.to_thread(copy_database, tmp_path / "millrace.db", copy, ".partial")
                copies.append(await asyncio.to_thread(verified, f"sqlite:///{copy}"))
        await loading
    reports.append(verified(migrated_url))

    assert [report.found for report in [*reports, *copies]] == [[]] * (len(reports) + len(copies))
    assert len(reports) > 2
    assert reports[-1].checked["records"] > 0
