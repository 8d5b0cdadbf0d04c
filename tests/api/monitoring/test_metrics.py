"""What `/metrics` counts, and what it reads from the database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.observation import readings
from app.errors.database import ServiceUnavailable
from tests.api.monitoring.scraping import names, scrape
from tests.waiting import until, until_true

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders/records"
OFFSETS = "/v1/groups/billing/offsets"
DURATION = "millrace_http_request_duration_seconds_count"
LONG_POLL = "millrace_http_long_poll_duration_seconds_count"
STREAM = "millrace_http_stream_duration_seconds_count"
FETCH, TAIL = '{operation="fetch_partition"}', '{operation="fetch_topic"}'


def commits(*offsets: int) -> dict[str, Any]:
    return {"offsets": [{"topic": "orders", "partition": p, "offset": at} for p, at in enumerate(offsets)]}


async def fill(client: httpx2.AsyncClient) -> None:
    """Make a topic of two partitions with three records in each."""
    await client.put("/v1/topics/orders", json={"partitions": 2})
    for partition in (0, 1):
        records = [{"value": number, "timestamp_ms": 1_000} for number in range(3)]
        await client.post(f"/v1/topics/orders/partitions/{partition}/records", json={"records": records})


async def test_long_polls_and_streams_are_timed_apart_from_other_requests(sqlite_client: httpx2.AsyncClient) -> None:
    await fill(sqlite_client)
    path = "/v1/topics/orders/partitions/0/records"

    await sqlite_client.get(path)
    await sqlite_client.get(f"{path}?offset=99&max_wait_ms=0")
    await sqlite_client.get(f"{path}?max_wait_ms=1000")
    await sqlite_client.get(f"{ORDERS}?max_wait_ms=1", headers={"Accept": "text/event-stream"})

    found = await scrape(sqlite_client)
    assert (found[DURATION + FETCH], found[LONG_POLL + FETCH]) == (2, 1)
    assert found[STREAM + TAIL] == 1
    assert DURATION + TAIL not in found
    assert LONG_POLL + TAIL not in found


async def test_bodies_are_counted_as_they_are_sent(sqlite_client: httpx2.AsyncClient) -> None:
    answer = await sqlite_client.post(ORDERS, json={"value": "x" * 1_000})
    sent = await sqlite_client.get(f"{ORDERS}?max_wait_ms=1", headers={"Accept": "text/event-stream"})
    page = await sqlite_client.get(f"{ORDERS}?offset=earliest", headers={"Accept-Encoding": "gzip"})

    found = await scrape(sqlite_client)
    assert found['millrace_http_received_bytes_total{operation="produce"}'] == len(answer.request.content)
    assert found['millrace_http_sent_bytes_total{operation="produce"}'] == len(answer.content)
    assert found[f"millrace_http_sent_bytes_total{TAIL}"] == len(sent.content) + int(page.headers["content-length"])
    assert int(page.headers["content-length"]) < len(page.content)


async def test_records_are_counted_by_topic_in_transactions_too(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(ORDERS, json={"records": [{"value": 1}] * 3})
    part = {"topic": "orders", "records": [{"value": 1}] * 2}
    answer = await sqlite_client.post("/v1/transactions", json={"produce": [part]})

    assert answer.status_code == 201
    assert (await scrape(sqlite_client))['millrace_topic_appended_records_total{topic="orders"}'] == 5


async def test_group_commits_are_timed_with_their_requests(sqlite_client: httpx2.AsyncClient) -> None:
    await asyncio.gather(*(sqlite_client.post(ORDERS, json={"value": 1}) for _ in range(20)))

    found = await scrape(sqlite_client)
    assert found['millrace_commit_requests_sum{kind="append"}'] == 20
    assert found['millrace_commit_duration_seconds_count{kind="append"}'] == found["millrace_append_transactions_total"]


async def test_the_lag_of_groups_is_read_from_the_database(client: httpx2.AsyncClient) -> None:
    await fill(client)
    assert (await client.post(OFFSETS, json=commits(1, 3))).status_code == 200

    found = await scrape(client)

    group = 'consumergroup="billing"'
    assert found[f'millrace_consumergroup_lag{{{group},partition="0",topic="orders"}}'] == 2
    assert found[f'millrace_consumergroup_lag{{{group},partition="1",topic="orders"}}'] == 0
    assert found[f'millrace_consumergroup_current_offset{{{group},partition="1",topic="orders"}}'] == 3
    assert found[f'millrace_consumergroup_lag_sum{{{group},topic="orders"}}'] == 2
    assert found[f'millrace_consumergroup_lag_seconds{{{group},topic="orders"}}'] > 1_000_000
    assert found[f"millrace_consumergroup_members{{{group}}}"] == 0
    assert found["millrace_scrape_complete"] == 1


async def test_groups_beyond_the_bound_of_series_have_their_sums_only(serve: Serve) -> None:
    _, client = await serve(metrics_partition_series=2, metrics_kafka_names=True)
    await fill(client)
    for group in ("billing", "shipping"):
        await client.post(f"/v1/groups/{group}/offsets", json=commits(0, 0))

    found = await scrape(client)

    lags = {name for name in found if name.startswith("kafka_consumergroup_lag{")}
    assert len(lags) == 2
    assert all("billing" in name for name in lags)
    assert found['kafka_consumergroup_lag_sum{consumergroup="shipping",topic="orders"}'] == 6
    assert not any(name.startswith("millrace_consumergroup") for name in found)


async def test_a_scrape_that_ends_early_leaves_out_whole_groups(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client)
    for group in ("a", "b", "c"):
        await client.post(f"/v1/groups/{group}/offsets", json=commits(1, 1))
    monkeypatch.setattr("app.storage.groups.group_lags.CHUNK_ROWS", 3)
    monkeypatch.setattr(readings, "MOST_ROWS", 3)

    found = await scrape(client)

    assert {name for name in found if "lag_sum" in name} == {
        'millrace_consumergroup_lag_sum{consumergroup="a",topic="orders"}'
    }
    assert found['millrace_consumergroup_lag_sum{consumergroup="a",topic="orders"}'] == 4
    assert found["millrace_scrape_complete"] == 0


async def test_the_depth_of_a_queue_counts_all_records_that_have_not_ended(client: httpx2.AsyncClient) -> None:
    await fill(client)
    await client.put("/v1/queues/jobs", json={"topic": "orders", "start": "earliest"})
    acquired = (await client.post("/v1/queues/jobs/acquire", json={"max_records": 3})).json()["deliveries"]
    items = [
        {"delivery_id": acquired[0]["delivery_id"], "outcome": "accept"},
        {"delivery_id": acquired[1]["delivery_id"], "outcome": "release", "delay_ms": 60_000},
    ]
    await client.post("/v1/queues/jobs/acknowledge", json={"acknowledgements": items})

    found = await scrape(client)

    assert found['millrace_queue_depth_records{queue="jobs"}'] == 5
    assert found['millrace_queue_oldest_record_seconds{queue="jobs"}'] > 1_000_000


async def test_a_queue_without_records_has_no_age(client: httpx2.AsyncClient) -> None:
    await fill(client)
    await client.put("/v1/queues/jobs", json={"topic": "orders", "start": "latest"})

    found = await scrape(client)

    assert found['millrace_queue_depth_records{queue="jobs"}'] == 0
    assert found['millrace_queue_oldest_record_seconds{queue="jobs"}'] == 0


async def test_without_the_database_the_metrics_of_the_node_are_there(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    application, client = await serve()
    await client.post(ORDERS, json={"value": 1})

    async def refuse(*_: object) -> None:
        raise ServiceUnavailable("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(type(application.services.storage), "read", refuse)
        found = await scrape(client)

    assert found["millrace_database_up"] == 0
    assert found["millrace_appended_records_total"] == 1
    assert "millrace_sqlite_wal_bytes" not in found


async def test_scrapes_at_the_same_time_share_one_reading(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    application, _ = await serve()
    reader = application.services.database_reader
    storage = application.services.storage
    reads = []

    async def counted(function: Callable[..., Any], *arguments: object) -> Any:
        reads.append(function)
        return await type(storage).read(storage, function, *arguments)

    monkeypatch.setattr(storage, "read", counted)
    found = await asyncio.gather(*(reader.read() for _ in range(5)))

    assert None not in found
    assert reads.count(readings._read) == 1


async def test_requests_without_an_operation_are_counted_by_the_code_of_their_problem(
    sqlite_client: httpx2.AsyncClient,
) -> None:
    await sqlite_client.get("/nothing")
    await sqlite_client.delete("/healthz")
    await sqlite_client.get("/v1/topics", headers={"Host": "evil.example.com"})

    found = await scrape(sqlite_client)

    assert found['millrace_refusals_total{code="NOT_FOUND"}'] == 1
    assert found['millrace_refusals_total{code="METHOD_NOT_ALLOWED"}'] == 1
    assert found['millrace_refusals_total{code="MISDIRECTED_REQUEST"}'] == 1


async def test_a_read_is_parked_while_it_waits(sqlite_client: httpx2.AsyncClient) -> None:
    await fill(sqlite_client)
    path = "/v1/topics/orders/partitions/0/records"
    waiting = asyncio.ensure_future(sqlite_client.get(f"{path}?offset=latest&max_wait_ms=20000"))

    await until(lambda: scrape(sqlite_client), lambda found: found["millrace_parked_reads"] == 1)
    await sqlite_client.post(path, json={"value": 1})

    assert (await waiting).json()["records"] != []
    assert (await scrape(sqlite_client))["millrace_parked_reads"] == 0


async def test_what_retention_and_compaction_delete_is_counted(serve: Serve) -> None:
    _, client = await serve(retention_interval_ms=10)
    await client.put("/v1/topics/orders", json={"partitions": 1, "config": {"retention_ms": 1}})
    await client.put("/v1/topics/prices", json={"partitions": 1, "config": {"cleanup_policy": "compact"}})
    old = [{"key": "k", "value": number, "timestamp_ms": 1_000} for number in range(5)]
    for topic in ("orders", "prices"):
        await client.post(f"/v1/topics/{topic}/records", json={"records": old})

    def is_done(found: dict[str, float]) -> bool:
        deleted = found["millrace_retention_deleted_records_total"], found["millrace_compaction_deleted_records_total"]
        return deleted == (5, 4)

    found = await until(lambda: scrape(client), is_done)
    assert found["millrace_retention_raised_starts_total"] == 1
    assert found['millrace_task_runs_total{task="retention"}'] >= 1


async def test_metrics_that_are_turned_off_are_404_and_count_nothing(serve: Serve) -> None:
    application, client = await serve(metrics=False)
    await client.post(ORDERS, json={"value": 1})

    answer = await client.get("/metrics")

    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert application.services.metrics.operations is None


async def test_readiness_fails_when_a_background_task_has_stopped(serve: Serve) -> None:
    application, client = await serve()
    assert (await client.get("/readyz")).status_code == 200
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "retention"]
    task.cancel()
    await until_true(task.done)

    answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["detail"] == "background tasks have stopped: retention; restart the server"
    assert (await scrape(client))['millrace_task_up{task="retention"}'] == 0
    assert application.services.tasks_failing() == []


async def test_both_databases_have_the_same_metrics_but_those_of_their_files(client: httpx2.AsyncClient) -> None:
    own = {name for name in await names(client) if name.startswith(("millrace_sqlite", "millrace_postgres"))}

    assert own in (
        {"millrace_sqlite_file_bytes", "millrace_sqlite_wal_bytes"},
        {"millrace_postgres_database_bytes", "millrace_postgres_oldest_snapshot_seconds"},
    )
