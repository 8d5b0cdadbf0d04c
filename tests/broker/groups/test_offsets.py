"""Committed offsets: permitted committers, lag, resets, and expiry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.groups.offsets import Committer, OffsetCommit, PlannedOffset
from app.broker.log.producer import ProduceRequest
from app.domain.log.offset_spec import At, Earliest, Last, Latest, Since
from app.domain.log.record import Record
from app.errors.groups import (
    CommitAboveLogEnd,
    FencedInstanceId,
    FencedMemberEpoch,
    GroupIdNotFound,
    NonEmptyGroup,
    OffsetConflict,
    StaleMemberEpoch,
    UnknownMemberId,
)
from app.errors.http import InvalidRequest
from app.errors.log import UnknownPartitionInRecord, UnknownTopicOrPartition
from app.storage.log import topics
from tests.broker.log.silent_node import SilentNode
from tests.broker.node import GROUP, LONG_MS, Node, numbers, seen

if TYPE_CHECKING:
    from app.domain.log.offset_spec import OffsetSpec
    from app.storage.db.transaction import Tx

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000
OUTSIDE = None, -1


def at(partition: int, offset: int, from_offset: int | None = None, topic: str = "orders") -> OffsetCommit:
    return OffsetCommit(topic, partition, offset, from_offset)


@pytest.fixture
async def alice(node: Node) -> Node:
    """A node with two partitions of three records each, both assigned to one member."""
    await node.create()
    for partition in (0, 1):
        await node.produce(b"a", b"b", b"c", partition=partition)
    await node.join("alice")
    return node


async def test_a_member_commits_all_offsets_of_a_request_or_none(alice: Node) -> None:
    await alice.commit("alice", 1, at(0, 2), at(1, 3))
    assert await alice.committed() == {("orders", 0): 2, ("orders", 1): 3}

    with pytest.raises(CommitAboveLogEnd) as refused:
        await alice.commit("alice", 1, at(0, 3), at(1, 4))

    assert refused.value.facts["log_end_offset"] == 3
    assert refused.value.facts["errors"] == [
        {"index": 1, "field": "offset", "detail": "must be at most log_end_offset, 3"}
    ]
    assert await alice.committed() == {("orders", 0): 2, ("orders", 1): 3}


async def test_a_commit_may_go_back_unless_it_has_from_offset(alice: Node) -> None:
    await alice.commit("alice", 1, at(0, 3))
    await alice.commit("alice", 1, at(0, 1))
    await alice.commit("alice", 1, at(0, 2, 1))
    await alice.commit("alice", 1, at(0, 2, 1))

    with pytest.raises(OffsetConflict) as refused:
        await alice.commit("alice", 1, at(1, 1, 0), at(0, 3, 1))

    assert refused.value.facts == {
        "committed_offset": 2,
        "errors": [{"index": 1, "field": "from_offset", "detail": "the committed offset is 2"}],
    }
    assert await alice.committed() == {("orders", 0): 2, ("orders", 1): 0}


async def test_a_partition_may_be_committed_once_in_a_request(alice: Node) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await alice.commit("alice", 1, at(0, 1), at(1, 1), at(0, 2))

    assert refused.value.facts["errors"] == [{"index": 2, "detail": "names a partition twice"}]


async def test_an_unknown_topic_or_partition_is_refused_with_its_index(alice: Node) -> None:
    for wrong, field in ((at(2, 0), "partition"), (at(0, 0, topic="clicks"), "topic")):
        with pytest.raises(UnknownPartitionInRecord) as refused:
            await alice.commit("alice", 1, at(0, 1), wrong)

        errors: Any = refused.value.facts["errors"]
        assert (errors[0]["index"], errors[0]["field"]) == (1, field)
    assert (await alice.committed())["orders", 0] == 0


async def test_a_member_may_commit_a_partition_until_it_has_confirmed_its_revocation(alice: Node) -> None:
    await alice.join("bob")
    await alice.run_due_rebalances()
    kept = numbers(await alice.heartbeat("alice", 1))[0]
    await alice.commit("alice", 1, at(0, 1), at(1, 1))
    await alice.heartbeat("alice", 1, {("orders", kept)})

    with pytest.raises(StaleMemberEpoch) as refused:
        await alice.commit("alice", 1, at(0, 2), at(1, 2))
    assert refused.value.facts == {
        "member_epoch": 2,
        "partitions": [{"topic": "orders", "partition": 1 - kept}],
    }
    await alice.commit("alice", 1, at(kept, 2))
    with pytest.raises(StaleMemberEpoch):
        await alice.commit("bob", 1, at(1 - kept, 2))
    await alice.commit("bob", 2, at(1 - kept, 3))

    assert await alice.committed() == {("orders", kept): 2, ("orders", 1 - kept): 3}


async def test_the_epochs_of_a_commit_are_fenced(alice: Node) -> None:
    with pytest.raises(FencedMemberEpoch):
        await alice.commit("alice", 2, at(0, 1))
    with pytest.raises(UnknownMemberId):
        await alice.commit("bob", 1, at(0, 1))
    with pytest.raises(UnknownMemberId):
        await alice.commit("alice", 1, at(0, 1), group="nothing")
    await alice.join("alice")
    with pytest.raises(StaleMemberEpoch):
        await alice.commit("alice", 1, at(0, 1))
    await alice.commit("alice", 2, at(0, 1))

    assert await alice.committed() == {("orders", 0): 1, ("orders", 1): 0}


async def test_a_replaced_static_member_may_not_commit(node: Node) -> None:
    await node.create()
    await node.join("alice", instance_id="till-1")
    await node.join("anna", instance_id="till-1")

    with pytest.raises(FencedInstanceId):
        await node.commit("alice", 1, at(0, 0))


async def test_a_commit_does_not_renew_the_session(alice: Node) -> None:
    await alice.pass_time(20_000)
    before = await alice.group()

    await alice.commit("alice", 1, at(0, 1))

    assert await alice.group() == before


async def test_a_commit_without_a_member_needs_a_group_without_members(alice: Node) -> None:
    with pytest.raises(NonEmptyGroup) as refused:
        await alice.commit(*OUTSIDE, at(0, 1))
    assert refused.value.facts == {"members": 1}
    await alice.groups.leave(GROUP, "alice")
    await alice.commit(*OUTSIDE, at(0, 1))
    await alice.commit(*OUTSIDE, at(0, 2), group="new")

    assert await alice.committed() == {("orders", 0): 1, ("orders", 1): 0}
    assert await alice.committed("new") == {("orders", 0): 2, ("orders", 1): None}
    with pytest.raises(UnknownPartitionInRecord):
        await alice.commit(*OUTSIDE, at(9, 0), group="newer")
    with pytest.raises(GroupIdNotFound):
        await alice.committed("newer")


async def test_metadata_is_kept_with_the_offset(alice: Node) -> None:
    await alice.commit("alice", 1, OffsetCommit("orders", 0, 1, None, "é — checkpoint 7"))

    lags = await alice.services.offsets.lags(GROUP)

    assert [one.metadata for one in lags] == ["é — checkpoint 7", ""]


async def test_a_commit_reaches_a_topic_that_was_replaced_behind_the_cache(alice: Node) -> None:
    other, old = SilentNode(alice.services), await alice.services.topics.get("orders")
    await other.replace_topic("orders", 2)
    await alice.run_due_rebalances()
    member = await alice.heartbeat("alice", 1, set())
    await other.produce(ProduceRequest("orders", None, [Record(0, -1, None, b"new", None, 0)], 3))
    assert alice.services.topics.cached("orders") is old

    await alice.commit("alice", member.member.member_epoch, at(0, 1))

    assert await alice.committed() == {("orders", 0): 1, ("orders", 1): 0}


async def test_a_partition_added_behind_the_cache_can_be_committed(alice: Node) -> None:
    def grow(tx: Tx) -> None:
        found = topics.find_locked(tx, "orders", old.config)
        assert found is not None
        topics.change(tx, found.info, 3, {})

    old = await alice.services.topics.get("orders")
    await alice.groups.leave(GROUP, "alice")
    await alice.storage.write(grow)

    await alice.commit(*OUTSIDE, at(2, 0))

    assert (await alice.committed())["orders", 2] == 0


async def test_a_topic_deleted_behind_the_cache_is_unknown(alice: Node) -> None:
    def delete(tx: Tx) -> None:
        found = topics.find_locked(tx, "orders", old.config)
        assert found is not None
        topics.delete_(tx, found.info)

    old = await alice.services.topics.get("orders")
    await alice.storage.write(delete)

    with pytest.raises(UnknownPartitionInRecord):
        await alice.commit("alice", 1, at(0, 1))


async def test_lag_counts_uncommitted_records_and_the_age_of_the_oldest(node: Node) -> None:
    await node.create(partitions=4)
    now_ms = node.services.clock()
    for partition, times in ((0, (90, 60, 30)), (1, (90, 60)), (2, (50,))):
        for seconds in times:
            await _produce_at(node, partition, now_ms - seconds * 1000)
    await node.services.topics.delete_before("orders", 1, 1)
    await node.commit(*OUTSIDE, at(0, 1), at(1, 0), at(2, 1))

    lags = await node.services.offsets.lags(GROUP)

    assert [(one.partition, one.committed_offset, one.log_end_offset, one.lag) for one in lags] == [
        (0, 1, 3, 2), (1, 0, 2, 1), (2, 1, 1, 0), (3, None, 0, 0),
    ]  # fmt: skip
    assert [round(one.lag_ms, -4) for one in lags] == [60_000, 60_000, 0, 0]


async def test_lag_without_a_committed_offset_counts_from_the_log_start(node: Node) -> None:
    await node.create()
    await _produce_at(node, 1, node.services.clock() - 40_000)
    await _produce_at(node, 1, node.services.clock() - 20_000)
    await node.services.topics.delete_before("orders", 1, 1)
    await node.commit(*OUTSIDE, at(0, 0))

    lag = (await node.services.offsets.lags(GROUP))[1]

    assert (lag.committed_offset, lag.log_end_offset, lag.lag, round(lag.lag_ms, -4)) == (None, 2, 1, 20_000)


async def _produce_at(node: Node, partition: int, timestamp_ms: int) -> None:
    record = Record(partition, timestamp_ms, None, b"x", None, 0)
    await node.services.producer.produce(ProduceRequest("orders", None, [record], 1))


async def test_lag_is_listed_for_every_subscribed_or_committed_topic(node: Node) -> None:
    for topic in ("clicks", "orders", "other", "views"):
        await node.create(topic, 1)
    await node.commit(*OUTSIDE, at(0, 0, topic="views"))
    await node.join("alice", "orders", "clicks")

    assert await node.committed() == {("clicks", 0): 0, ("orders", 0): 0, ("views", 0): 0}


@pytest.mark.parametrize(
    ("to", "expected"),
    [(Earliest(), [1, 0]), (Latest(), [3, 1]), (Last(1), [2, 0]), (Last(9), [1, 0]), (Since(20), [2, 1]),
     (Since(99), [3, 1])],
    ids=str,
)  # fmt: skip
async def test_a_reset_is_planned_and_then_applied(node: Node, to: OffsetSpec, expected: list[int]) -> None:
    await node.create()
    for partition, timestamp_ms in ((0, 10), (0, 15), (0, 20), (1, 10)):
        await _produce_at(node, partition, timestamp_ms)
    await node.services.topics.delete_before("orders", 0, 1)
    await node.commit(*OUTSIDE, at(0, 2))
    reset = node.services.offsets.reset

    plan = await reset(GROUP, "orders", None, to, dry_run=True)
    assert plan == [PlannedOffset(0, 2, expected[0]), PlannedOffset(1, None, expected[1])]
    assert await node.committed() == {("orders", 0): 2, ("orders", 1): None}

    assert await reset(GROUP, "orders", None, to, dry_run=False) == plan
    assert await node.committed() == {("orders", 0): expected[0], ("orders", 1): expected[1]}


async def test_a_reset_of_some_partitions_leaves_the_others(node: Node) -> None:
    await node.create(partitions=3)
    await node.produce(b"a", b"b", partition=1)
    reset = node.services.offsets.reset

    assert await reset("new", "orders", [2, 1, 1], Latest(), dry_run=True) == [
        PlannedOffset(1, None, 2), PlannedOffset(2, None, 0),
    ]  # fmt: skip
    with pytest.raises(GroupIdNotFound):
        await node.committed("new")
    await reset("new", "orders", [1], At(1), dry_run=False)

    assert await node.committed("new") == {("orders", 0): None, ("orders", 1): 1, ("orders", 2): None}


async def test_a_reset_out_of_range_or_of_an_unknown_partition_or_with_members_is_refused(alice: Node) -> None:
    reset = alice.services.offsets.reset
    with pytest.raises(InvalidRequest, match="from 0 to 3 in partition 0"):
        await reset(GROUP, "orders", None, At(4), dry_run=True)
    for topic, partitions in (("clicks", None), ("orders", [2])):
        with pytest.raises(UnknownTopicOrPartition):
            await reset(GROUP, topic, partitions, Earliest(), dry_run=True)
    with pytest.raises(NonEmptyGroup):
        await reset(GROUP, "orders", None, Latest(), dry_run=False)

    assert await reset(GROUP, "orders", None, Latest(), dry_run=True) == [
        PlannedOffset(0, 0, 3),
        PlannedOffset(1, 0, 3),
    ]
    assert await alice.committed() == {("orders", 0): 0, ("orders", 1): 0}


async def test_a_group_expires_seven_days_after_its_last_member_or_commit(alice: Node) -> None:
    await alice.commit(*OUTSIDE, at(0, 1), group="tool")
    await alice.pass_time(8 * DAY_MS)
    await alice.services.offsets.expire()
    assert [one.name for one in await alice.groups.list_("", 9)] == [GROUP]
    await alice.groups.leave(GROUP, "alice")
    await alice.pass_time(6 * DAY_MS)
    await alice.commit(*OUTSIDE, at(0, 2))
    await alice.pass_time(6 * DAY_MS)
    await alice.services.offsets.expire()
    assert await alice.committed() == {("orders", 0): 2, ("orders", 1): 0}
    await alice.pass_time(DAY_MS + 1)

    await alice.services.offsets.expire()

    assert await alice.groups.list_("", 9) == []
    assert await alice.storage.read(_count_offsets) == 0


async def test_offsets_of_a_deleted_topic_are_deleted_and_not_inherited(alice: Node) -> None:
    await alice.commit("alice", 1, at(0, 3))
    await alice.services.topics.delete("orders")
    await alice.create()
    await alice.run_due_rebalances()
    await alice.heartbeat("alice", 1, set())
    assert await alice.committed() == {("orders", 0): 0, ("orders", 1): 0}
    assert await alice.storage.read(_count_offsets) == 4

    await alice.services.offsets.expire()

    assert await alice.storage.read(_count_offsets) == 2


async def test_a_member_with_18000_partitions_joins_reads_and_commits(node: Node) -> None:
    """Use more partitions than a statement of SQLite may have parameters."""
    for number in range(18):
        await node.create(f"t{number}", 1_000)
    await node.produce(b"a", topic="t17", partition=999)

    page = await node.poll(pattern="*", topics=(), auto_commit=True, assignor="range")
    assert seen(page) == [("t17", 999, 0)]

    assert seen(await node.poll(pattern="*", topics=(), auto_commit=True, assignor="range")) == []
    assert len(page.member.member.assigned) == 18_000


def _count_offsets(tx: Tx) -> int:
    return int(tx.connection.exec_driver_sql("SELECT count(*) FROM group_offsets").scalar_one())


@pytest.mark.postgres
async def test_a_commit_that_waits_for_a_rebalance_is_checked_after_it(nodes: tuple[Node, Node]) -> None:
    """Move the partition to another member while the commit waits for the member's lock."""
    first, second = nodes
    await first.create()
    await first.produce(b"a")
    await first.join("alice")
    await first.join("bob")
    await first.run_due_rebalances()
    kept = numbers(await first.heartbeat("alice", 1))[0]

    outcomes = await asyncio.gather(
        first.heartbeat("alice", 1, {("orders", kept)}),
        *[second.commit("alice", 1, at(1 - kept, 0)) for _ in range(5)],
        second.commit("bob", 2, at(1 - kept, 0)),
        return_exceptions=True,
    )

    assert {type(one) for one in outcomes[1:]} <= {type(None), StaleMemberEpoch}
    await second.commit("bob", 2, at(1 - kept, 0))


@pytest.mark.postgres
async def test_polls_commits_and_resets_on_two_nodes_do_not_deadlock(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    await first.create()
    await first.produce(*[b"x"] * 50)
    groups = [f"g{number}" for number in range(3)]

    async def consume(node: Node, group: str, name: str) -> None:
        for _ in range(6):
            await node.poll(name, group=group, auto_commit=True)
            await node.groups.rebalance()
        await node.groups.leave(group, name)

    async def command(node: Node, group: str) -> None:
        for _ in range(6):
            try:
                await node.services.offsets.commit(Committer(group, None), [at(0, 0), at(1, 0)])
                await node.services.offsets.reset(group, "orders", None, Latest(), dry_run=False)
            except NonEmptyGroup:
                pass

    await asyncio.wait_for(
        asyncio.gather(
            *[consume(node, group, f"m{index}") for group in groups for index, node in enumerate(nodes)],
            *[command(node, group) for group in groups for node in nodes],
        ),
        LONG_MS / 1000,
    )

    assert [one.state for one in await second.groups.list_("", 9)] == ["EMPTY"] * 3
