"""A rebalance reaches the members on either node. The nodes of these tests poll the database once a minute."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.support.api_calls import await_waiting_reads, create_topic
from tests.e2e.support.group_member import Assignment, GroupMember, partitions_in
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.e2e.support.server_process import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

SHORT_WAIT_MS = 50
LONG_WAIT_MS = 60_000


class PollingMember:
    """A member whose polls wait for a change of the assignment, one after the other.

    A poll of a member without partitions ends with its first record, not with a new assignment: such a member polls
    with a short wait, unless `waits_without_partitions`.
    """

    def __init__(
        self, client: httpx2.AsyncClient, group: str, name: str, *, waits_without_partitions: bool = False
    ) -> None:
        self.member = GroupMember(group, name)
        self.client = client
        self.assignment: Assignment = []
        self.values: list[int] = []
        self.waits_without_partitions = waits_without_partitions

    async def run(self) -> None:
        """Poll until cancelled."""
        page: dict[str, Any] = {"next_offsets": []}
        while True:
            wait_ms = LONG_WAIT_MS if self.assignment or self.waits_without_partitions else SHORT_WAIT_MS
            page = await self.member.poll(self.client, max_wait_ms=wait_ms, commit=page["next_offsets"])
            self.assignment = partitions_in(page["assignment"])
            self.values += [record["value"] for record in page["records"]]


@asynccontextmanager
async def polling_on_each_node(
    nodes: tuple[ServerProcess, ServerProcess], group: str, *, waits_without_partitions: bool = False, **options: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, PollingMember, PollingMember]]:
    """Run a member on each node; give a client of the second node with them."""
    async with nodes[0].client() as here, nodes[1].client() as there, asyncio.TaskGroup() as tasks:
        members = [
            PollingMember(client, group, name, waits_without_partitions=waits_without_partitions)
            for client, name in ((here, "here"), (there, "there"))
        ]
        for one in members:
            one.assignment = await one.member.join(one.client, **options)
        running = [tasks.create_task(one.run()) for one in members]
        yield there, members[0], members[1]
        for task in running:
            task.cancel()


async def assert_assigned(*expected: tuple[PollingMember, int]) -> None:
    """Wait until members have so many partitions, and assert that no partition has two owners."""

    async def sizes() -> list[int]:
        return [len(one.assignment) for one, _ in expected]

    await until(sizes, lambda found: found == [number for _, number in expected])
    assigned = [partition for one, _ in expected for partition in one.assignment]
    assert len(assigned) == len(set(assigned))


async def await_waiting_polls(nodes: tuple[ServerProcess, ServerProcess]) -> None:
    """Wait until a poll waits on each node."""
    for node in nodes:
        async with node.client() as client:
            await await_waiting_reads(client, 1)


async def test_a_join_and_a_leave_reach_the_members_on_both_nodes(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    async with nodes[0].client() as client:
        await create_topic(client, topic, 6)
    async with polling_on_each_node(nodes, topic, topics=[topic]) as (client, here, there):
        await assert_assigned((here, 3), (there, 3))
        await await_waiting_polls(nodes)
        third = PollingMember(client, topic, "third")
        third.assignment = await third.member.join(client, topic)
        polling = asyncio.create_task(third.run())
        await assert_assigned((here, 2), (there, 2), (third, 2))

        await await_waiting_polls(nodes)
        polling.cancel()
        await asyncio.wait([polling])
        await third.member.leave(client)
        await assert_assigned((here, 3), (there, 3))


async def test_added_partitions_reach_the_members_on_both_nodes(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    async with nodes[0].client() as client:
        await create_topic(client, topic, 2)
    async with polling_on_each_node(nodes, topic, topics=[topic]) as (client, here, there):
        await assert_assigned((here, 1), (there, 1))
        await await_waiting_polls(nodes)

        grown = await client.patch(f"/v1/topics/{topic}", json={"partitions": 8})

        await assert_assigned((here, 4), (there, 4))
        assert grown.status_code == 200


async def test_created_and_deleted_topics_reach_the_members_on_both_nodes(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    later = f"{topic}.later"
    async with nodes[0].client() as client:
        await create_topic(client, f"{topic}.first", 2)
    async with polling_on_each_node(nodes, topic, topics=[], topic_pattern=f"{topic}.*") as (client, here, there):
        await assert_assigned((here, 1), (there, 1))
        await await_waiting_polls(nodes)
        await create_topic(client, later, 4)
        await assert_assigned((here, 3), (there, 3))
        assert sum(name == later for name, _ in here.assignment + there.assignment) == 4

        await await_waiting_polls(nodes)
        await client.delete(f"/v1/topics/{later}")
        await assert_assigned((here, 1), (there, 1))
        history = await client.get(f"/v1/groups/{topic}/rebalances")

    assert [one["reasons"] for one in history.json()["rebalances"][:2]] == [["topic_deleted"], ["topic_created"]]


async def test_a_topic_that_is_subscribed_before_it_exists_is_read_once_it_is_created(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    async with polling_on_each_node(nodes, topic, waits_without_partitions=True, topics=[topic]) as each:
        client, here, there = each
        await await_waiting_polls(nodes)

        records = [{"value": number, "partition": number} for number in range(4)]
        answer = await client.post(f"/v1/topics/{topic}/records", json={"records": records})

        async def received() -> list[int]:
            return sorted(here.values + there.values)

        await assert_assigned((here, 2), (there, 2))
        await until(received, lambda found: found == [0, 1, 2, 3])
        assert answer.status_code == 201
