"""The group coordinator: sessions, expiry, reconciliation between members, and the history of rebalances."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.groups.group_transactions import Heartbeat
from app.broker.groups.offsets import OffsetCommit
from app.broker.log.topics import TopicRequest
from app.errors.database import ServiceUnavailable
from app.errors.groups import FencedMemberEpoch, GroupIdNotFound, GroupMaxSizeReached, NonEmptyGroup, UnknownMemberId
from app.storage.groups import rebalances
from tests.broker.node import GROUP, SECOND_MS, Node, numbers

if TYPE_CHECKING:
    from app.domain.groups.group import Group

pytestmark = pytest.mark.anyio

SESSION_MS = 45_000


def holdings(group: Group) -> dict[str, list[int]]:
    """Return the assigned partitions of each member."""
    return {name: sorted(number for _, number in member.assigned) for name, member in group.members.items()}


async def test_a_heartbeat_that_changes_nothing_writes_nothing(node: Node) -> None:
    await node.create()
    await node.join("alice")
    node.writes = 0

    for owned in (None, {("orders", 0), ("orders", 1)}, set()):
        await node.heartbeat("alice", 1, owned)
    await node.pass_time(14_000)
    before = await node.group()
    node.writes = 0
    await node.heartbeat("alice", 1)

    assert node.writes == 0
    assert await node.group() == before


async def test_a_session_is_renewed_when_less_than_two_thirds_of_it_remain(node: Node) -> None:
    await node.create()
    await node.join("alice")
    await node.pass_time(16_000)
    before = (await node.group()).members["alice"].deadline_ms
    node.writes = 0

    await node.heartbeat("alice", 1)
    await node.groups.drain()
    await node.heartbeat("alice", 1)

    renewed = (await node.group()).members["alice"].deadline_ms
    assert node.writes == 1
    assert 16_000 <= renewed - before < 30_000


@pytest.mark.parametrize("way", ["heartbeat", "poll", "poll and commit"])
async def test_a_session_lasts_from_the_last_heartbeat_even_if_that_was_not_written(node: Node, way: str) -> None:
    await node.create()
    await node.produce(b"1", b"2")
    epoch = (await node.join("alice")).member.member_epoch
    await node.groups.record_running_node()
    await node.pass_time(13_000)
    node.writes = 0
    if way == "heartbeat":
        await node.heartbeat("alice", epoch)
        assert node.writes == 0
    else:
        commits = [OffsetCommit("orders", 0, 1)] if way == "poll and commit" else None
        await node.poll("alice", epoch=epoch, commits=commits)

    await node.pass_time(34_000)
    await node.groups.rebalance()
    assert "alice" in (await node.group()).members
    await node.pass_time(12_000)
    await node.groups.rebalance()
    assert "alice" not in (await node.group()).members


async def test_a_node_that_stops_writes_the_last_heartbeats(nodes: tuple[Node, Node]) -> None:
    stopping, other = nodes
    await stopping.create()
    epoch = (await stopping.join("alice")).member.member_epoch
    await other.groups.record_running_node()
    await stopping.pass_time(13_000)
    await stopping.heartbeat("alice", epoch)

    await stopping.groups.drain()

    await other.pass_time(34_000)
    await other.groups.rebalance()
    assert "alice" in (await other.group()).members


async def test_a_renewal_is_delayed_by_at_most_a_part_of_its_session(node: Node) -> None:
    await node.create()
    slow = await node.join("alice", group="slow", session_timeout_ms=900_000)
    await node.pass_time(400_000)
    quick = await node.join("alice", group="quick", session_timeout_ms=3_000)
    await node.pass_time(1_200)
    sessions = node.groups.sessions

    await node.heartbeat("alice", slow.member.member_epoch, group="slow")
    batch_of_slow = sessions.next_batch_at or 0.0
    await node.heartbeat("alice", quick.member.member_epoch, group="quick")
    batch_of_quick = sessions.next_batch_at or 0.0
    assert 0 < batch_of_quick < batch_of_slow
    await node.groups.drain()


async def test_sessions_are_renewed_in_one_batch(node: Node) -> None:
    await node.create(partitions=40)
    for number in range(40):
        await node.join(f"m{number}")
    await node.run_due_rebalances()
    epochs = {
        name: (await node.heartbeat(name, 1 + number, set())).member.member_epoch
        for number, name in enumerate(f"m{n}" for n in range(40))
    }
    await node.pass_time(20_000)
    node.writes = 0

    await asyncio.gather(*[node.heartbeat(name, epoch) for name, epoch in epochs.items()])
    await node.groups.drain()

    assert node.writes == 1
    assert await node.storage.read(rebalances.due, 100) == []


async def test_a_heartbeat_waits_for_its_renewal_when_less_than_a_third_of_the_session_remains(node: Node) -> None:
    await node.create()
    await node.join("alice")
    await node.pass_time(31_000)
    before = (await node.group()).members["alice"].deadline_ms

    await node.heartbeat("alice", 1)

    assert (await node.group()).members["alice"].deadline_ms - before >= 31_000


async def _disconnected() -> bool:
    return True


async def test_a_heartbeat_of_a_disconnected_client_changes_nothing(node: Node) -> None:
    await node.create()
    await node.join("alice")
    await node.join("bob")
    await node.run_due_rebalances()
    before = await node.group()

    for owned in (None, frozenset[tuple[str, int]]()):
        with pytest.raises(ServiceUnavailable, match="disconnected"):
            await node.groups.heartbeat(
                Heartbeat("billing", "alice", 1, owned, released=owned is None), is_disconnected=_disconnected
            )

    assert await node.group() == before


async def test_a_member_without_heartbeats_expires_at_the_end_of_its_session(node: Node) -> None:
    await node.create()
    await node.join("alice")
    await node.groups.record_running_node()

    await node.pass_time(SESSION_MS - 5_000)
    await node.groups.rebalance()
    assert list((await node.group()).members) == ["alice"]
    await node.pass_time(5_000)
    await node.groups.rebalance()

    assert (await node.group()).state == "EMPTY"
    with pytest.raises(UnknownMemberId):
        await node.heartbeat("alice", 1)


async def test_members_do_not_expire_while_no_node_runs(node: Node) -> None:
    await node.create()
    await node.join("alice")
    await node.groups.record_running_node()

    await node.pass_time(SESSION_MS + 1, node_running=False)
    await node.groups.rebalance()
    assert list((await node.group()).members) == ["alice"]
    await node.groups.record_running_node()
    await node.pass_time(SESSION_MS - 5_000)
    await node.groups.rebalance()
    assert list((await node.group()).members) == ["alice"]
    await node.pass_time(5_000)
    await node.groups.rebalance()

    assert list((await node.group()).members) == []


async def test_the_rebalance_timeout_does_not_run_while_no_node_runs(node: Node) -> None:
    await node.create()
    await node.join("alice", rebalance_timeout_ms=30_000)
    await node.join("bob")
    await node.run_due_rebalances()
    assert (await node.heartbeat("alice", 1)).member.revoking

    await node.pass_time(60_000, node_running=False)
    await node.groups.record_running_node()
    await node.pass_time(29_000)
    await node.groups.rebalance()
    assert "alice" in (await node.group()).members
    await node.pass_time(2_000)
    await node.groups.rebalance()

    assert list((await node.group()).members) == ["bob"]


async def test_a_node_that_has_just_started_removes_no_member(migrated_url: str) -> None:
    before = Node(migrated_url)
    await before.create()
    await before.join("alice", session_timeout_ms=1_000)
    await before.groups.record_running_node()
    before.storage.close()
    node = Node(migrated_url)
    await node.pass_time(1_001)

    await node.groups.rebalance()

    assert list((await node.group()).members) == ["alice"]
    node.storage.close()


async def test_the_start_of_the_only_node_gives_every_member_a_full_session(sqlite_url: str) -> None:
    before = Node(sqlite_url)
    await before.create()
    await before.join("alice", session_timeout_ms=4_000)
    await before.groups.record_running_node()
    before.storage.close()
    node = Node(sqlite_url)
    await node.pass_time(4_000)

    await node.groups.record_running_node()
    await node.groups.rebalance()
    assert list((await node.group()).members) == ["alice"]
    await node.pass_time(4_000)
    await node.groups.record_running_node()
    await node.groups.rebalance()

    assert list((await node.group()).members) == []
    node.storage.close()


async def test_a_partition_moves_only_after_its_holder_has_confirmed_the_revocation(node: Node) -> None:
    await node.create()
    alice = await node.join("alice")
    assert numbers(alice) == [0, 1]
    await node.join("bob")
    await node.run_due_rebalances()

    shrunk = await node.heartbeat("alice", 1)
    assert (len(numbers(shrunk)), shrunk.member.member_epoch) == (1, 1)
    assert shrunk.member.state(shrunk.assignment_epoch) == "UNREVOKED_PARTITIONS"
    assert (await node.heartbeat("bob", 2)).member.assigned == {}
    still = await node.heartbeat("alice", 1, {("orders", 0), ("orders", 1)})
    assert still.member.revoking == shrunk.member.revoking
    confirmed = await node.heartbeat("alice", 1, {("orders", numbers(shrunk)[0])})

    assert confirmed.member.member_epoch == 2
    assert holdings(await node.group()) == {"alice": numbers(shrunk), "bob": [1 - numbers(shrunk)[0]]}
    assert (await node.group()).state == "STABLE"


async def test_a_member_that_joins_again_revokes_the_partitions_that_it_loses(node: Node) -> None:
    await node.create()
    await node.join("alice")
    await node.join("bob")
    again = await node.join("alice")
    await node.run_due_rebalances()

    revoking = await node.heartbeat("alice", again.member.member_epoch)

    assert revoking.member.state(revoking.assignment_epoch) == "UNREVOKED_PARTITIONS"
    assert (len(revoking.member.assigned), len(revoking.member.revoking)) == (1, 1)
    await node.heartbeat("alice", again.member.member_epoch, {("orders", numbers(revoking)[0])})
    await node.heartbeat("bob", 2)
    assert holdings(await node.group()) == {"alice": numbers(revoking), "bob": [1 - numbers(revoking)[0]]}


async def test_a_heartbeat_can_be_repeated_and_a_fenced_epoch_changes_nothing(node: Node) -> None:
    await node.create()
    await node.join("alice")
    await node.join("bob")
    await node.run_due_rebalances()
    kept = numbers(await node.heartbeat("alice", 1))[0]
    lost = await node.heartbeat("alice", 1, {("orders", kept)})

    again = await node.heartbeat("alice", 1, {("orders", kept)})
    assert again.member == lost.member
    before = await node.group()
    for epoch, owned in ((1, {("orders", 1 - kept)}), (1, {("clicks", 0)}), (0, None), (3, None)):
        with pytest.raises(FencedMemberEpoch):
            await node.heartbeat("alice", epoch, owned)

    assert await node.group() == before


async def test_a_member_that_keeps_a_revoked_partition_is_removed(node: Node) -> None:
    await node.create()
    await node.join("alice", rebalance_timeout_ms=10_000)
    await node.join("bob")
    await node.run_due_rebalances()
    both = {("orders", 0), ("orders", 1)}
    await node.heartbeat("alice", 1, both)

    await node.pass_time(9_000)
    await node.heartbeat("alice", 1, both)
    await node.groups.rebalance()
    assert "alice" in (await node.group()).members
    await node.pass_time(1_000)
    await node.groups.rebalance()
    await node.run_due_rebalances()

    assert holdings(await node.group()) in ({"bob": [0, 1]}, {"bob": [0]}, {"bob": [1]})
    await node.heartbeat("bob", (await node.group()).members["bob"].member_epoch)
    assert holdings(await node.group()) == {"bob": [0, 1]}


async def test_many_joins_cause_one_rebalance_and_then_at_most_one_a_second(node: Node) -> None:
    await node.create(partitions=20)
    for number in range(20):
        await node.join(f"m{number}")
    await node.run_due_rebalances()

    history = await node.groups.rebalances(GROUP)

    assert (history[-1].group_epoch, history[0].group_epoch) == (1, 20)
    assert {reason for one in history for reason in one.reasons} == {"member_joined"}
    assert all(later.at_ms - earlier.at_ms >= SECOND_MS for later, earlier in pairwise(history[1:]))
    assert {len(partitions) for partitions in history[0].after.values()} == {1}


async def test_created_grown_and_deleted_topics_cause_a_rebalance(node: Node) -> None:
    await node.create("orders.eu", 1)
    await node.groups.rebalance()
    await node.join("alice", "later", pattern="orders.*")

    await node.create("orders.us", 1)
    await node.run_due_rebalances()
    await node.create("later", 1)
    await node.run_due_rebalances()
    await node.create("other", 1)
    await node.services.topics.change("orders.us", TopicRequest(2, {}))
    await node.run_due_rebalances()
    await node.services.topics.delete("orders.us")
    await node.run_due_rebalances()

    history = [(one.reasons, one.after["alice"]) for one in await node.groups.rebalances(GROUP)]
    eu, us, later = ("orders.eu", 0), ("orders.us", 0), ("later", 0)
    assert [(reasons, sorted(map(tuple, after))) for reasons, after in reversed(history)] == [
        (["member_joined"], [eu]),
        (["topic_created"], [eu, us]),
        (["topic_created"], [later, eu, us]),
        (["partitions_added"], [later, eu, us, ("orders.us", 1)]),
        (["topic_deleted"], [later, eu]),
    ]


async def test_a_topic_created_during_an_assignment_is_assigned_later(node: Node) -> None:
    await node.join("alice")
    await node.create()
    node.groups._topics_fingerprint = await node.storage.read(rebalances.fingerprint)

    for _ in range(201):
        await node.groups.rebalance()
    await node.run_due_rebalances()

    assert numbers(await node.heartbeat("alice", 1)) == [0, 1]


async def test_a_failure_in_one_group_does_not_make_other_groups_miss_a_topic(node: Node) -> None:
    for group in ("a", "b"):
        await node.join("alice", group=group)
    await node.run_due_rebalances()
    await node.create()
    failures = iter([True])

    def fail_once(args: tuple[Any, ...]) -> None:
        if ["a", "b"] in args and next(failures, False):
            raise ServiceUnavailable("lock timeout")

    node.before_write = fail_once
    with pytest.raises(ServiceUnavailable):
        await node.groups.rebalance()
    await node.groups.rebalance()

    for group in ("a", "b"):
        assert numbers(await node.heartbeat("alice", 1, group=group)) == [0, 1]


async def test_a_hundred_overdue_groups_that_cannot_expire_do_not_keep_a_node_busy(node: Node) -> None:
    for number in range(100):
        await node.join("alice", group=f"g{number}")
    await node.pass_time(SESSION_MS, node_running=False)

    assert await node.groups.rebalance() is False


async def test_the_history_keeps_twenty_rebalances_and_the_oldest_is_complete(node: Node) -> None:
    await node.create(partitions=1)
    await node.join("alice")
    for _ in range(13):
        await node.pass_time(SECOND_MS)
        await node.join("bob")
        await node.pass_time(SECOND_MS)
        await node.groups.leave(GROUP, "bob")

    history = await node.groups.rebalances(GROUP)

    epochs = [one.group_epoch for one in history]
    assert len(history) == 20
    assert epochs == sorted(epochs, reverse=True)
    assert [one.before for one in history[:-1]] == [one.after for one in history[1:]]
    assert history[-1].before["alice"] == [("orders", 0)]
    assert all(one.after["alice"] == [("orders", 0)] for one in history)


async def test_the_list_has_the_same_state_as_each_group(node: Node) -> None:
    await node.create()
    await node.join("alice", group="stable")
    await node.join("alice", group="assigning")
    await node.join("bob", group="assigning")
    await node.join("alice", group="reconciling")
    await node.join("bob", group="reconciling")
    await node.join("alice", group="empty")
    await node.groups.leave("empty", "alice")
    await node.pass_time(SECOND_MS)
    await node.storage.write(_not_due, "assigning")
    await node.groups.rebalance()

    found = await node.groups.list_("", 10)

    assert [(one.name, one.state, one.members) for one in found] == [
        ("assigning", "ASSIGNING", 2),
        ("empty", "EMPTY", 0),
        ("reconciling", "RECONCILING", 2),
        ("stable", "STABLE", 1),
    ]
    for one in found:
        group = await node.groups.get(one.name)
        assert (one.state, one.group_epoch, one.assignment_epoch) == (
            group.state, group.group_epoch, group.assignment_epoch,
        )  # fmt: skip
    assert [one.name for one in await node.groups.list_("assigning", 2)] == ["empty", "reconciling"]


def _not_due(tx: Any, name: str) -> None:
    sql = "UPDATE consumer_groups SET assign_at_ms = 9000000000000 WHERE name = '{}'"
    tx.connection.exec_driver_sql(sql.format(name))


async def test_joins_beyond_the_limits_are_refused_and_change_nothing(migrated_url: str) -> None:
    node = Node(migrated_url, max_groups=2, max_group_members=1)
    await node.join("alice", group="a")
    await node.join("alice", group="a")
    with pytest.raises(GroupMaxSizeReached):
        await node.join("bob", group="a")
    await node.join("alice", group="b")
    with pytest.raises(GroupMaxSizeReached):
        await node.join("alice", group="c")
    await node.groups.leave("b", "alice")
    await node.groups.delete("b")

    await node.join("alice", group="c")

    assert [one.name for one in await node.groups.list_("", 10)] == ["a", "c"]
    node.storage.close()


async def test_a_group_is_deleted_only_without_members_and_its_name_starts_without_offsets(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    await node.poll(auto_commit=True)
    await node.poll(auto_commit=True)
    with pytest.raises(NonEmptyGroup) as refused:
        await node.groups.delete(GROUP)
    assert refused.value.facts == {"members": 1}
    await node.groups.leave(GROUP, "alice")

    await node.groups.delete(GROUP)

    for again in (node.groups.delete(GROUP), node.groups.get(GROUP), node.groups.rebalances(GROUP)):
        with pytest.raises(GroupIdNotFound):
            await again
    with pytest.raises(UnknownMemberId):
        await node.groups.leave(GROUP, "alice")
    await node.join("alice")
    assert await node.committed() == {("orders", 0): 0, ("orders", 1): 0}
    assert len(await node.groups.rebalances(GROUP)) == 1


@pytest.mark.postgres
async def test_no_partition_has_two_owners_while_two_nodes_rebalance_at_once(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    await first.create(partitions=6)
    await asyncio.gather(first.groups.record_running_node(), second.groups.record_running_node())
    for number in range(4):
        await asyncio.gather(first.join(f"a{number}"), second.join(f"b{number}"))
        await first.pass_time(SECOND_MS)
        await asyncio.gather(*[node.groups.rebalance() for node in nodes for _ in range(3)])
        group = await first.group()
        await asyncio.gather(
            *[
                nodes[index % 2].poll(name, epoch=member.member_epoch)
                for index, (name, member) in enumerate(group.members.items())
            ]
        )
        held = [p for member in (await first.group()).members.values() for p in (*member.assigned, *member.revoking)]
        assert len(held) == len(set(held))

    for _ in range(2):
        for name, member in (await first.group()).members.items():
            await second.poll(name, epoch=member.member_epoch)
    group = await second.group()
    assert (group.state, len(group.members)) == ("STABLE", 8)
    assert sorted(number for numbers in holdings(group).values() for number in numbers) == [0, 1, 2, 3, 4, 5]
    epochs = [one.group_epoch for one in await first.groups.rebalances(GROUP)]
    assert len(epochs) == len(set(epochs)) == 5 or len(epochs) == 4


@pytest.mark.postgres
async def test_a_member_id_that_joins_on_two_nodes_at_once_is_one_member(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    await first.create()

    joined = await asyncio.gather(*[node.join("alice") for node in nodes for _ in range(3)])

    assert sorted(one.member.member_epoch for one in joined) == [1, 2, 3, 4, 5, 6]
    assert holdings(await second.group()) == {"alice": [0, 1]}


@pytest.mark.postgres
async def test_two_nodes_that_start_after_an_outage_give_full_sessions(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    await first.create()
    for number in range(10):
        await first.join(f"m{number}")
    await first.pass_time(2 * SESSION_MS, node_running=False)

    await asyncio.gather(*[node.groups.record_running_node() for node in nodes for _ in range(3)])
    await asyncio.gather(*[node.groups.rebalance() for node in nodes])

    assert len((await second.group()).members) == 10
