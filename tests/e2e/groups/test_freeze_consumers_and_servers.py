"""Consumers and servers that are frozen or down for a while: which members keep their partitions, which are fenced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.checkout import ROOT
from tests.e2e.support.api_calls import await_ready, await_waiting_reads, create_topic, produce
from tests.e2e.support.group_member import GroupMember, await_assignment, describe, partitions_in
from tests.e2e.support.raw_http import parse, send, send_and_close
from tests.e2e.support.server_process import ServerProcess, frozen, running
from tests.waiting import pause, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

CONSUMER_PROGRAM = ROOT / "tests" / "e2e" / "support" / "consumer_process.py"
SESSION_MS = 3_000
SHORT_SESSION_MS = 2_000
SHORT_SESSION_S = SHORT_SESSION_MS / 1000
REQUEST_TIMEOUT_S = 0.3
HEARTBEAT_INTERVAL_S = 0.1
REPEATED_HEARTBEATS = 20
CLUSTER_SILENCE_S = 5.5
"""An outage of all nodes that is long enough to extend the session of every member."""


@contextlib.asynccontextmanager
async def consumer_process(
    node: ServerProcess, group: str, topic: str, member_id: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a consumer as a process."""
    arguments = [str(CONSUMER_PROGRAM), node.url, group, topic, member_id, str(SESSION_MS)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def next_event(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the next event that a consumer prints, or an empty document at its end."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    document: dict[str, Any] = json.loads(line) if line else {}
    return document


async def committed_offsets(client: httpx2.AsyncClient, group: str) -> dict[int, int]:
    answer = await client.get(f"/v1/groups/{group}/offsets")
    return {one["partition"]: one["committed_offset"] for one in answer.json()["offsets"]}


async def append_to_each(client: httpx2.AsyncClient, topic: str, partitions: range) -> None:
    """Append a record to each partition."""
    records = [{"value": number, "partition": number} for number in partitions]
    answer = await client.post(f"/v1/topics/{topic}/records", json={"records": records})
    assert answer.status_code == 201, answer.text


@pytest.mark.postgres
async def test_a_consumer_frozen_beyond_its_session_loses_its_partitions_in_time_and_is_fenced(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    awake = GroupMember(topic, "awake")
    async with nodes[0].client() as client, consumer_process(nodes[1], topic, topic, "sleeper") as process:
        await create_topic(client, topic, 4)
        await append_to_each(client, topic, range(4))
        await awake.join(client, topic)
        kept = await awake.reconcile(client, 2)
        while len(partitions_in((event := await next_event(process))["assignment"])) < 2:
            assert event["status"] in {200, 201}
        before = await committed_offsets(client, topic)

        with frozen(process.pid):
            began = time.monotonic()
            owned = await awake.reconcile(client, 4)
            took = time.monotonic() - began
        late_events = []
        while event := await next_event(process):
            late_events.append((event["event"], event["status"], event.get("code")))
        after = await committed_offsets(client, topic)
        results = await client.get("/v1/topics/results")

    assert took >= SESSION_MS / 1000 * 2 / 3 - 0.5
    assert set(kept) < set(owned)
    errors = [(event, code) for event, status, code in late_events if status == 409]
    assert {code for _, code in errors} == {"UNKNOWN_MEMBER_ID"}
    assert [event for event, _ in errors] == ["heartbeat", "commit", "transaction", "poll", "heartbeat"]
    assert late_events[-1][:2] == ("join", 201)
    assert before == after == dict.fromkeys(range(4), 0)
    assert results.status_code == 404


class RoamingMembers:
    """Members that send each heartbeat to the next node, and an unanswered one again to the node after that."""

    def __init__(self, group: str, urls: list[str], session_ms: int) -> None:
        self.urls = urls
        self.members = [GroupMember(group, f"member-{number}") for number in range(6)]
        self.session_ms = session_ms
        self.unanswered = 0
        self._clients = [
            httpx2.AsyncClient(
                base_url=url, timeout=REQUEST_TIMEOUT_S, trust_env=False, limits=httpx2.Limits(max_connections=50)
            )
            for url in urls
        ]

    async def join(self, topic: str) -> None:
        """Join, and wait until each member has one partition."""
        client = self._clients[-1]
        for member in self.members:
            await member.join(client, topic, session_timeout_ms=self.session_ms)

        async def heartbeats() -> list[int]:
            return [len(await one.heartbeat(client, await one.heartbeat(client))) for one in self.members]

        await until(heartbeats, lambda owned: owned == [1] * 6)

    async def heartbeat_for(self, seconds: float) -> None:
        """Send heartbeats of all members for some time: each is answered by a node, with the same assignment."""
        until_s = time.monotonic() + seconds
        await asyncio.gather(*[self._heartbeat_until(member, until_s) for member in self.members])

    async def _heartbeat_until(self, member: GroupMember, until_s: float) -> None:
        owned = await self._heartbeat(member, 1)
        number = 0
        while time.monotonic() < until_s:
            number += 1
            assert await self._heartbeat(member, number) == owned
            await pause(HEARTBEAT_INTERVAL_S)

    async def _heartbeat(self, member: GroupMember, number: int) -> list[tuple[str, int]]:
        for attempt in range(number, number + 10):
            try:
                return await member.heartbeat(self._clients[attempt % len(self._clients)])
            except httpx2.TransportError:
                self.unanswered += 1
        raise AssertionError(f"{member.member_id}: no node answers")

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


async def membership(client: httpx2.AsyncClient, group: str) -> dict[str, Any]:
    """Return what a heartbeat does not change: epochs and assignments."""
    found = await describe(client, group)
    members = {one["member_id"]: (one["member_epoch"], one["assignment"]) for one in found["members"]}
    return {"epoch": found["group_epoch"], "state": found["state"], "members": members}


@pytest.mark.postgres
async def test_members_keep_their_partitions_while_one_of_two_nodes_is_frozen(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    roaming = RoamingMembers(topic, [node.url for node in nodes], SHORT_SESSION_MS)
    async with nodes[1].client() as client:
        await create_topic(client, topic, 6)
        await roaming.join(topic)
        before = await membership(client, topic)

        with frozen(nodes[0].pid):
            await roaming.heartbeat_for(SHORT_SESSION_S * 1.3)
        missed = roaming.unanswered
        await await_ready(client)
        await roaming.heartbeat_for(0.5)
        after = await membership(client, topic)
        await roaming.close()

    assert missed > 0
    assert before["state"] == "STABLE"
    assert after == before


@pytest.mark.slow
@pytest.mark.postgres
async def test_members_keep_their_partitions_when_a_node_is_killed_and_when_all_are_down(
    migrated_postgres_url: str, tmp_path: Path
) -> None:
    nodes = ServerProcess(migrated_postgres_url, tmp_path), ServerProcess(migrated_postgres_url, tmp_path)
    with running(*nodes):
        roaming = RoamingMembers("group", [node.url for node in nodes], SHORT_SESSION_MS)
        async with nodes[1].client() as client:
            await create_topic(client, "topic", 6)
            await roaming.join("topic")
            before = await membership(client, "group")
            nodes[0].kill()
            await roaming.heartbeat_for(SHORT_SESSION_S * 1.2)
            assert await membership(client, "group") == before
            assert roaming.unanswered > 0
        await roaming.close()

        nodes[1].kill()
        await pause(CLUSTER_SILENCE_S)
        for node in nodes:
            node.spawn()
        for node in nodes:
            node.wait_until_ready()
        await assert_sessions_start_anew(nodes[0], "group", roaming.members, before)


async def test_members_keep_their_partitions_while_the_only_node_is_down(sqlite_url: str, tmp_path: Path) -> None:
    with ServerProcess(sqlite_url, tmp_path) as node:
        roaming = RoamingMembers("group", [node.url], SHORT_SESSION_MS)
        async with node.client() as client:
            await create_topic(client, "topic", 6)
            await roaming.join("topic")
            before = await membership(client, "group")
        await roaming.close()

        node.kill()
        await pause(SHORT_SESSION_S + 0.3)
        node.start()
        await assert_sessions_start_anew(node, "group", roaming.members, before)


async def assert_sessions_start_anew(
    node: ServerProcess, group: str, members: list[GroupMember], before: dict[str, Any]
) -> None:
    """Assert that no member is expired for the outage, and that one without heartbeats after it is."""
    ready = time.monotonic()
    silent, *others = members
    async with node.client() as client:
        while time.monotonic() < ready + SHORT_SESSION_S / 2:
            assert await membership(client, group) == before
        for member in others:
            await member.heartbeat(client)
        assert await membership(client, group) == before

        async def is_expired() -> bool:
            for member in others:
                await member.heartbeat(client)
            return silent.member_id not in (await membership(client, group))["members"]

        await until(is_expired, bool)
        assert time.monotonic() - ready > SHORT_SESSION_S * 2 / 3


@pytest.mark.postgres
@pytest.mark.parametrize("call", ["heartbeat", "poll"])
async def test_a_call_executed_late_releases_no_partition(
    nodes: tuple[ServerProcess, ServerProcess], topic: str, call: str
) -> None:
    """A node is frozen before it reads a call; the member goes on at the other node, and is assigned more."""
    names = "first", "second", "third", "fourth"
    first, second, third, fourth = (GroupMember(topic, name) for name in names)
    async with nodes[1].client() as client:
        await create_topic(client, topic, 4)
        await append_to_each(client, topic, range(4))
        all_partitions = await first.join(client, topic)
        await second.join(client, topic)
        await until(lambda: first.heartbeat(client, all_partitions), lambda found: len(found) == 2)
        await await_assignment(client, topic)
        await second.heartbeat(client, [])
        with frozen(nodes[0].pid):
            late: dict[str, Any] = {"member_epoch": second.epoch} | ({"owned": []} if call == "heartbeat" else {})
            await send_and_close(nodes[0].url, f"{second.path}/{call}", late)
            kept = await first.reconcile(client, 2)
            await until(lambda: second.heartbeat(client, []), lambda found: len(found) == 2)
            page = await second.poll(client)
            await third.join(client, topic)
            await fourth.join(client, topic)
            await await_assignment(client, topic)
            await first.reconcile(client, 1)
        async with nodes[0].client() as continued:
            await await_ready(continued)
        for _ in range(REPEATED_HEARTBEATS):
            taken = [one for member in (third, fourth) for one in await member.heartbeat(client, [])]
            assert set(taken) & set(partitions_in(page["assignment"])) == set()

        # Only the answer to this heartbeat revokes a partition of its page.
        remaining = await second.heartbeat(client, partitions_in(page["assignment"]))
        await second.reconcile(client, 1)
        await third.reconcile(client, 1)
        await fourth.reconcile(client, 1)

    assert len(kept) == len({record["partition"] for record in page["records"]}) == 2
    assert len(remaining) == 1


@pytest.mark.postgres
async def test_auto_commit_skips_no_record_after_a_poll_whose_answer_was_lost(
    nodes: tuple[ServerProcess, ServerProcess], topic: str
) -> None:
    """The connection of a waiting poll is cut; the next poll has auto_commit false, as documented."""
    path = f"/v1/groups/{topic}/members/alice/poll"
    request = {"topics": [topic], "max_wait_ms": 4_000}
    async with nodes[0].client() as here, nodes[1].client() as there:
        await create_topic(there, topic, 1)
        assert (await there.post(path, json=request | {"auto_commit": False, "max_wait_ms": 0})).status_code == 200
        reader, writer = await send(nodes[0].url, path, request | {"auto_commit": True})
        await await_waiting_reads(here, 1)
        with frozen(nodes[0].pid):
            await produce(there, topic, 0, 1, 2)
            repeated = await there.post(path, json=request | {"auto_commit": False})
            await produce(there, topic, 3, 4)
        lost = parse(await reader.read())
        writer.close()
        following = await there.post(path, json=request | {"auto_commit": True, "max_wait_ms": 0})

    received = [record["value"] for answer in (repeated, following) for record in answer.json()["records"]]
    assert lost.document["code"] == "CONCURRENT_REQUEST"
    assert received == [0, 1, 2, 3, 4]
