"""A database of the previous release, with rows in every table, is migrated, consistent, and served."""

from __future__ import annotations

import pytest

from app.storage.db.opening import open_snapshot
from app.storage.verification import verification
from app.storage.verification.report import Report
from tests.e2e.operations.full_database import SECRET_KEY, load_stored, read_stored
from tests.serving import running


def test_the_stored_database_has_rows_in_every_table_of_its_revision() -> None:
    assert [name for name, content in read_stored().items() if not content["rows"]] == []


@pytest.mark.anyio
async def test_a_migrated_database_is_consistent_before_and_after_it_is_served(database_url: str) -> None:
    load_stored(database_url)
    before = verified(database_url)
    settings = {"database_url": database_url, "secret_key": SECRET_KEY, "webhook_allowed_networks": "127.0.0.1/32"}

    async with running(settings) as (_, client):
        page = (await client.get("/v1/topics/orders/partitions/1/records", params={"offset": "earliest"})).json()
        path = "/v1/topics/orders/partitions/1/records"
        appended = (await client.post(path, json={"value": "new"})).json()
        stamp = {"Producer-Id": "shop", "Producer-Epoch": "0", "Producer-Sequence": "7"}
        produced = await client.post(path, json={"value": "next"}, headers=stamp)
        members = (await client.get("/v1/groups/billing")).json()["members"]
        jobs = await client.post("/v1/queues/jobs/acquire", json={"max_records": 5})
        webhook = (await client.get("/v1/webhooks/crm")).json()
        created = await client.put("/v1/topics/another")
    after = verified(database_url)

    assert before.found == []
    assert [record["offset"] for record in page["records"]] == list(range(page["log_end_offset"]))
    assert appended["offsets"][0]["offset"] == page["log_end_offset"]
    assert produced.status_code == 201
    assert [member["member_id"] for member in members] == ["alice", "bob"]
    assert (jobs.status_code, webhook["name"], created.status_code) == (200, "crm", 201)
    assert after.found == []


def verified(database_url: str) -> Report:
    report = Report()
    with open_snapshot(database_url) as snapshot:
        verification.verify(snapshot, report)
    return report
