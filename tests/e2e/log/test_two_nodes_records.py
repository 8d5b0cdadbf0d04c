"""Two nodes on one PostgreSQL: one log in one order, on whichever node it is written and read."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from app.storage.db.tables import OFFSET_BITS
from tests.e2e.support.api_calls import await_waiting_reads, create_topic, fetch, produce, read_topic
from tests.e2e.support.server_process import NOTICES_ONLY, ServerProcess, running
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import httpx2

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

PARTITIONS = 2
WRITERS_OF_A_NODE = 2
REQUESTS_OF_A_WRITER = 40
SLOW_TRANSACTIONS = 5
LOCK_CLASS = 0x4D52
"""The first number of a partition's advisory lock."""

SLOW_APPEND = f"""
INSERT INTO records (record_id, timestamp_ms, encoding, key, value, headers, start_bytes, max_timestamp_ms)
SELECT record_id + 1, timestamp_ms, 0, NULL, %s::bytea, NULL,
       start_bytes + coalesce(length(key), 0) + coalesce(length(value), 0) + coalesce(length(headers), 0),
       max_timestamp_ms
FROM records WHERE record_id < %s::bigint << {OFFSET_BITS} ORDER BY record_id DESC LIMIT 1
"""
WAITERS = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""
COUNT = "SELECT count(*) FROM records"
PARTITION_IDS = "SELECT partition_id FROM partitions JOIN topics USING (topic_id) WHERE name = '{}' ORDER BY partition"
NOTICES = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'millrace-notices' ORDER BY backend_start
"""


class AcknowledgedRecord(NamedTuple):
    """An acknowledged record, with the times of its request and of the answer."""

    offset: int
    value: str
    sent: float
    acknowledged: float


def path_of(topic: str, partition: int) -> str:
    return f"/v1/topics/{topic}/partitions/{partition}/records"


async def produce_repeatedly(client: httpx2.AsyncClient, path: str, writer: str) -> list[AcknowledgedRecord]:
    """Append requests of one to three records, one after the other."""
    written = []
    for number in range(REQUESTS_OF_A_WRITER):
        values = [f"{writer}.{number}.{i}" for i in range(1 + number % 3)]
        sent = time.monotonic()
        answer = await client.post(path, json={"records": [{"value": value} for value in values]})
        acknowledged = time.monotonic()
        assert answer.status_code == 201, answer.text
        offsets = [one["offset"] for one in answer.json()["offsets"]]
        assert offsets == list(range(offsets[0], offsets[0] + len(values)))
        written += [AcknowledgedRecord(*pair, sent, acknowledged) for pair in zip(offsets, values, strict=True)]
    return written


async def read_until_stopped(client: httpx2.AsyncClient, path: str, stopped: asyncio.Event) -> list[str]:
    """Read a partition by long polls until `stopped` is set and the end is reached."""
    values: list[str] = []
    while True:
        finished = stopped.is_set()
        page = await fetch(client, path, offset=len(values), max_records=7, max_wait_ms=300)
        records = page["records"]
        assert [record["offset"] for record in records] == list(range(len(values), len(values) + len(records)))
        values += [record["value"] for record in records]
        if finished and not records:
            assert page["log_end_offset"] == len(values)
            return values


async def append_in_slow_transactions(url: str, partition_ids: Sequence[int]) -> list[str]:
    """Append records as a node does, each in a transaction that commits once a node waits for its lock."""
    values = []
    for number in range(SLOW_TRANSACTIONS):
        partition_id = partition_ids[number % len(partition_ids)]
        values.append(f"slow {number}")
        async with await psycopg.AsyncConnection.connect(url) as slow, await connect(url) as observer:
            await slow.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, partition_id))
            inserted = await slow.execute(SLOW_APPEND, (f'"slow {number}"'.encode(), partition_id + 1))
            assert inserted.rowcount == 1
            await until(lambda: rows(observer, WAITERS), lambda found: found[0] >= 1)
            await slow.commit()
    return values


async def connect(url: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(url, autocommit=True)


async def rows(connection: psycopg.AsyncConnection, query: str) -> list[Any]:
    """Return the only column of a result."""
    return [column for (column,) in await (await connection.execute(query)).fetchall()]


def in_order_of_commit(written: list[AcknowledgedRecord]) -> bool:
    """Return whether each record has a higher offset than all that were acknowledged before it was sent."""
    earliest_above = float("inf")
    for record in sorted(written, reverse=True):
        if earliest_above < record.sent:
            return False
        earliest_above = min(earliest_above, record.acknowledged)
    return True


async def test_readers_on_both_nodes_get_every_record_once_and_in_order_beside_slow_transactions(
    nodes: tuple[ServerProcess, ServerProcess], shared_url: str, topic: str
) -> None:
    stopped = asyncio.Event()
    paths = [path_of(topic, partition) for partition in range(PARTITIONS)]
    async with nodes[0].client() as a, nodes[1].client() as b, await connect(shared_url) as other:
        await create_topic(a, topic, PARTITIONS)
        for path in paths:
            assert (await a.post(path, json={"value": "first"})).status_code == 201
        ids = await rows(other, PARTITION_IDS.format(topic))
        async with await psycopg.AsyncConnection.connect(shared_url) as snapshot, asyncio.TaskGroup() as group:
            await snapshot.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            before = await rows(snapshot, COUNT)
            readers = [
                [group.create_task(read_until_stopped(client, path, stopped)) for client in (a, b)] for path in paths
            ]
            slow = group.create_task(append_in_slow_transactions(shared_url, ids))
            writers = [
                [
                    group.create_task(produce_repeatedly(client, path, f"{node}.{writer}"))
                    for node, client in enumerate((a, b))
                    for writer in range(WRITERS_OF_A_NODE)
                ]
                for path in paths
            ]
            written = [[record for task in tasks for record in await task] for tasks in writers]
            more = 0
            while not slow.done():  # each slow transaction waits until a produce waits for its lock
                more += 1
                assert (await b.post(paths[more % PARTITIONS], json={"value": "more"})).status_code == 201
            stopped.set()
            assert await rows(snapshot, COUNT) == before
        whole = await read_topic(b, topic, range(PARTITIONS))

    values = [[record["value"] for record in records] for records in whole]
    for partition in range(PARTITIONS):
        assert [await reader for reader in readers[partition]] == [values[partition]] * 2
        assert [values[partition][record.offset] for record in written[partition]] == [
            record.value for record in written[partition]
        ]
        assert in_order_of_commit(written[partition])
    assert sorted(value for each in values for value in each) == sorted(
        ["first"] * PARTITIONS
        + ["more"] * more
        + await slow
        + [record.value for records in written for record in records]
    )
    assert not any("an append failed" in node.log for node in nodes)


async def values_of(read: asyncio.Task[dict[str, Any]]) -> list[Any]:
    return [record["value"] for record in (await read)["records"]]


def long_poll(client: httpx2.AsyncClient, topic: str, offset: int) -> asyncio.Task[dict[str, Any]]:
    """Start a read of partition 0 that waits 20 s: a third of the poll interval of the node."""
    return asyncio.create_task(fetch(client, path_of(topic, 0), offset=offset, max_wait_ms=20_000))


async def test_an_append_on_one_node_answers_a_read_that_waits_on_the_other(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    async with nodes[0].client() as a, nodes[1].client() as b:
        await create_topic(a, topic, 1)
        for offset in range(6):
            here, there = (a, b) if offset % 2 else (b, a)
            read = long_poll(there, topic, offset)
            await await_waiting_reads(there, 1)
            await produce(here, topic, f"record {offset}")

            assert await values_of(read) == [f"record {offset}"]


async def test_nodes_listen_again_after_their_notice_connections_were_cut(
    migrated_postgres_url: str, tmp_path: Path, topic: str
) -> None:
    a_node, b_node = (ServerProcess(migrated_postgres_url, tmp_path, settings=NOTICES_ONLY) for _ in range(2))
    with running(a_node, b_node):
        async with a_node.client() as a, b_node.client() as b, await connect(migrated_postgres_url) as other:
            await create_topic(a, topic, 1)
            offset = 0

            async def append_wakes_the_read() -> None:
                nonlocal offset
                await produce(a, topic, offset)
                assert await values_of(read) == [offset]
                offset += 1

            async def cut(pids: set[int]) -> None:
                await other.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [list(pids)])
                await until(lambda: rows(other, NOTICES), lambda found: not pids & set(found))

            async def await_connections(*, besides: set[int], number: int) -> set[int]:
                found = await until(
                    lambda: rows(other, NOTICES), lambda found: len(found) == number and besides <= set(found)
                )
                return set(found) - besides

            read = long_poll(b, topic, offset)
            await await_waiting_reads(b, 1)
            await append_wakes_the_read()
            # Both nodes listen, and the first has opened a connection to send notices.
            *listening, sending = await until(lambda: rows(other, NOTICES), lambda found: len(found) == 3)
            listeners, sender = set(listening), {sending}

            read = long_poll(b, topic, offset)
            await await_waiting_reads(b, 1)
            await cut(sender)
            await append_wakes_the_read()
            sender = await await_connections(besides=listeners, number=3)

            read = long_poll(b, topic, offset)
            await await_waiting_reads(b, 1)
            await cut(listeners)
            await append_wakes_the_read()
            listeners = await await_connections(besides=sender, number=3)

            read = long_poll(b, topic, offset)
            await await_waiting_reads(b, 1)
            await cut(listeners)
            await await_connections(besides=sender, number=3)
            await append_wakes_the_read()

            read = long_poll(b, topic, offset)
            await await_waiting_reads(b, 1)
            await cut(set(await rows(other, NOTICES)))
            await append_wakes_the_read()
