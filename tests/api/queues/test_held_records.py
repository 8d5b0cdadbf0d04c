"""Records that a consumer holds while the running server removes them from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from app.main import Application
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

LOG = "/v1/topics/orders/partitions/0/records"


async def remove(client: httpx2.AsyncClient, cause: str) -> None:
    """Make the server remove the first three records of the log."""
    if cause == "deletion":
        await client.delete(LOG, params={"before_offset": 3})
        return
    config: dict[str, Any] = {"retention_bytes": 0} if cause == "size" else {"cleanup_policy": "compact"}
    if cause == "age":
        config = {"retention_ms": 86_400_000}
    answer = await client.patch("/v1/topics/orders", json={"config": config})
    assert answer.status_code == 200, answer.text


async def rows(application: Application) -> list[int]:
    def count(tx: Any) -> list[int]:
        query = "SELECT count(*) FROM "
        return [tx.connection.exec_driver_sql(query + table).scalar_one() for table in ("records", "delayed_records")]

    return await application.services.storage.read(count)


@pytest.mark.parametrize("cause", ["deletion", "size", "age", "compaction"])
async def test_a_record_that_is_held_can_be_released_delayed_and_rejected(
    migrated_url: str, serve: Serve, cause: str
) -> None:
    application, client = await serve(database_url=migrated_url, retention_interval_ms=100)
    await client.put("/v1/topics/orders", json={"partitions": 1, "config": {"retention_ms": -1}})
    await client.put("/v1/queues/jobs", json={"topic": "orders", "dead_letter_topic": "dead"})
    records = [{"key": "k", "value": value, "timestamp_ms": 1_517_363_399_650} for value in "abc"]
    await client.post(LOG, json={"records": [*records, {"key": "k", "value": "d"}]})
    acquired = (await client.post("/v1/queues/jobs/acquire", json={"max_records": 3})).json()["deliveries"]

    await remove(client, cause)
    await until(lambda: rows(application), lambda found: found == [1, 3])

    outcomes: list[dict[str, Any]] = [
        {"outcome": "reject"},
        {"outcome": "release", "delay_ms": 1},
        {"outcome": "release"},
    ]
    items = [{"delivery_id": each["delivery_id"]} | outcome for each, outcome in zip(acquired, outcomes, strict=True)]
    settled = (await client.post("/v1/queues/jobs/acknowledge", json={"acknowledgements": items})).json()
    assert [each["code"] for each in settled["results"]] == [None] * 3
    values: list[str] = []
    while len(values) < 3:
        request = {"max_records": 10, "max_wait_ms": 10_000}
        page = (await client.post("/v1/queues/jobs/acquire", json=request)).json()["deliveries"]
        assert page, values
        values += [each["record"]["value"] for each in page]
    assert sorted(values) == ["b", "c", "d"]
    letters = await until(
        lambda: client.get("/v1/topics/dead/records", params={"max_wait_ms": 1_000}),
        lambda answer: bool(answer.json()["records"]),
    )
    assert [each["value"] for each in letters.json()["records"]] == ["a"]
