"""Clients and nodes that are frozen or gone for a while: who keeps its partitions, and who is fenced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.e2e.lossy import parse, request_of
from tests.e2e.members import Member, described, partitions_in, stable
from tests.e2e.node import ROOT, Node, create_topic, parked, produce, running, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("group_client.py")
SESSION_MS = 3_000
SHORT_SESSION_MS = 2_000
ATTEMPT_S = 0.3
LOOKS = 20
SILENCE_S = 5.5
"""Longer than nodes may be silent before the silence of members stops to count."""


def pid_of(node: Node) -> int:
    assert node.process is not None
    return node.process.pid


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def consuming(node: Node, group: str, topic: str, member_id: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a consumer as a process."""
    arguments = [str(PROGRAM), node.url, group, topic, member_id, str(SESSION_MS)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return what a consumer says next, or an empty document at its end."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    document: dict[str, Any] = json.loads(line) if line else {}
    return document


async def committed(client: httpx2.AsyncClient, group: str) -> dict[int, int]:
    answer = await client.get(f"/v1/groups/{group}/offsets")
    return {one["partition"]: one["committed_offset"] for one in answer.json()["offsets"]}


async def append(client: httpx2.AsyncClient, topic: str, partitions: range) -> None:
    """Append a record to each partition."""
    records = [{"value": number, "partition": number} for number in partitions]
    answer = await client.post(f"/v1/topics/{topic}/records", json={"records": records})
    assert answer.status_code == 201, answer.text


@pytest.mark.postgres
async def test_a_consumer_frozen_beyond_its_session_loses_its_partitions_in_time_and_is_fenced(
    nodes: tuple[Node, Node], topic: str
) -> None:
    awake = Member(topic, "awake")
    async with nodes[0].client() as client, consuming(nodes[1], topic, topic, "sleeper") as process:
        await create_topic(client, topic, 4)
        await append(client, topic, range(4))
        await awake.join(client, topic)
        kept = await awake.settle(client, 2)
        while len(partitions_in((answer := await said(process))["assignment"])) < 2:
            assert answer["status"] in {200, 201}
        before = await committed(client, topic)

        with frozen(process.pid):
            began = time.monotonic()
            held = await awake.settle(client, 4, seconds=SESSION_MS / 1000 + 1)
            took = time.monotonic() - began
        said_late = []
        while answer := await said(process):
            said_late.append((answer["event"], answer["status"], answer.get("code")))
        after = await committed(client, topic)
        results = await client.get("/v1/topics/results")

    assert SESSION_MS / 1000 * 2 / 3 - 0.5 <= took <= SESSION_MS / 1000 + 1
    assert set(kept) < set(held)
    late = [one for one in said_late if one[1] == 409]
    assert {code for _, _, code in late} == {"UNKNOWN_MEMBER_ID"}
    assert [event for event, _, _ in late] == ["heartbeat", "commit", "transaction", "poll", "heartbeat"]
    assert said_late[-1][:2] == ("join", 201)
    assert before == after == dict.fromkeys(range(4), 0)
    assert results.status_code == 404


class Roaming:
    """Members that beat at one node after the other; a beat without an answer is sent to the other."""

    def __init__(self, group: str, urls: list[str], session_ms: int) -> None:
        self.urls = urls
        self.members = [Member(group, f"member-{number}") for number in range(6)]
        self.session_ms = session_ms
        self.unanswered = 0
        self._clients = [
            httpx2.AsyncClient(
                base_url=url, timeout=ATTEMPT_S, trust_env=False, limits=httpx2.Limits(max_connections=50)
            )
            for url in urls
        ]

    async def join(self, topic: str) -> None:
        """Join, until each has its own."""
        for member in self.members:
            await member.join(self._clients[-1], topic, session_timeout_ms=self.session_ms)
        await until(self._all_beat, lambda held: sorted(held) == [1] * 6)

    async def _all_beat(self) -> list[int]:
        return [len(await member.beat(self._clients[-1], await self._held(member))) for member in self.members]

    async def _held(self, member: Member) -> list[tuple[str, int]]:
        return await member.beat(self._clients[-1])

    async def beat_for(self, seconds: float) -> None:
        """Let all beat for some time; each beat must be answered by some node, and changes nothing."""
        until_s = time.monotonic() + seconds
        await asyncio.gather(*[self._beat(member, until_s) for member in self.members])

    async def _beat(self, member: Member, until_s: float) -> None:
        held = await self._anywhere(member, 1)
        number = 0
        while time.monotonic() < until_s:
            number += 1
            assert await self._anywhere(member, number) == held
            await asyncio.sleep(0.1)  # the time between two beats

    async def _anywhere(self, member: Member, number: int) -> list[tuple[str, int]]:
        for attempt in range(number, number + 10):
            try:
                return await member.beat(self._clients[attempt % len(self._clients)])
            except httpx2.TransportError:
                self.unanswered += 1
        raise AssertionError(f"{member.member_id}: no node answers")

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


async def facts(client: httpx2.AsyncClient, group: str) -> dict[str, Any]:
    """Return what no beat changes: epochs, and who holds what."""
    found = await described(client, group)
    members = {one["member_id"]: (one["member_epoch"], one["assignment"]) for one in found["members"]}
    return {"epoch": found["group_epoch"], "state": found["state"], "members": members}


@pytest.mark.postgres
async def test_members_keep_their_partitions_while_one_of_two_nodes_is_frozen(
    nodes: tuple[Node, Node], topic: str
) -> None:
    roaming = Roaming(topic, [node.url for node in nodes], SHORT_SESSION_MS)
    async with nodes[1].client() as client:
        await create_topic(client, topic, 6)
        await roaming.join(topic)
        before = await facts(client, topic)

        with frozen(pid_of(nodes[0])):
            await roaming.beat_for(SHORT_SESSION_MS / 1000 * 1.3)
        missed = roaming.unanswered
        await until(lambda: client.get("/readyz"), lambda answer: answer.status_code == 200)
        await roaming.beat_for(0.5)
        after = await facts(client, topic)
        await roaming.close()

    assert missed > 0
    assert before["state"] == "STABLE"
    assert after == before


@pytest.mark.slow
@pytest.mark.postgres
async def test_members_keep_their_partitions_when_a_node_is_killed_and_when_all_are_down(
    migrated_postgres_url: str, tmp_path: Path
) -> None:
    nodes = Node(migrated_postgres_url, tmp_path), Node(migrated_postgres_url, tmp_path)
    with running(*nodes):
        roaming = Roaming("group", [node.url for node in nodes], SHORT_SESSION_MS)
        async with nodes[1].client() as client:
            await create_topic(client, "topic", 6)
            await roaming.join("topic")
            before = await facts(client, "group")
            nodes[0].kill()
            await roaming.beat_for(SHORT_SESSION_MS / 1000 * 1.2)
            assert await facts(client, "group") == before
            assert roaming.unanswered > 0
        await roaming.close()

        nodes[1].kill()
        await passed(SILENCE_S)
        for node in nodes:
            node.spawn()
        for node in nodes:
            node.wait_until_ready()
        await all_have_a_full_session(nodes[0], "group", roaming.members, before)


async def test_members_keep_their_partitions_while_the_only_node_is_down(sqlite_url: str, tmp_path: Path) -> None:
    with Node(sqlite_url, tmp_path) as node:
        roaming = Roaming("group", [node.url], SHORT_SESSION_MS)
        async with node.client() as client:
            await create_topic(client, "topic", 6)
            await roaming.join("topic")
            before = await facts(client, "group")
        await roaming.close()

        node.kill()
        await passed(SHORT_SESSION_MS / 1000 + 0.3)
        node.start()
        await all_have_a_full_session(node, "group", roaming.members, before)


async def passed(seconds: float) -> None:
    """Let an outage last."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


async def all_have_a_full_session(node: Node, group: str, members: list[Member], before: dict[str, Any]) -> None:
    """Check that nobody is expired for an outage, and that who stays silent afterwards is."""
    ready = time.monotonic()
    silent, *others = members
    session_s = SHORT_SESSION_MS / 1000
    async with node.client() as client:
        while time.monotonic() < ready + session_s / 2:
            assert await facts(client, group) == before
        for member in others:
            await member.beat(client)
        assert await facts(client, group) == before

        async def left() -> bool:
            for member in others:
                await member.beat(client)
            return silent.member_id not in (await facts(client, group))["members"]

        await until(left, lambda found: found, seconds=ready + session_s + 3 - time.monotonic())
        assert time.monotonic() - ready > session_s * 2 / 3


@pytest.mark.postgres
@pytest.mark.parametrize("call", ["heartbeat", "poll"])
async def test_a_call_executed_late_gives_nothing_away(nodes: tuple[Node, Node], topic: str, call: str) -> None:
    """A node is frozen before it reads a call; its client goes on at the other, and gets more to work on."""
    names = "first", "second", "third", "fourth"
    first, second, third, fourth = (Member(topic, name) for name in names)
    async with nodes[1].client() as client:
        await create_topic(client, topic, 4)
        await append(client, topic, range(4))
        all_of_it = await first.join(client, topic)
        await second.join(client, topic)
        await until(lambda: first.beat(client, all_of_it), lambda found: len(found) == 2)
        await stable(client, topic)
        await second.beat(client, [])
        with frozen(pid_of(nodes[0])):
            late: dict[str, Any] = {"member_epoch": second.epoch} | ({"owned": []} if call == "heartbeat" else {})
            await send_and_leave(nodes[0], f"{second.path}/{call}", late)
            kept = await first.settle(client, 2)
            await until(lambda: second.beat(client, []), lambda found: len(found) == 2)
            work = await second.poll(client)
            await third.join(client, topic)
            await fourth.join(client, topic)
            await stable(client, topic)
            await first.settle(client, 1)
        async with nodes[0].client() as thawed:
            await until(lambda: thawed.get("/readyz"), lambda answer: answer.status_code == 200)
        for _ in range(LOOKS):
            taken = [one for member in (third, fourth) for one in await member.beat(client, [])]
            assert set(taken) & set(partitions_in(work["assignment"])) == set()

        # Only now the second learns of it, and gives up what it was working on.
        told = await second.beat(client, partitions_in(work["assignment"]))
        await second.settle(client, 1)
        await third.settle(client, 1)
        await fourth.settle(client, 1)

    assert len(kept) == len({record["partition"] for record in work["records"]}) == 2
    assert len(told) == 1


@pytest.mark.postgres
async def test_auto_commit_leaves_out_nothing_after_a_poll_whose_answer_nobody_got(
    nodes: tuple[Node, Node], topic: str
) -> None:
    """A network is cut while a poll waits; its client sends the next with auto_commit false, as documented."""
    path = f"/v1/groups/{topic}/members/alice/poll"
    wish = {"topics": [topic], "max_wait_ms": 4_000}
    async with nodes[0].client() as here, nodes[1].client() as there:
        await create_topic(there, topic, 1)
        assert (await there.post(path, json=wish | {"auto_commit": False, "max_wait_ms": 0})).status_code == 200
        reader, writer = await send(nodes[0], path, wish | {"auto_commit": True})
        await parked(here, 1)
        with frozen(pid_of(nodes[0])):
            await produce(there, topic, 0, 1, 2)
            again = await there.post(path, json=wish | {"auto_commit": False})
            await produce(there, topic, 3, 4)
        unseen = parse(await reader.read())
        writer.close()
        following = await there.post(path, json=wish | {"auto_commit": True, "max_wait_ms": 0})

    seen = [record["value"] for answer in (again, following) for record in answer.json()["records"]]
    assert unseen.document["code"] == "CONCURRENT_REQUEST"
    assert seen == [0, 1, 2, 3, 4]


async def send_and_leave(node: Node, path: str, document: dict[str, Any]) -> None:
    """Send a request to a node that is frozen, and close the connection."""
    _, writer = await send(node, path, document)
    writer.close()
    await writer.wait_closed()


async def send(node: Node, path: str, document: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request, and do not wait for its answer."""
    url = httpx2.URL(node.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request_of(node.url, "POST", path, json.dumps(document).encode(), {}))
    await writer.drain()
    return reader, writer
