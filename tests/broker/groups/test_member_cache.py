"""The member cache: a cached member is the same as in the database."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
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
    from collections.abc import Coroutine, Iterable, Sequence

    from app.broker.waiting.signals import Signals
    from app.storage.groups.members import MemberSnapshot

SESSION_MS = 45_000
CLOCKS_MS = 1_000
"""Longest time between reading one clock and the other."""
NAMES = st.sampled_from(["alice", "bob", "carol", "dora"])
NODES = st.integers(0, 1)


def connect(nodes: Sequence[Node]) -> None:
    """Deliver the notifications of each node to the others at once."""
    for node in nodes:
        others = [other.services.signals for other in nodes if other is not node]
        node.services.signals.notify = partial(wake_all, others)
        node.services.signals.receives_all = True


def wake_all(others: Sequence[Signals], ids: Iterable[int]) -> None:
    """Wake the readers of ids on other nodes."""
    for other in others:
        other.wake(ids)


async def stable(node: Node) -> int:
    """Let alice join and send heartbeats until she is cached. Return her epoch."""
    await node.create()
    epoch = (await node.join("alice")).member.member_epoch
    for _ in range(2):
        await node.heartbeat("alice", epoch)
    return epoch


@pytest.mark.anyio
async def test_a_heartbeat_of_a_stable_member_reads_nothing(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    node.reads = node.writes = 0

    for _ in range(3):
        assert (await node.heartbeat("alice", epoch)).member.member_epoch == epoch

    assert (node.reads, node.writes) == (0, 0)


@pytest.mark.anyio
async def test_a_session_is_renewed_repeatedly_without_a_read(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    node.reads = node.writes = 0

    for _ in range(12):
        await node.pass_time(SESSION_MS // 3)
        await node.heartbeat("alice", epoch)
        await node.groups.drain()

    assert (node.reads, node.writes) == (0, 24)  # half of them move the database's time
    await node.groups.record_running_node()
    await node.groups.rebalance()
    assert "alice" in (await node.group()).members


@pytest.mark.anyio
async def test_a_member_that_has_to_reconcile_is_not_cached(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    await node.join("bob")
    await node.run_due_rebalances()
    await node.heartbeat("alice", epoch)
    node.reads = 0

    for _ in range(3):
        assert (await node.heartbeat("alice", epoch)).member.revoking

    assert node.reads == 3


@pytest.mark.anyio
async def test_a_read_before_an_announcement_is_not_cached(node: Node) -> None:
    connect([node])
    epoch = await stable(node)
    node.services.signals.wake_all()
    await node.heartbeat("alice", epoch)  # from now on the group is cached

    async def rebalance() -> None:
        await node.join("bob")
        await node.run_due_rebalances()

    node.after_read = rebalance
    assert (await node.heartbeat("alice", epoch)).assignment_epoch == epoch

    assert (await node.heartbeat("alice", epoch)).assignment_epoch > epoch


@pytest.mark.postgres
@pytest.mark.anyio
async def test_a_lost_notice_is_made_up_for_by_the_next_renewal(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    connect(nodes)
    epoch = await stable(here)
    there.services.signals.notify = None
    await there.join("bob")
    await there.run_due_rebalances()
    assert (await here.heartbeat("alice", epoch)).assignment_epoch == epoch

    here.clock.advance(SESSION_MS // 3 + 2_000)
    assert (await here.heartbeat("alice", epoch)).assignment_epoch == epoch
    await here.groups.drain()

    assert (await here.heartbeat("alice", epoch)).assignment_epoch > epoch


@pytest.mark.postgres
@pytest.mark.anyio
async def test_a_node_that_may_miss_notices_caches_no_member(nodes: tuple[Node, Node]) -> None:
    here, _ = nodes
    epoch = await stable(here)
    here.reads = 0

    for _ in range(3):
        await here.heartbeat("alice", epoch)

    assert here.reads == 3


class Machine(RuleBasedStateMachine):
    """Members that send heartbeats to any node, with recent epochs, while the group changes."""

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
            self.run(self.send_heartbeat(name, epoch, at, confirms=confirms))

    @precondition(lambda self: self.epochs)
    @rule(at=NODES)
    def all_send_heartbeats_at_once(self, at: int) -> None:
        heartbeats = [
            self.send_heartbeat(name, epochs[-1], at + number, confirms=True)
            for number, (name, epochs) in enumerate(self.epochs.items())
        ]
        joining = self.at(at).join("erin", self.topic, group=self.group, session_timeout_ms=SESSION_MS)
        self.run(gathered([*heartbeats, joining]))

    @precondition(lambda self: self.epochs)
    @rule(at=NODES)
    def settle(self, at: int) -> None:
        """Let all members send heartbeats until they are stable and cached."""
        for milliseconds in (1_000, 1_000, 1_000, 1_000, 9_000, 9_000, 9_000, 9_000):
            self.wait(milliseconds)
            self.rebalance(at)
            for number, (name, epochs) in enumerate(self.epochs.items()):
                self.run(self.send_heartbeat(name, epochs[-1], at + number, confirms=True))
            self.cached_members_are_as_in_the_database()

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
        self.run(self.at(at).groups.record_running_node())
        self.run(self.at(at).groups.rebalance())

    @rule(milliseconds=st.sampled_from([1_000, 9_000, 16_000, 31_000, 46_000]))
    def wait(self, milliseconds: int) -> None:
        first, *others = self.nodes
        self.run(first.pass_time(milliseconds))
        for other in others:
            other.clock.advance(milliseconds)

    @rule(at=NODES)
    def miss_notices(self, at: int) -> None:
        signals = self.at(at).services.signals
        signals.receives_all = not signals.receives_all
        signals.wake_all()

    @invariant()
    def cached_members_are_as_in_the_database(self) -> None:
        for node in self.nodes:
            for name, cached in node.groups.member_cache:
                found = self.run(node.storage.read(members.find, name, cached.member.join_request.member_id))
                assert found is not None
                check(cached, found)

    async def send_heartbeat(self, name: str, epoch: int, at: int, *, confirms: bool) -> None:
        """Send a heartbeat, and check that the session of an answered member is renewed."""
        node = self.at(at)
        found = await node.storage.read(members.find, self.group, name)
        owned = None if found is None or not confirms else {(self.topic, n) for _, n in found.member.assigned}
        try:
            snapshot = await node.heartbeat(name, epoch, owned, group=self.group)
        except BrokerError:
            return
        self.epochs[name].append(snapshot.member.member_epoch)
        await node.groups.drain()
        found = await node.storage.read(members.find, self.group, name)
        if found is not None and found.member.member_epoch == snapshot.member.member_epoch:
            assert 3 * (found.member.deadline_ms - found.now_ms) >= 2 * SESSION_MS - 6_000

    def at(self, number: int) -> Node:
        return self.nodes[number % len(self.nodes)]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)


def check(cached: MemberSnapshot, found: MemberSnapshot) -> None:
    """Check that a cached member is as in the database, and its session is not longer."""
    assert cached.group_id == found.group_id
    assert cached.assignment_epoch == found.assignment_epoch
    assert cached.member.deadline_ms - cached.now_ms <= found.member.deadline_ms - found.now_ms + CLOCKS_MS
    for field in ("join_request", "member_epoch", "assigned", "revoking", "target"):
        assert getattr(cached.member, field) == getattr(found.member, field), field


async def gathered(work: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Run all at once; errors are ignored."""
    for done in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(done, BaseException) and not isinstance(done, BrokerError):
            raise done


def run(nodes: Sequence[Node], examples: int, steps: int) -> None:
    connect(nodes)
    with asyncio.Runner() as runner:
        machine: Any = lambda: Machine(nodes, runner)  # noqa: E731 - hypothesis takes a class or a factory
        run_settings = settings(
            max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck)
        )
        run_state_machine_as_test(machine, settings=run_settings)


def test_cached_members_of_one_node_are_as_in_the_database(node: Node) -> None:
    run([node], 12, 30)


@pytest.mark.postgres
def test_cached_members_of_two_nodes_are_as_in_the_database(nodes: tuple[Node, Node]) -> None:
    run(nodes, 8, 30)


@pytest.mark.slow
@pytest.mark.postgres
def test_cached_members_of_two_nodes_are_as_in_the_database_in_long_runs(nodes: tuple[Node, Node]) -> None:
    run(nodes, 200, 60)
