"""A change of a topic on one node takes effect on the other node at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.support.api_calls import await_waiting_reads, create_topic, fetch, produce, read_topic
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    import httpx2

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

PRODUCER = {"Producer_Id": "checkout", "Producer_Epoch": "0"}


async def wait_for_records(client: httpx2.AsyncClient, path: str, **query: Any) -> httpx2.Response:
    """Read, and wait up to 20 s for a record."""
    return await client.get(path, params={"max_wait_ms": 20_000} | query)


async def test_waiting_reads_of_a_deleted_topic_are_404_on_both_nodes_and_a_new_topic_of_the_name_starts_at_0(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    path = f"/v1/topics/{topic}"
    partition = f"{path}/partitions/0/records"
    async with nodes[0].client() as a, nodes[1].client() as b:
        await create_topic(a, topic, 1)
        for _ in range(3):
            await produce(b, topic, "old", "old", Idempotency_Key="once")
            await produce(b, topic, "old", Producer_Sequence="0", **PRODUCER)
            cursor = (await fetch(b, f"{path}/records"))["next_cursor"]
            reads = [
                asyncio.create_task(wait_for_records(client, where, **query))
                for client in (a, b)
                for where, query in ((partition, {"offset": 3}), (f"{path}/records", {"cursor": cursor}))
            ]
            await asyncio.gather(await_waiting_reads(a, 2), await_waiting_reads(b, 2))

            assert (await a.delete(path)).status_code == 204
            assert (await a.put(path, json={"partitions": 1})).status_code == 201
            answers = [await read for read in reads]

            assert [answer.status_code for answer in answers] == [404] * 4
            assert {answer.json()["code"] for answer in answers} == {"UNKNOWN_TOPIC_OR_PARTITION"}
            assert (await b.get(f"{path}/records", params={"cursor": cursor})).status_code == 410
            # The old topic was in the cache of the other node.
            new = await produce(b, topic, "new", Idempotency_Key="once")
            assert [one["offset"] for one in new] == [0]
            assert [[record["value"] for record in records] for records in await read_topic(b, topic, [0])] == [["new"]]
            newer = await produce(b, topic, "newer", Producer_Sequence="0", **PRODUCER)
            assert [one["offset"] for one in newer] == [1]
            assert [len(records) for records in await read_topic(a, topic, [0])] == [2]
            await a.delete(path)
            await create_topic(a, topic, 1)


async def test_a_topic_deleted_on_one_node_is_404_on_the_other(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    path = f"/v1/topics/{topic}"
    async with nodes[0].client() as a, nodes[1].client() as b:
        await create_topic(a, topic, 1)
        await produce(b, topic, "old")
        await a.delete(path)

        gone = [await b.get(f"{path}{rest}") for rest in ("", "/records", "/partitions", "/partitions/0/records")]

        assert [answer.status_code for answer in gone] == [404] * 4


async def test_partitions_added_on_one_node_are_written_and_read_on_the_other_at_once(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    path = f"/v1/topics/{topic}"
    keyed = {"records": [{"key": f"key {number}", "value": number} for number in range(64)]}
    async with nodes[0].client() as a, nodes[1].client() as b:
        await create_topic(a, topic, 2)
        before = await b.post(f"{path}/records", json=keyed)
        read = asyncio.create_task(
            wait_for_records(b, f"{path}/records", cursor=(await fetch(b, f"{path}/records"))["next_cursor"])
        )
        await await_waiting_reads(b, 1)

        grown = await a.patch(path, json={"partitions": 8})
        explicit = await b.post(f"{path}/partitions/7/records", json={"value": "explicit"})
        woken = await read
        page = await fetch(b, f"{path}/partitions/6/records")
        after = await b.post(f"{path}/records", json=keyed)

    assert (grown.status_code, explicit.status_code, page["records"]) == (200, 201, [])
    assert [record["value"] for record in woken.json()["records"]] == ["explicit"]
    assert {one["partition"] for one in before.json()["offsets"]} == {0, 1}
    assert {one["partition"] for one in after.json()["offsets"]} == set(range(8))


async def test_a_configuration_changed_on_one_node_applies_on_the_other(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    path = f"/v1/topics/{topic}"
    async with nodes[0].client() as a, nodes[1].client() as b:
        await create_topic(a, topic, 1)
        await produce(b, topic, "x" * 200)
        await a.patch(path, json={"config": {"max_message_bytes": 100}})

        refused = await b.post(f"{path}/records", json={"value": "x" * 200})
        await a.patch(path, json={"config": {"max_message_bytes": None}})
        accepted = await b.post(f"{path}/records", json={"value": "x" * 200})

    assert (refused.status_code, refused.json()["code"]) == (413, "MESSAGE_TOO_LARGE")
    assert accepted.status_code == 201
