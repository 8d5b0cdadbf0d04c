"""How soon the members of a group hear of a rebalance, on either node, by notice and by nothing else.

The nodes of these tests look for lost notices only once a minute, and the heartbeat interval of the members is
5 s: a parked poll that answers sooner was woken.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.members import Assignment, Member, partitions_in
from tests.e2e.node import create_topic, parked, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.e2e.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

SHORT_WAIT_MS = 50
REACTION_S = 2.0
"""About a second (a group is assigned once a second, topics are looked at every 250 ms), and the noise of tests."""


class Listener:
    """A member whose polls wait for another assignment, one after the other.

    One that has nothing waits for its first record, by the rules of polls; so it asks more often what it has, unless
    it is patient.
    """

    def __init__(self, client: httpx2.AsyncClient, group: str, name: str, *, patient: bool = False) -> None:
        self.member = Member(group, name)
        self.client = client
        self.held: Assignment = []
        self.values: list[int] = []
        self.patient = patient

    async def run(self) -> None:
        """Poll for ever."""
        page: dict[str, Any] = {"next_offsets": []}
        while True:
            wait_ms = 60_000 if self.held or self.patient else SHORT_WAIT_MS
            page = await self.member.poll(self.client, max_wait_ms=wait_ms, commit=page["next_offsets"])
            self.held = partitions_in(page["assignment"])
            self.values += [record["value"] for record in page["records"]]


@asynccontextmanager
async def listening(
    nodes: tuple[Node, Node], group: str, *, patient: bool = False, **wish: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Listener, Listener]]:
    """Run a member on each node, both parked; the client is of the second node."""
    async with nodes[0].client() as here, nodes[1].client() as there, asyncio.TaskGroup() as tasks:
        listeners = [
            Listener(client, group, name, patient=patient) for client, name in ((here, "here"), (there, "there"))
        ]
        for one in listeners:
            one.held = await one.member.join(one.client, **wish)
        running = [tasks.create_task(one.run()) for one in listeners]
        yield there, listeners[0], listeners[1]
        for task in running:
            task.cancel()


async def in_time(*expected: tuple[Listener, int]) -> None:
    """Wait until members hold so many partitions, and check that it does not take long."""

    async def look() -> list[int]:
        return [len(one.held) for one, _ in expected]

    await until(look, lambda found: found == [number for _, number in expected], seconds=REACTION_S)
    held = [partition for one, _ in expected for partition in one.held]
    assert len(held) == len(set(held))


async def still(nodes: tuple[Node, Node]) -> None:
    """Wait until a poll is parked on each node."""
    for node in nodes:
        async with node.client() as client:
            await parked(client, 1)


async def test_members_on_both_nodes_hear_of_a_join_and_a_leave(nodes: tuple[Node, Node], topic: str) -> None:
    async with nodes[0].client() as client:
        await create_topic(client, topic, 6)
    async with listening(nodes, topic, topics=[topic]) as (client, here, there):
        await in_time((here, 3), (there, 3))
        await still(nodes)
        third = Listener(client, topic, "third")
        third.held = await third.member.join(client, topic)
        polling = asyncio.create_task(third.run())
        await in_time((here, 2), (there, 2), (third, 2))

        await still(nodes)
        polling.cancel()
        await asyncio.wait([polling])
        await third.member.leave(client)
        await in_time((here, 3), (there, 3))


async def test_members_on_both_nodes_hear_of_a_grown_topic(nodes: tuple[Node, Node], topic: str) -> None:
    async with nodes[0].client() as client:
        await create_topic(client, topic, 2)
    async with listening(nodes, topic, topics=[topic]) as (client, here, there):
        await in_time((here, 1), (there, 1))
        await still(nodes)

        grown = await client.patch(f"/v1/topics/{topic}", json={"partitions": 8})

        await in_time((here, 4), (there, 4))
        assert grown.status_code == 200


async def test_members_on_both_nodes_hear_of_topics_that_are_created_and_deleted(
    nodes: tuple[Node, Node], topic: str
) -> None:
    later = f"{topic}.later"
    async with nodes[0].client() as client:
        await create_topic(client, f"{topic}.first", 2)
    async with listening(nodes, topic, topics=[], topic_pattern=f"{topic}.*") as (client, here, there):
        await in_time((here, 1), (there, 1))
        await still(nodes)
        await create_topic(client, later, 4)
        await in_time((here, 3), (there, 3))
        assert sum(name == later for name, _ in here.held + there.held) == 4

        await still(nodes)
        await client.delete(f"/v1/topics/{later}")
        await in_time((here, 1), (there, 1))
        history = await client.get(f"/v1/groups/{topic}/rebalances")

    assert [one["reasons"] for one in history.json()["rebalances"][:2]] == [["topic_deleted"], ["topic_created"]]


async def test_a_topic_that_a_member_named_before_it_existed_is_read_once_it_is_there(
    nodes: tuple[Node, Node], topic: str
) -> None:
    async with listening(nodes, topic, patient=True, topics=[topic]) as (client, here, there):
        await still(nodes)

        records = [{"value": number, "partition": number} for number in range(4)]
        answer = await client.post(f"/v1/topics/{topic}/records", json={"records": records})

        await in_time((here, 2), (there, 2))
        await until(lambda: asyncio.sleep(0, sorted(here.values + there.values)), lambda found: found == [0, 1, 2, 3])
        assert answer.status_code == 201
