"""Poll: what it returns and commits, and what ends its wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.broker.groups.offsets import OffsetCommit
from app.broker.log.page_reader import PageSize
from app.broker.log.producer import ProduceRequest
from app.broker.log.topics import TopicRequest
from app.broker.waiting.deadline import Deadline
from app.domain.log.record import Record
from app.errors.groups import (
    FencedInstanceId,
    FencedMemberEpoch,
    NoOffsetForPartition,
    StaleMemberEpoch,
    UnknownMemberId,
)
from app.errors.log import UnknownPartitionInRecord
from app.storage.groups import members
from app.storage.log import topics
from app.tasks.notices import poll_watched
from tests.broker.node import LONG_MS, SECOND_MS, Node, Seen, commits_of, numbers, parked, poll_request, seen
from tests.waiting import DEADLINE_S

if TYPE_CHECKING:
    from app.storage.db.transaction import Tx
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

MIB = 1_048_576
LONG_SESSION_MS = 900_000
"""Its heartbeat interval is 150 s."""


def orders(partition: int, *offsets: int) -> list[Seen]:
    return [Seen("orders", partition, offset) for offset in offsets]


async def test_the_first_poll_joins_and_reads_from_the_start(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b")
    await node.produce(b"c", partition=1)

    page = await node.poll()

    assert sorted(seen(page)) == [*orders(0, 0, 1), *orders(1, 0)]
    assert sorted(page.ranges.values()) == [("orders", 0, 0, 2), ("orders", 1, 0, 1)]
    assert (page.member.member.member_epoch, page.member.member.state(1)) == (1, "STABLE")


async def test_without_auto_commit_nothing_is_committed_and_nothing_is_written(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    await node.poll()
    node.writes = 0

    assert seen(await node.poll()) == seen(await node.poll()) == orders(0, 0)
    assert node.writes == 0
    assert await node.committed() == {("orders", 0): 0, ("orders", 1): 0}


async def test_a_repeated_poll_with_auto_commit_reads_each_record_once(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b", b"c")
    size = PageSize(2, MIB, 1)

    pages = [await node.poll(auto_commit=True, size=size) for _ in range(3)]

    assert list(map(seen, pages)) == [orders(0, 0, 1), orders(0, 2), []]
    assert await node.committed() == {("orders", 0): 3, ("orders", 1): 0}


async def test_a_poll_that_commits_its_page_and_reads_on_writes_once(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b", b"c")
    page = await node.poll(size=PageSize(1, MIB, 1))
    node.writes = 0

    page = await node.poll(epoch=1, commits=commits_of(page))

    assert (seen(page), node.writes) == (orders(0, 1, 2), 1)
    assert await node.committed() == {("orders", 0): 1, ("orders", 1): 0}


@pytest.mark.parametrize(
    ("auto_commit", "values", "reads", "writes"),
    [(False, [b"c"], 1, 0), (False, [], 1, 0), (True, [b"c"], 1, 1), (True, [], 1, 1)],
)
async def test_a_poll_that_does_not_wait_runs_at_most_two_transactions(
    node: Node, auto_commit: bool, values: list[bytes], reads: int, writes: int
) -> None:
    await node.create(partitions=1)
    await node.produce(b"a", b"b")
    await node.poll(auto_commit=auto_commit)
    for value in values:
        await node.produce(value)
    node.reads = node.writes = 0

    page = await node.poll(auto_commit=auto_commit)

    assert seen(page) == orders(0, *range(2 if auto_commit else 0, 2 + len(values)))
    assert (node.reads, node.writes) == (reads, writes)


async def test_a_poll_with_auto_commit_and_nothing_to_commit_or_read_writes_nothing(node: Node) -> None:
    await node.create()
    await node.poll(auto_commit=True)
    node.reads = node.writes = 0

    assert seen(await node.poll(auto_commit=True)) == []
    assert (node.reads, node.writes) == (1, 0)


async def test_a_page_read_before_another_commit_is_read_again(node: Node) -> None:
    await node.create(partitions=1)
    await node.produce(b"a", b"b", b"c")
    await node.poll(auto_commit=True, size=PageSize(1, MIB, 1))

    async def commit() -> None:
        await node.commit("alice", 1, OffsetCommit("orders", 0, 2))

    node.after_read = commit
    page = await node.poll(auto_commit=True)

    assert seen(page) == orders(0, 2)
    assert (await node.committed())["orders", 0] == 2


async def test_after_a_lost_answer_a_poll_without_auto_commit_returns_the_same_page(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b")
    await node.poll(auto_commit=True, size=PageSize(1, MIB, 1))
    lost = await node.poll(auto_commit=True, size=PageSize(1, MIB, 1))

    again = await node.poll(auto_commit=False, size=PageSize(1, MIB, 1))

    assert seen(lost) == seen(again) == orders(0, 1)
    assert await node.committed() == {("orders", 0): 1, ("orders", 1): 0}


async def test_auto_commit_commits_the_page_returned_last_not_a_larger_one_that_was_lost(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b", b"c")
    await node.poll(auto_commit=True)  # all three records; the answer is lost
    again = await node.poll(auto_commit=False, size=PageSize(1, MIB, 1))

    page = await node.poll(auto_commit=True)

    assert (seen(again), seen(page)) == (orders(0, 0), orders(0, 1, 2))
    assert await node.committed() == {("orders", 0): 1, ("orders", 1): 0}


async def test_a_commit_whose_answer_was_lost_can_be_repeated(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b")
    first = await node.poll(size=PageSize(1, MIB, 1))
    lost = await node.poll(epoch=1, commits=commits_of(first))

    again = await node.poll(epoch=1, commits=commits_of(first))

    assert seen(lost) == seen(again) == orders(0, 1)


async def test_a_member_that_joined_again_does_not_commit_the_last_page_of_its_old_epoch(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    await node.poll(auto_commit=True)
    await node.join("alice")

    page = await node.poll(auto_commit=True)

    assert seen(page) == orders(0, 0)
    assert await node.committed() == {("orders", 0): 0, ("orders", 1): 0}


async def test_a_page_of_a_revoked_partition_is_not_committed(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    await node.produce(b"b", partition=1)
    page = await node.poll(auto_commit=True)
    await node.join("bob")
    await node.run_due_rebalances()
    moved = await node.heartbeat("alice", 1, set())
    assert len(moved.member.assigned) == 1

    await node.poll(auto_commit=True)

    kept = numbers(moved)[0]
    assert len(page.records) == 2
    assert await node.committed() == {("orders", kept): 1, ("orders", 1 - kept): 0}


async def test_auto_commit_does_not_overwrite_a_later_commit(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b")
    await node.poll(auto_commit=True, size=PageSize(1, MIB, 1))
    await node.commit("alice", 1, OffsetCommit("orders", 0, 2))

    await node.poll(auto_commit=True)

    assert await node.committed() == {("orders", 0): 2, ("orders", 1): 0}


async def test_a_page_of_a_disconnected_client_is_not_committed(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    disconnected.set_result(None)
    await node.services.poller.poll(poll_request("alice", auto_commit=True), Deadline(LONG_MS, disconnected))

    assert seen(await node.poll(auto_commit=True)) == orders(0, 0)


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (3, 3), (7, 7), (10, 10), (500, 30)])
async def test_a_page_has_at_most_max_records(node: Node, most: int, expected: int) -> None:
    await node.create(partitions=3)
    for partition in range(3):
        await node.produce(*[b"x"] * 10, partition=partition)

    assert len((await node.poll(size=PageSize(most, MIB, 1))).records) == expected


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (10, 1), (19, 1), (20, 2), (59, 5), (60, 6)])
async def test_a_page_has_at_most_max_bytes_and_at_least_one_record(node: Node, most: int, expected: int) -> None:
    await node.create(partitions=3)
    for partition in range(3):
        await node.produce(*[b"0123456789"] * 2, partition=partition)

    assert len((await node.poll(size=PageSize(500, most, 1))).records) == expected


async def test_each_partition_and_topic_has_a_share_of_a_page(node: Node) -> None:
    await node.create("orders", 1)
    await node.create("clicks", 1)
    await node.produce(*[b"x"] * 100)
    await node.produce(*[b"x"] * 3, topic="clicks")

    page = await node.poll(topics=("clicks", "orders"), size=PageSize(10, MIB, 1))

    assert seen(page) == [*orders(0, 0, 1, 2, 3, 4, 5, 6), *[Seen("clicks", 0, n) for n in range(3)]]


async def test_no_partition_starves_behind_others_with_larger_records(node: Node) -> None:
    await node.create(partitions=4)
    await node.produce(*[b"123456"] * 100)
    for partition in (1, 2, 3):
        await node.produce(b"x" * 200, partition=partition)

    partitions: set[int] = set()
    for _ in range(5):
        await node.pass_time(1)
        page = await node.poll(auto_commit=True, size=PageSize(500, 100, 1))
        partitions |= {one.partition for one in seen(page)}

    assert partitions == {0, 1, 2, 3}


async def test_pages_with_fewer_records_than_partitions_rotate_over_all_partitions(node: Node) -> None:
    await node.create(partitions=5)
    for partition in range(5):
        await node.produce(*[b"x"] * 10, partition=partition)

    partitions: list[int] = []
    for _ in range(5):
        await node.pass_time(1)
        partitions += [one.partition for one in seen(await node.poll(auto_commit=True, size=PageSize(2, MIB, 1)))]

    assert partitions == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0]


async def test_a_group_behind_the_log_start_goes_on_there_and_returns_the_skipped_offsets(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b", b"c")
    await node.poll()
    await node.services.topics.delete_before("orders", 0, 2)

    page = await node.poll(auto_commit=True)

    assert seen(page) == orders(0, 2)
    assert page.skipped == [("orders", 0, 0, 2)]
    assert list(page.ranges.values()) == [("orders", 0, 0, 3)]
    assert (await node.poll(auto_commit=True)).skipped == []
    assert await node.committed() == {("orders", 0): 3, ("orders", 1): 0}


async def test_a_poll_of_a_group_whose_unread_records_were_all_deleted_does_not_wait(node: Node) -> None:
    await node.create()
    await node.produce(b"a", b"b")
    await node.poll()
    await node.services.topics.delete_before("orders", 0, 2)

    page = await node.poll(auto_commit=True, wait_ms=LONG_MS)

    assert (seen(page), page.skipped) == ([], [("orders", 0, 0, 2)])
    await node.poll(auto_commit=True)
    assert await node.committed() == {("orders", 0): 2, ("orders", 1): 0}


async def test_with_reset_none_a_poll_without_a_committed_offset_is_refused(node: Node) -> None:
    await node.create()

    with pytest.raises(NoOffsetForPartition) as refused:
        await node.poll(auto_offset_reset="none")

    assert refused.value.facts == {"topic": "orders", "partition": 0, "committed_offset": None, "log_start_offset": 0}
    assert await node.committed() == {("orders", 0): None, ("orders", 1): None}


async def test_with_reset_none_a_poll_below_the_log_start_is_refused(node: Node) -> None:
    await node.create(partitions=1)
    await node.produce(b"a", b"b")
    await node.commit(None, -1, OffsetCommit("orders", 0, 1))
    assert seen(await node.poll(auto_offset_reset="none")) == orders(0, 1)
    await node.services.topics.delete_before("orders", 0, 2)

    with pytest.raises(NoOffsetForPartition) as refused:
        await node.poll(auto_offset_reset="none")

    assert refused.value.facts == {"topic": "orders", "partition": 0, "committed_offset": 1, "log_start_offset": 2}


async def test_with_reset_latest_a_group_starts_at_the_log_end_and_misses_no_later_record(node: Node) -> None:
    await node.create(partitions=1)
    await node.produce(b"old")

    assert seen(await node.poll(auto_offset_reset="latest")) == []
    await node.produce(b"new")

    assert seen(await node.poll(auto_offset_reset="latest")) == orders(0, 1)


async def test_with_reset_latest_a_partition_added_later_is_read_from_its_start(node: Node) -> None:
    await node.create(partitions=1)
    await node.poll(auto_offset_reset="latest")
    await node.services.topics.change("orders", TopicRequest(2, {}))
    await node.produce(b"early", partition=1)
    await node.run_due_rebalances()

    page = await node.poll(auto_offset_reset="latest")

    assert seen(page) == orders(1, 0)


async def test_a_waiting_poll_is_answered_by_an_append(node: Node) -> None:
    await node.create()
    polling = node.polling()
    await node.parked()

    await node.produce(b"a", partition=1)

    assert seen(await polling) == orders(1, 0)
    assert node.services.signals.waiting == 0


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)])
async def test_of_two_polls_that_wait_at_once_only_what_both_return_is_committed(
    node: Node, sizes: tuple[int, int]
) -> None:
    await node.create()
    await node.poll(auto_commit=True)
    polls = []
    for number, size in enumerate(sizes, 1):
        polls.append(node.polling(auto_commit=True, size=PageSize(size, MIB, 1)))
        await node.parked(number)

    await node.produce(b"a", b"b")
    pages = [seen(await each) for each in polls]
    following = seen(await node.poll(auto_commit=True))

    assert pages == [orders(0, *range(size)) for size in sizes]
    assert (following, (await node.committed())["orders", 0]) == (orders(0, 1), 1)


async def test_of_two_polls_that_wait_at_once_and_return_other_partitions_nothing_is_committed(node: Node) -> None:
    await node.create()
    member = (await node.poll(auto_commit=True)).member
    (topic_id, _), *_ = member.member.assigned
    await node.produce(b"a")
    await node.produce(b"b", partition=1)
    for number in (0, 1, 1):
        ranges = {(topic_id, number): (0, 1)}
        assert await node.storage.write(members.save_last_poll, member, 1, ranges)

    following = seen(await node.poll(auto_commit=True))

    assert sorted(following) == [*orders(0, 0), *orders(1, 0)]


async def test_a_waiting_poll_reads_on_after_its_topic_leaves_the_cache(node: Node) -> None:
    await node.create(partitions=1)
    await node.poll()
    polling = node.polling()
    await node.parked()
    node.before_write = lambda _: node.services.topics.drop(["orders"])

    await node.produce(b"a")

    assert seen(await polling) == orders(0, 0)


async def test_a_poll_waits_no_longer_than_a_heartbeat_interval(node: Node) -> None:
    await node.create()
    started = asyncio.get_running_loop().time()

    async with asyncio.timeout(DEADLINE_S):
        page = await node.poll(wait_ms=10 * LONG_MS, session_timeout_ms=1_000)

    assert page.member.member.heartbeat_interval_ms == 166
    assert asyncio.get_running_loop().time() - started > 0.15


async def test_the_first_poll_waits_for_a_partition_and_then_for_its_records(node: Node) -> None:
    await node.create(partitions=1)
    await node.produce(b"a")
    await node.poll(auto_commit=True)
    polling = node.polling("bob", auto_commit=True)
    await node.parked()

    await node.run_due_rebalances()
    await node.groups.leave("billing", "alice")
    await node.pass_time(SECOND_MS)
    await node.groups.rebalance()

    page = await polling
    assert (seen(page), numbers(page.member)) == (orders(0, 0), [0])


async def test_a_poll_that_joins_with_other_topics_waits_for_their_records(node: Node) -> None:
    await node.create("orders", 1)
    await node.create("clicks", 1)
    await node.produce(b"a", topic="clicks")
    await node.poll()

    polling = node.polling(topics=("clicks",))
    await node.parked()
    await node.run_due_rebalances()

    assert seen(await polling) == [Seen("clicks", 0, 0)]


async def test_a_waiting_poll_is_answered_when_its_assignment_changes(node: Node) -> None:
    await node.create()
    await node.poll()
    polling = node.polling()
    await node.parked()

    await node.join("bob")
    await node.run_due_rebalances()

    page = await polling
    assert (seen(page), len(page.member.member.assigned)) == ([], 1)
    assert len((await node.group()).members["bob"].assigned) == 1


async def test_a_poll_without_owned_releases_revoked_partitions_after_its_commits(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    await node.produce(b"b", partition=1)
    page = await node.poll()
    await node.join("bob")
    await node.run_due_rebalances()

    page = await node.poll(epoch=1, commits=commits_of(page))

    bob = (await node.group()).members["bob"]
    assert len(page.member.member.assigned) == len(bob.assigned) == 1
    assert await node.committed() == {("orders", 0): 1, ("orders", 1): 1}


async def test_a_poll_that_owns_a_revoked_partition_keeps_it_and_waits(node: Node) -> None:
    await node.create()
    owned = {("orders", 0), ("orders", 1)}
    await node.poll()
    await node.join("bob")
    await node.run_due_rebalances()
    first = await node.poll(epoch=1, owned=owned, wait_ms=LONG_MS)
    assert (first.member.member.member_epoch, first.member.member.state(2)) == (1, "UNREVOKED_PARTITIONS")

    polling = node.polling(epoch=1, owned=owned)
    await node.parked()
    node.reads = node.writes = 0
    kept = numbers(first.member)[0]
    await node.produce(b"a", partition=kept)

    assert seen(await polling) == orders(kept, 0)
    assert (node.reads, node.writes) == (1, 1)  # the page, and the append
    assert (await node.group()).members["bob"].assigned == {}


async def test_a_topic_deleted_during_a_poll_does_not_cause_a_busy_loop(node: Node) -> None:
    await node.create()
    await node.create("clicks", 1)
    await node.poll(topics=("clicks", "orders"))
    polling = node.polling(topics=("clicks", "orders"))
    await node.parked()
    node.reads = 0

    await node.services.topics.delete("clicks")
    await node.parked()
    assert node.reads < 10
    await node.run_due_rebalances()

    assert numbers((await polling).member) == [0, 1]


async def test_a_topic_created_again_behind_the_cache_is_read(node: Node) -> None:
    await node.create(partitions=1)
    await node.produce(b"old", b"older")
    await node.poll(auto_commit=True)
    await node.poll(auto_commit=True)
    old = await node.services.topics.get("orders")

    def replace(tx: Tx) -> None:
        found = topics.find_locked(tx, "orders", old.config)
        assert found is not None
        topics.delete_(tx, found.info)
        topics.create(tx, "orders", 1, {}, 0)

    await node.storage.write(replace)
    await node.run_due_rebalances()
    page = await node.poll(auto_commit=True)
    assert (seen(page), numbers(page.member)) == ([], [0])
    await node.produce(b"new")

    assert seen(await node.poll(auto_commit=True)) == orders(0, 0)


async def test_a_leave_ends_the_wait(node: Node) -> None:
    await node.create()
    polling = node.polling()
    await node.parked()

    await node.groups.leave("billing", "alice")

    with pytest.raises(UnknownMemberId):
        await polling


async def test_a_second_join_ends_the_wait_of_the_first_client(node: Node) -> None:
    await node.create()
    await node.join("alice")
    polling = node.polling(epoch=1)
    await node.parked()

    await node.join("alice")

    with pytest.raises(FencedMemberEpoch):
        await polling


async def test_a_replaced_static_member_does_not_join_again_by_a_poll(node: Node) -> None:
    await node.create()
    await node.poll("alice", instance_id="till-1")
    await node.poll("anna", instance_id="till-1")

    with pytest.raises(FencedInstanceId):
        await node.poll("alice", instance_id="till-1")


async def test_a_poll_with_an_epoch_does_not_join(node: Node) -> None:
    await node.create()
    with pytest.raises(UnknownMemberId):
        await node.poll(epoch=1)
    await node.poll("bob")

    with pytest.raises(UnknownMemberId):
        await node.poll("alice", epoch=1)
    with pytest.raises(FencedMemberEpoch):
        await node.poll("bob", epoch=2)
    with pytest.raises(FencedMemberEpoch):
        await node.poll("bob", epoch=0)


async def test_an_unknown_member_is_refused_before_an_unknown_partition(node: Node) -> None:
    await node.create()

    with pytest.raises(UnknownMemberId):
        await node.poll(epoch=1, commits=[OffsetCommit("orders", 9, 0)])
    await node.poll("alice", instance_id="till-1")
    await node.poll("anna", instance_id="till-1")

    with pytest.raises(FencedInstanceId):
        await node.poll(epoch=1, commits=[OffsetCommit("nowhere", 0, 0)])


async def test_a_poll_that_is_refused_commits_nothing_and_releases_nothing(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    page = await node.poll()
    await node.join("bob")
    await node.run_due_rebalances()
    before = await node.group()

    with pytest.raises(FencedMemberEpoch):
        await node.poll(epoch=0, commits=commits_of(page))
    with pytest.raises(StaleMemberEpoch):
        await node.poll("bob", epoch=before.members["bob"].member_epoch, commits=commits_of(page))
    with pytest.raises(UnknownPartitionInRecord):
        await node.poll(epoch=1, commits=[OffsetCommit("orders", 9, 0)])

    assert await node.group() == before
    assert await node.committed() == {("orders", 0): 0, ("orders", 1): 0}


async def test_the_previous_epoch_is_accepted_after_a_lost_answer(node: Node) -> None:
    await node.create()
    await node.produce(b"a")
    page = await node.poll()
    await node.join("bob")
    await node.run_due_rebalances()
    lost = await node.poll(epoch=1, commits=commits_of(page))
    assert lost.member.member.member_epoch == 2

    again = await node.poll(epoch=1, commits=commits_of(page))

    assert again.member.member.member_epoch == 2
    assert (await node.committed())["orders", 0] == 1


async def test_closing_the_signals_answers_all_waiting_polls(node: Node) -> None:
    await node.create()
    polling = [node.polling(name) for name in ("alice", "bob")]
    await node.parked(2)

    node.services.signals.close()

    assert [seen(page) for page in await asyncio.gather(*polling)] == [[], []]


async def test_a_disconnect_ends_the_poll(node: Node) -> None:
    await node.create()
    disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    polling = asyncio.create_task(node.services.poller.poll(poll_request("alice"), Deadline(LONG_MS, disconnected)))
    await node.parked()

    disconnected.set_result(None)

    assert seen(await polling) == []
    assert node.services.signals.waiting == 0


async def test_waiting_polls_hold_no_database_connection(node: Node) -> None:
    await node.create(partitions=40)
    polling = [node.polling(f"m{number}") for number in range(40)]
    await node.parked(40)

    assert await asyncio.wait_for(node.committed(), DEADLINE_S) is not None
    await asyncio.wait_for(node.produce(b"a"), DEADLINE_S)

    node.services.signals.close()
    assert sum(len(page.records) for page in await asyncio.gather(*polling)) <= 1


@pytest.mark.postgres
async def test_a_poll_on_one_node_is_woken_by_another(migrated_postgres_url: str, serve: Serve) -> None:
    here, _ = await serve(database_url=migrated_postgres_url, poll_interval_ms=60_000)
    there, _ = await serve(database_url=migrated_postgres_url, poll_interval_ms=60_000)
    await here.services.topics.create("orders", TopicRequest(1, {}))
    wait = Deadline(10 * LONG_MS)
    polling = asyncio.create_task(
        here.services.poller.poll(poll_request("alice", session_timeout_ms=LONG_SESSION_MS), wait)
    )
    await parked(here.services)
    await there.services.producer.produce(ProduceRequest("orders", 0, [Record(0, -1, None, b"a", None, 0)], 1))
    assert seen(await asyncio.wait_for(polling, DEADLINE_S)) == orders(0, 0)

    wait = Deadline(10 * LONG_MS)
    polling = asyncio.create_task(
        here.services.poller.poll(poll_request("bob", session_timeout_ms=LONG_SESSION_MS), wait)
    )
    await parked(here.services)
    await there.services.groups.leave("billing", "alice")
    assert seen(await asyncio.wait_for(polling, DEADLINE_S)) == orders(0, 0)


@pytest.mark.postgres
async def test_a_lost_notice_delays_a_poll_until_the_watched_partitions_are_checked(
    nodes: tuple[Node, Node],
) -> None:
    here, there = nodes
    await here.create()
    polling = here.polling()
    await here.parked()
    await there.produce(b"a")

    await poll_watched(here.storage, here.services.signals)

    assert seen(await polling) == orders(0, 0)
