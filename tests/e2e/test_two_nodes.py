"""Two processes on one PostgreSQL: one log, in one order, wherever it is written and read."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from app.storage.db.postgres import _LOCK_CLASS
from app.storage.db.tables import OFFSET_BITS
from tests.e2e.conftest import NO_POLL
from tests.e2e.node import Node, create_topic, fetch, parked, produce, read_topic, running, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import httpx2

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

PARTITIONS = 2
WRITERS_OF_A_NODE = 2
REQUESTS_OF_A_WRITER = 40
SLOW_TRANSACTIONS = 5

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


class Written(NamedTuple):
    """An acknowledged record, with the moments around its request."""

    offset: int
    value: str
    sent: float
    acknowledged: float


def path_of(topic: str, partition: int) -> str:
    return f"/v1/topics/{topic}/partitions/{partition}/records"


async def write(client: httpx2.AsyncClient, path: str, writer: str) -> list[Written]:
    """Append requests of one to three records, one after the other."""
    written = []
    for number in range(REQUESTS_OF_A_WRITER):
        values = [f"{writer}.{number}.{i}" for i in range(1 + number % 3)]
        sent = time.monotonic()
        answer = await client.post(path, json={"records": [{"value": value} for value in values]})
        acknowledged = time.monotonic()
        assert answer.status_code == 201, answer.text
        offsets = [place["offset"] for place in answer.json()["offsets"]]
        assert offsets == list(range(offsets[0], offsets[0] + len(values)))
        written += [Written(*pair, sent, acknowledged) for pair in zip(offsets, values, strict=True)]
    return written


async def follow(client: httpx2.AsyncClient, path: str, last: asyncio.Event) -> list[str]:
    """Follow a partition by long polls until `last` is set and the end is reached."""
    seen: list[str] = []
    while True:
        finished = last.is_set()
        page = await fetch(client, path, offset=len(seen), max_records=7, max_wait_ms=300)
        records = page["records"]
        assert [record["offset"] for record in records] == list(range(len(seen), len(seen) + len(records)))
        seen += [record["value"] for record in records]
        if finished and not records:
            assert page["log_end_offset"] == len(seen)
            return seen


async def append_slowly(url: str, partition_ids: Sequence[int]) -> list[str]:
    """Append records as a node would, each in a transaction that commits only when a node waits for it."""
    values = []
    for number in range(SLOW_TRANSACTIONS):
        partition_id = partition_ids[number % len(partition_ids)]
        values.append(f"slow {number}")
        async with await psycopg.AsyncConnection.connect(url) as slow, await connect(url) as observer:
            await slow.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCK_CLASS, partition_id))
            inserted = await slow.execute(SLOW_APPEND, (f'"slow {number}"'.encode(), partition_id + 1))
            assert inserted.rowcount == 1
            await until(lambda: rows(observer, WAITERS), lambda found: found[0] >= 1)
            await slow.commit()
    return values


async def connect(url: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(url, autocommit=True)


async def rows(connection: psycopg.AsyncConnection, query: str) -> list[Any]:
    """Return the first column."""
    return [row[0] for row in await (await connection.execute(query)).fetchall()]


def in_order_of_commit(written: list[Written]) -> bool:
    """Tell whether each record lies above all that were acknowledged before it was sent."""
    earliest_above = float("inf")
    for record in sorted(written, reverse=True):
        if earliest_above < record.sent:
            return False
        earliest_above = min(earliest_above, record.acknowledged)
    return True


async def test_readers_on_both_nodes_see_every_record_once_and_in_order_beside_slow_transactions(
    nodes: tuple[Node, Node], shared_url: str, topic: str
) -> None:
    last = asyncio.Event()
    paths = [path_of(topic, partition) for partition in range(PARTITIONS)]
    async with nodes[0].client() as a, nodes[1].client() as b, await connect(shared_url) as other:
        await create_topic(a, topic, PARTITIONS)
        for path in paths:
            assert (await a.post(path, json={"value": "first"})).status_code == 201
        ids = await rows(other, PARTITION_IDS.format(topic))
        async with await psycopg.AsyncConnection.connect(shared_url) as snapshot, asyncio.TaskGroup() as group:
            await snapshot.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            before = await rows(snapshot, COUNT)
            readers = [[group.create_task(follow(client, path, last)) for client in (a, b)] for path in paths]
            slow = group.create_task(append_slowly(shared_url, ids))
            writers = [
                [
                    group.create_task(write(client, path, f"{node}.{writer}"))
                    for node, client in enumerate((a, b))
                    for writer in range(WRITERS_OF_A_NODE)
                ]
                for path in paths
            ]
            written = [[record for task in tasks for record in await task] for tasks in writers]
            more = 0
            while not slow.done():  # it waits for somebody whom it makes wait
                more += 1
                assert (await b.post(paths[more % PARTITIONS], json={"value": "more"})).status_code == 201
            last.set()
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


async def answered_with(read: asyncio.Task[dict[str, Any]]) -> list[Any]:
    return [record["value"] for record in (await read)["records"]]


def long_poll(client: httpx2.AsyncClient, topic: str, offset: int) -> asyncio.Task[dict[str, Any]]:
    """Park a read on partition 0 for 20 s: a third of the time after which the node would look by itself."""
    return asyncio.create_task(fetch(client, path_of(topic, 0), offset=offset, max_wait_ms=20_000))


async def test_an_append_on_one_node_answers_a_read_parked_on_the_other(nodes: tuple[Node, Node], topic: str) -> None:
    async with nodes[0].client() as a, nodes[1].client() as b:
        await create_topic(a, topic, 1)
        for offset in range(6):
            here, there = (a, b) if offset % 2 else (b, a)
            read = long_poll(there, topic, offset)
            await parked(there, 1)
            await produce(here, topic, f"record {offset}")

            assert await answered_with(read) == [f"record {offset}"]


async def test_nodes_whose_notices_were_cut_off_hear_each_other_again(
    migrated_postgres_url: str, tmp_path: Path, topic: str
) -> None:
    a_node, b_node = (Node(migrated_postgres_url, tmp_path, settings=NO_POLL) for _ in range(2))
    with running(a_node, b_node):
        async with a_node.client() as a, b_node.client() as b, await connect(migrated_postgres_url) as other:
            await create_topic(a, topic, 1)
            offset = 0

            async def heard() -> None:
                nonlocal offset
                await produce(a, topic, offset)
                assert await answered_with(read) == [offset]
                offset += 1

            async def cut_off(pids: set[int]) -> None:
                await other.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [list(pids)])
                await until(lambda: rows(other, NOTICES), lambda found: not pids & set(found))

            async def connected(*, besides: set[int], number: int) -> set[int]:
                found = await until(
                    lambda: rows(other, NOTICES), lambda found: len(found) == number and besides <= set(found)
                )
                return set(found) - besides

            read = long_poll(b, topic, offset)
            await parked(b, 1)
            await heard()
            # Both nodes listen, and the first has opened a connection to tell of its record.
            *listening, sending = await until(lambda: rows(other, NOTICES), lambda found: len(found) == 3)
            listeners, sender = set(listening), {sending}

            read = long_poll(b, topic, offset)
            await parked(b, 1)
            await cut_off(sender)
            await heard()
            sender = await connected(besides=listeners, number=3)

            read = long_poll(b, topic, offset)
            await parked(b, 1)
            await cut_off(listeners)
            await heard()
            listeners = await connected(besides=sender, number=3)

            read = long_poll(b, topic, offset)
            await parked(b, 1)
            await cut_off(listeners)
            await connected(besides=sender, number=3)
            await heard()

            read = long_poll(b, topic, offset)
            await parked(b, 1)
            await cut_off(set(await rows(other, NOTICES)))
            await heard()
