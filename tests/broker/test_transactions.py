"""Transactions: records and offsets, all or nothing, once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.broker.groups.offsets import Committer, OffsetCommit
from app.broker.log.page_reader import PageSize
from app.broker.log.producer import ProduceRequest
from app.broker.log.topics import TopicRequest
from app.broker.transactions import TransactionRequest, TransactionResult
from app.broker.waiting.deadline import Deadline
from app.domain.log.append import IdempotencyKey
from app.domain.log.offset_spec import Earliest
from app.domain.log.record import Record
from app.errors.groups import (
    CommitAboveLogEnd,
    FencedMemberEpoch,
    NonEmptyGroup,
    OffsetConflict,
    StaleMemberEpoch,
    UnknownMemberId,
)
from app.errors.log import IdempotencyKeyReused, InvalidRecord, UnknownPartitionInRecord, UnknownTopicOrPartition
from app.storage.log import topics
from tests.broker.node import GROUP, LONG_MS, Node, parked, poll_request, seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.storage.db.transaction import Tx

pytestmark = pytest.mark.anyio

KEY = IdempotencyKey(b"k" * 32, b"f" * 32)
ALICE = Committer(GROUP, "alice", 1)
Commits = tuple[Committer, list[OffsetCommit]]


def move(from_offset: int, offset: int, partition: int = 0, topic: str = "orders") -> OffsetCommit:
    return OffsetCommit(topic, partition, offset, from_offset)


def values(topic: str, *given: bytes, partition: int = 0) -> ProduceRequest:
    records = [Record(partition, -1, None, value, None, 0) for value in given]
    return ProduceRequest(topic, None, records, sum(map(len, given)))


async def run(
    node: Node, *produce: ProduceRequest, commit: Sequence[Commits] = (), key: IdempotencyKey | None = None
) -> TransactionResult:
    return await node.services.transactions.run(TransactionRequest(produce, commit, key))


async def log_of(node: Node, topic: str) -> list[bytes | None]:
    try:
        info = await node.services.topics.refresh(topic)
    except UnknownTopicOrPartition:
        return []
    page, _ = await node.services.fetcher.fetch_topic(info.name, Earliest(), PageSize(500, 1_048_576, 1))
    return [record.value for _, record in page.records]


@pytest.fixture
async def alice(node: Node) -> Node:
    """A node with `orders`, three records in partition 0 of two, given to one member, and an empty `bills`."""
    await node.create()
    await node.create("bills", 1)
    await node.produce(b"a", b"b", b"c")
    await node.join("alice")
    return node


async def test_records_and_offsets_are_written_together(alice: Node) -> None:
    done = await run(alice, values("bills", b"1", b"2"), values("totals", b"3"), commit=[(ALICE, [move(0, 2)])])

    assert [one.offsets for one in done.produced] == [[0, 1], [0]]
    assert not done.duplicate
    assert (await log_of(alice, "bills"), await log_of(alice, "totals")) == ([b"1", b"2"], [b"3"])
    assert await alice.committed() == {("orders", 0): 2, ("orders", 1): 0}
    assert seen(await alice.poll(epoch=1))[0].offset == 2


async def test_a_transaction_repeated_after_a_lost_answer_writes_nothing(alice: Node) -> None:
    await run(alice, values("bills", b"1"), commit=[(ALICE, [move(0, 2)])])

    with pytest.raises(OffsetConflict) as refused:
        await run(alice, values("bills", b"1"), commit=[(ALICE, [move(0, 2)])])

    assert refused.value.facts["committed_offset"] == 2
    assert await log_of(alice, "bills") == [b"1"]


@pytest.mark.parametrize(
    ("produce", "commit", "error"),
    [
        ("new", (ALICE, [move(1, 2)]), OffsetConflict),
        ("new", (ALICE, [move(0, 4)]), CommitAboveLogEnd),
        ("new", (ALICE, [move(0, 1), move(1, 0, 1)]), OffsetConflict),
        ("new", (Committer(GROUP, "alice", 0), [move(0, 1)]), StaleMemberEpoch),
        ("new", (Committer(GROUP, "alice", 2), [move(0, 1)]), FencedMemberEpoch),
        ("new", (Committer(GROUP, "bob", 1), [move(0, 1)]), UnknownMemberId),
        ("new", (Committer("other", "alice", 1), [move(0, 1)]), UnknownMemberId),
        ("new", (Committer(GROUP, None), [move(0, 1)]), NonEmptyGroup),
        ("new", (Committer("other", None), [move(0, 1)]), OffsetConflict),
        ("new", (ALICE, [move(0, 0, 9)]), UnknownPartitionInRecord),
        ("new", (ALICE, [move(0, 0, topic="nothing")]), UnknownPartitionInRecord),
        ("compacted", (ALICE, [move(0, 1)]), InvalidRecord),
    ],
)
async def test_an_error_of_any_part_writes_nothing(
    alice: Node, produce: str, commit: Commits, error: type[Exception]
) -> None:
    await alice.services.topics.create("compacted", TopicRequest(1, {"cleanup_policy": "compact"}))
    before = await alice.group()

    with pytest.raises(error):
        await run(alice, values("bills", b"1"), values("new", b"2"), values(produce, b"3"), commit=[commit], key=KEY)

    assert await log_of(alice, "bills") == []
    assert await alice.services.topics.find("new") is None
    assert await alice.group() == before
    assert await alice.committed() == {("orders", 0): 0, ("orders", 1): 0}
    assert [one.name for one in await alice.groups.list_("", 9)] == [GROUP]
    await run(alice, values("bills", b"free"), key=KEY)  # the key is unused


async def test_a_repeat_of_a_key_gets_the_first_result_whatever_has_changed(alice: Node) -> None:
    request = (values("bills", b"1"), values("new", b"2"))
    first = await run(alice, *request, commit=[(ALICE, [move(0, 2)])], key=KEY)
    await alice.join("alice")
    await alice.services.topics.delete("new")
    await alice.services.topics.change("bills", TopicRequest(None, {"cleanup_policy": "compact"}))

    again = await run(alice, *request, commit=[(ALICE, [move(0, 2)])], key=KEY)

    assert (again.produced, again.duplicate) == (first.produced, True)
    assert await log_of(alice, "bills") == [b"1"]
    assert await alice.services.topics.find("new") is None


async def test_a_key_belongs_to_one_request(alice: Node) -> None:
    await run(alice, values("bills", b"1"), key=KEY)

    with pytest.raises(IdempotencyKeyReused):
        await run(alice, values("bills", b"2"), key=IdempotencyKey(KEY.key_hash, b"g" * 32))

    assert await log_of(alice, "bills") == [b"1"]


async def test_concurrent_repeats_of_a_transaction_are_applied_once(alice: Node) -> None:
    def send(key: IdempotencyKey | None) -> Any:
        return run(alice, values("bills", b"1"), commit=[(ALICE, [move(0, 2)])], key=key)

    keyed = await asyncio.gather(*[send(KEY) for _ in range(5)])
    unkeyed = await asyncio.gather(*[send(None) for _ in range(5)], return_exceptions=True)

    assert sorted(one.duplicate for one in keyed) == [False, True, True, True, True]
    assert [type(one) for one in unkeyed] == [OffsetConflict] * 5
    assert await log_of(alice, "bills") == [b"1"]


async def test_several_groups_commit_together(alice: Node) -> None:
    await alice.join("zoe", group="audit")
    await alice.commit(None, -1, OffsetCommit("orders", 0, 1), group="tool")
    commits: list[Commits] = [
        (Committer("tool", None), [move(1, 3)]),
        (Committer("audit", "zoe", 1), [move(0, 1)]),
        (ALICE, [move(0, 2), move(0, 0, 1)]),
    ]

    await run(alice, values("bills", b"1"), commit=commits)

    assert [(await alice.committed(group))["orders", 0] for group in ("tool", "audit", GROUP)] == [3, 1, 2]


async def test_a_topic_named_twice_is_appended_in_order_and_created_once(alice: Node) -> None:
    done = await run(alice, values("new", b"1"), values("bills", b"2"), values("new", b"3", b"4"))

    assert [one.offsets for one in done.produced] == [[0], [0], [1, 2]]
    assert await log_of(alice, "new") == [b"1", b"3", b"4"]


async def test_a_transaction_creates_no_topic_where_that_is_disabled(migrated_url: str) -> None:
    node = Node(migrated_url, auto_create_topics=False)

    with pytest.raises(UnknownTopicOrPartition):
        await run(node, values("new", b"1"))

    node.storage.close()


async def test_concurrent_transactions_create_a_topic_once(node: Node) -> None:
    outcomes = await asyncio.gather(*[run(node, values("new", b"%d" % n)) for n in range(6)])

    assert sorted(one.produced[0].offsets[0] for one in outcomes) == [0, 1, 2, 3, 4, 5]
    assert sorted(map(bytes, filter(None, await log_of(node, "new")))) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_topics_that_another_node_replaced_or_grew_are_refreshed(alice: Node) -> None:
    old = await alice.services.topics.get("bills")

    def replace(tx: Tx, partitions: int) -> None:
        found = topics.find_locked(tx, "bills", old.config)
        assert found is not None
        topics.delete_(tx, found.info)
        topics.create(tx, "bills", partitions, {}, 0)

    def grow(tx: Tx, partitions: int) -> None:
        found = topics.find_locked(tx, "bills", old.config)
        assert found is not None
        topics.change(tx, found.info, partitions, {})

    await alice.storage.write(replace, 1)
    await run(alice, values("bills", b"1"))
    await alice.storage.write(grow, 2)
    grown = await run(alice, values("bills", b"2", partition=1))

    assert (grown.produced[0].partitions, grown.produced[0].offsets) == ([1], [0])
    assert await log_of(alice, "bills") == [b"1", b"2"]
    await alice.storage.write(replace, 3)
    replaced = await run(alice, values("bills", b"3", partition=2))
    assert (replaced.produced[0].partitions, replaced.produced[0].offsets) == ([2], [0])
    assert await log_of(alice, "bills") == [b"3"]


async def test_a_transaction_wakes_the_readers_of_its_records(alice: Node) -> None:
    await alice.poll("zoe", group="audit", topics=("bills",))
    polling = asyncio.create_task(
        alice.services.poller.poll(poll_request("zoe", group="audit", topics=("bills",)), Deadline(LONG_MS))
    )
    await parked(alice.services)

    await run(alice, values("bills", b"1"))

    assert [(one.topic, one.offset) for one in seen(await polling)] == [("bills", 0)]


async def test_a_transaction_may_have_only_offsets_or_only_records(alice: Node) -> None:
    assert (await run(alice, commit=[(ALICE, [move(0, 1)])])).produced == []
    assert [one.offsets for one in (await run(alice, values("bills", b"1"))).produced] == [[0]]
    with pytest.raises(FencedMemberEpoch):
        await run(alice, values("bills", b"2"), commit=[(Committer(GROUP, "alice", 9), [])])

    assert await log_of(alice, "bills") == [b"1"]


@pytest.mark.postgres
async def test_transactions_of_two_nodes_over_the_same_groups_and_topics_end_without_a_deadlock(
    nodes: tuple[Node, Node],
) -> None:
    first, second = nodes
    await first.create(partitions=1)
    for topic in ("x", "y"):
        await first.create(topic, 1)
    await first.produce(*[b"x"] * 100)
    for group in ("a", "b"):
        await first.join("alice", group=group)
    members = [Committer("a", "alice", 1), Committer("b", "alice", 1)]

    async def count(node: Node, order: int) -> int:
        done = 0
        for _ in range(10):
            at = (await node.committed("a"))["orders", 0] or 0
            commits: list[Commits] = [(one, [move(at, at + 1)]) for one in members[::order]]
            try:
                await run(node, *[values(topic, b"1") for topic in ["x", "y"][::order]], commit=commits)
                done += 1
            except OffsetConflict:
                pass
        return done

    counts = await asyncio.wait_for(
        asyncio.gather(*[count(node, order) for node in nodes for order in (1, -1)]), LONG_MS / 1000
    )

    assert [(await second.committed(group))["orders", 0] for group in ("a", "b")] == [sum(counts)] * 2
    assert [len(await log_of(second, topic)) for topic in ("x", "y")] == [sum(counts)] * 2
    assert sum(counts) >= 10
