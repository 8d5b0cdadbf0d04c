"""Beats answered from memory: what a node remembers of a member is what the database says of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.broker.log.topics import TopicRequest
from app.errors.broker_error import BrokerError
from app.storage.groups import members
from tests.broker.node import Node

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from app.storage.groups.members import MemberSnapshot

SESSION_MS = 45_000
CLOCKS_MS = 1_000
"""The most that passes between looking at one clock and at the other."""
NAMES = st.sampled_from(["alice", "bob", "carol", "dora"])
NODES = st.integers(0, 1)


def connect(nodes: Sequence[Node]) -> None:
    """Let each node hear at once what the others announce."""
    for node in nodes:
        hearers = [other.services.signals for other in nodes if other is not node]
        node.services.signals._forward = lambda ids, hearers=hearers: [one.wake(ids) for one in hearers]  # type: ignore[assignment] # its answer is not looked at
        node.services.signals.receives_all = True


async def stable(node: Node) -> int:
    """Let alice join, and beat until she is remembered, if she is to be. Return her epoch."""
    await node.create()
    epoch = (await node.join("alice")).member.member_epoch
    for _ in range(2):
        await node.heartbeat("alice", epoch)
    return epoch


@pytest.mark.anyio
async def test_a_beat_of_a_stable_member_reads_nothing(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    node.reads = node.writes = 0

    for _ in range(3):
        assert (await node.heartbeat("alice", epoch)).member.member_epoch == epoch

    assert (node.reads, node.writes) == (0, 0)


@pytest.mark.anyio
async def test_a_session_is_renewed_again_and_again_without_a_read(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    node.reads = node.writes = 0

    for _ in range(12):
        await node.pass_time(SESSION_MS // 3)
        await node.heartbeat("alice", epoch)
        await node.groups.drain()

    assert (node.reads, node.writes) == (0, 24)  # half of them age the database
    await node.groups.tick()
    await node.groups.rebalance()
    assert "alice" in (await node.group()).members


@pytest.mark.anyio
async def test_a_member_that_has_other_than_it_should_is_not_remembered(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    await node.join("bob")
    await node.settle()
    await node.heartbeat("alice", epoch)
    node.reads = 0

    for _ in range(3):
        assert (await node.heartbeat("alice", epoch)).member.revoking

    assert node.reads == 3


@pytest.mark.anyio
async def test_a_read_that_an_announcement_overtook_is_not_remembered(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    node.services.signals.wake_all()
    await node.heartbeat("alice", epoch)  # from now on the group's announcements are heard
    read, held = node.storage.read, asyncio.Event()

    async def late(query: Any, *args: Any, **kwargs: Any) -> Any:
        found = await read(query, *args, **kwargs)
        await held.wait()
        return found

    node.storage.read = late  # type: ignore[method-assign] # the real one, held up
    heartbeat = asyncio.create_task(node.heartbeat("alice", epoch))
    await asyncio.sleep(0.05)
    node.storage.read = read  # type: ignore[method-assign] # the real one again
    await node.join("bob")
    await node.settle()
    held.set()
    assert (await heartbeat).assignment_epoch == epoch

    assert (await node.heartbeat("alice", epoch)).assignment_epoch > epoch


@pytest.mark.postgres
@pytest.mark.anyio
async def test_a_notice_that_was_lost_is_made_good_by_the_next_renewal(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    connect(nodes)
    epoch = await stable(here)
    there.services.signals._forward = None
    await there.join("bob")
    await there.settle()
    assert (await here.heartbeat("alice", epoch)).assignment_epoch == epoch

    here._passed_ms += SESSION_MS // 3 + 2_000
    assert (await here.heartbeat("alice", epoch)).assignment_epoch == epoch
    await here.groups.drain()

    assert (await here.heartbeat("alice", epoch)).assignment_epoch > epoch


@pytest.mark.postgres
@pytest.mark.anyio
async def test_a_node_that_may_miss_notices_remembers_nothing(nodes: tuple[Node, Node]) -> None:
    here, _ = nodes
    epoch = await stable(here)
    here.reads = 0

    for _ in range(3):
        await here.heartbeat("alice", epoch)

    assert here.reads == 3


class Machine(RuleBasedStateMachine):
    """Members that beat at any node, with the epochs that they know, while the group changes under them."""

    number: ClassVar[int] = 0

    def __init__(self, nodes: Sequence[Node], runner: asyncio.Runner) -> None:
        super().__init__()
        self.nodes = nodes
        self.runner = runner
        self.epochs: dict[str, list[int]] = {}
        self.partitions = 2

    @initialize()
    def create(self) -> None:
        Machine.number += 1
        self.group = f"group-{self.number}"
        self.topic = f"orders-{self.number}"
        self.run(self.nodes[0].create(self.topic, self.partitions))

    @rule(name=NAMES, at=NODES)
    def join(self, name: str, at: int) -> None:
        joined = self.run(self.at(at).join(name, self.topic, group=self.group, session_timeout_ms=SESSION_MS))
        self.epochs.setdefault(name, []).append(joined.member.member_epoch)

    @precondition(lambda self: self.epochs)
    @rule(data=st.data(), at=NODES, confirms=st.booleans(), times=st.integers(1, 3))
    def heartbeat(self, data: Any, at: int, confirms: bool, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.epochs)))
        for _ in range(times):
            epoch = data.draw(st.sampled_from([self.epochs[name][-1], *self.epochs[name][-2:]]))
            self.run(self.beaten(name, epoch, at, confirms=confirms))

    @precondition(lambda self: self.epochs)
    @rule(at=NODES)
    def all_beat_at_once(self, at: int) -> None:
        beats = [
            self.beaten(name, epochs[-1], at + number, confirms=True)
            for number, (name, epochs) in enumerate(self.epochs.items())
        ]
        joining = self.at(at).join("erin", self.topic, group=self.group, session_timeout_ms=SESSION_MS)
        self.run(gathered([*beats, joining]))

    @precondition(lambda self: self.epochs)
    @rule(at=NODES)
    def settle(self, at: int) -> None:
        """Let all that live beat until they are stable, and remembered where they heartbeat."""
        for milliseconds in (1_000, 1_000, 1_000, 1_000, 9_000, 9_000, 9_000, 9_000):
            self.wait(milliseconds)
            self.rebalance(at)
            for number, (name, epochs) in enumerate(self.epochs.items()):
                self.run(self.beaten(name, epochs[-1], at + number, confirms=True))
            self.what_is_remembered_is_true()

    @precondition(lambda self: self.epochs)
    @rule(data=st.data(), at=NODES)
    def leave(self, data: Any, at: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.epochs)))
        with suppress(BrokerError):
            self.run(self.at(at).groups.leave(self.group, name))

    @rule(at=NODES, partitions=st.integers(1, 2))
    def grow(self, at: int, partitions: int) -> None:
        self.partitions += partitions
        self.run(self.at(at).services.topics.change(self.topic, TopicRequest(self.partitions, {})))

    @rule(at=NODES)
    def rebalance(self, at: int) -> None:
        self.run(self.at(at).groups.tick())
        self.run(self.at(at).groups.rebalance())

    @rule(milliseconds=st.sampled_from([1_000, 9_000, 16_000, 31_000, 46_000]))
    def wait(self, milliseconds: int) -> None:
        first, *others = self.nodes
        self.run(first.pass_time(milliseconds))
        for other in others:
            other._passed_ms += milliseconds

    @rule(at=NODES)
    def miss_notices(self, at: int) -> None:
        signals = self.at(at).services.signals
        signals.receives_all = not signals.receives_all
        signals.wake_all()

    @invariant()
    def what_is_remembered_is_true(self) -> None:
        for node in self.nodes:
            for name, cached in node.groups.member_cache:
                found = self.run(node.storage.read(members.find, name, cached.member.join_request.member_id))
                assert found is not None
                check(cached, found)

    async def beaten(self, name: str, epoch: int, at: int, *, confirms: bool) -> None:
        """Beat, and check that nobody who was answered is about to lose its session."""
        node = self.at(at)
        found = await node.storage.read(members.find, self.group, name)
        owned = None if found is None or not confirms else {(self.topic, n) for _, n in found.member.assigned}
        try:
            standing = await node.heartbeat(name, epoch, owned, group=self.group)
        except BrokerError:
            return
        self.epochs[name].append(standing.member.member_epoch)
        await node.groups.drain()
        found = await node.storage.read(members.find, self.group, name)
        if found is not None and found.member.member_epoch == standing.member.member_epoch:
            assert 3 * (found.member.deadline_ms - found.now_ms) >= 2 * SESSION_MS - 6_000

    def at(self, number: int) -> Node:
        return self.nodes[number % len(self.nodes)]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)


def check(remembered: MemberSnapshot, found: MemberSnapshot) -> None:
    """Check that what is remembered is what the database says, and promises no longer session."""
    assert remembered.group_id == found.group_id
    assert remembered.assignment_epoch == found.assignment_epoch
    assert remembered.member.deadline_ms - remembered.now_ms <= found.member.deadline_ms - found.now_ms + CLOCKS_MS
    for field in ("join_request", "member_epoch", "assigned", "revoking", "target"):
        assert getattr(remembered.member, field) == getattr(found.member, field), field


async def gathered(work: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Do all at once; what is refused is refused."""
    for done in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(done, BaseException) and not isinstance(done, BrokerError):
            raise done


def run(nodes: Sequence[Node], examples: int, steps: int) -> None:
    connect(nodes)
    with asyncio.Runner() as runner:
        machine: Any = lambda: Machine(nodes, runner)  # noqa: E731 - hypothesis wants a class or what makes one
        rules = settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck))
        run_state_machine_as_test(machine, settings=rules)


def test_what_a_node_remembers_is_true(node: Node) -> None:
    run([node], 12, 30)


@pytest.mark.postgres
def test_what_two_nodes_remember_is_true(nodes: tuple[Node, Node]) -> None:
    run(nodes, 8, 30)


@pytest.mark.slow
@pytest.mark.postgres
def test_what_two_nodes_remember_is_true_for_long(nodes: tuple[Node, Node]) -> None:
    run(nodes, 200, 60)
