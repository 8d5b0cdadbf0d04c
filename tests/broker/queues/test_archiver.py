"""Archiving: what ends badly goes to the dead-letter topic, as much of it at once as there is room for."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from app.broker.log.topics import TopicRequest
from app.broker.queues.queues import QueueRequest
from app.domain.queues.in_flight import AcknowledgeType
from app.errors.database import DiskFull
from app.storage.queues import share_partitions
from tests.broker.node import Node
from tests.broker.queues.jobs import LARGE, acquire, archive, archive_again, come_due, create, end_of, settle, state

if TYPE_CHECKING:
    from app.domain.queues.delivery import Delivery

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("copied", [False, True], ids=["of the log", "of copies"])
async def test_archiving_reads_records_by_their_bytes(sqlite_url: str, copied: bool) -> None:
    node = Node(sqlite_url)
    try:
        await create(node, "dead", max_delivery_count=2)
        for _ in range(45):
            await node.produce(LARGE)
        held = await acquire(node, 30) + await acquire(node, 30)
        if copied:
            await settle(node, held, AcknowledgeType.RELEASE, 60_000)
            await come_due(node)
            held = await acquire(node, 64) + await acquire(node, 64)
        await settle(node, held, AcknowledgeType.REJECT)
        del held
        tracemalloc.start()

        await archive(node)

        assert tracemalloc.get_traced_memory()[1] < 30_000_000
        assert (await state(node)).archived == await end_of(node, "dead") == 45
    finally:
        tracemalloc.stop()
        node.storage.close()


async def test_archiving_goes_on_until_nothing_is_left(node: Node) -> None:
    await create(node, "dead")
    await node.produce(*(b"%d" % number for number in range(250)))
    held = await acquire(node, 250)
    await settle(node, held[:120], AcknowledgeType.RELEASE, 60_000)
    await come_due(node)
    await settle(node, held[120:] + await acquire(node, 64) + await acquire(node, 64), AcknowledgeType.REJECT)

    await archive(node)

    assert (await state(node)).archived == await end_of(node, "dead") == 250


async def hold(node: Node, number: int, *, copied: bool) -> list[Delivery]:
    """Acquire records; `copied` ones have been delayed before, each into a row of its own."""
    held = await acquire(node, number)
    if copied:
        await settle(node, held, AcknowledgeType.RELEASE, 60_000)
        await come_due(node)
        held = await acquire(node, number)
    return held


class FullDisk:
    """A disk that is full until it is told otherwise."""

    exhausted = True

    def exhaust(self) -> None:
        self.exhausted = True

    def restore(self) -> bool:
        return not self.exhausted


@pytest.mark.parametrize("copied", [False, True], ids=["of the log", "of copies"])
async def test_on_a_full_disk_dead_letters_wait_for_space_and_nobody_gets_the_records(node: Node, copied: bool) -> None:
    await create(node, "dead")
    await node.produce(b"1", b"2", b"3")
    held = await hold(node, 3, copied=copied)
    disk = node.storage._space = FullDisk()
    await settle(node, held, AcknowledgeType.REJECT)

    await archive(node)

    assert await end_of(node, "dead") == 0
    assert (
        await state(node)
    ).dead_letter_error == "the database has no space left; archiving continues when space is available"
    assert await acquire(node, 3) == []
    disk.exhausted = False
    await archive_again(node)
    assert await end_of(node, "dead") == (await state(node)).archived == 3
    assert (await state(node)).dead_letter_error is None


async def test_on_a_full_disk_archiving_without_dead_letters_goes_on(node: Node) -> None:
    await create(node)
    await node.produce(b"1")
    node.storage._space = FullDisk()
    await settle(node, await acquire(node, 1), AcknowledgeType.REJECT)

    await archive(node)

    assert ((await state(node)).archived, (await state(node)).dead_letter_error) == (1, None)


@pytest.mark.parametrize("copied", [False, True], ids=["of the log", "of copies"])
async def test_a_refusal_is_told_until_its_record_has_ended(node: Node, copied: bool) -> None:
    await node.services.topics.create("dead", TopicRequest(1, {"max_message_bytes": 10}))
    await create(node, "dead")
    await node.produce(b'"a long one"', b"2", b"3")
    held = await hold(node, 3, copied=copied)
    await settle(node, held, AcknowledgeType.REJECT)

    await archive(node)

    assert ((await state(node)).archived, (await state(node)).delayed) == (2, 1)
    assert "max_message_bytes of dead is 10" in str((await state(node)).dead_letter_error)
    await node.produce(b"4")
    await settle(node, await acquire(node, 1), AcknowledgeType.REJECT)
    await archive(node)
    assert "max_message_bytes of dead is 10" in str((await state(node)).dead_letter_error)

    await node.services.queues.purge("jobs")
    assert (await state(node)).dead_letter_error is None


async def test_windows_that_are_due_longest_come_first(node: Node) -> None:
    await create(node)
    await node.create("other", 1)
    await node.services.queues.create("later-made", QueueRequest("other", {}))
    first, last = [(await node.services.queues.get(name)).queue_id for name in ("jobs", "later-made")]
    await change(node, f"archive_at_ms = 2 WHERE queue_id = {first}")
    await change(node, f"archive_at_ms = 3, delayed_archive_at_ms = 1 WHERE queue_id = {last}")

    found = [await node.storage.read(share_partitions.due, limit) for limit in (1, 10)]

    assert [[queue_id for queue_id, _ in each] for each in found] == [[last], [last, first]]


async def change(node: Node, words: str) -> None:
    await node.storage.write(lambda tx: tx.connection.exec_driver_sql(f"UPDATE queue_partitions SET {words}").rowcount)


async def test_on_a_full_disk_nothing_is_redriven(node: Node) -> None:
    await create(node, "dead")
    await node.produce(b"1", b"2")
    await settle(node, await acquire(node, 2), AcknowledgeType.REJECT)
    await archive(node)
    disk = node.storage._space = FullDisk()

    with pytest.raises(DiskFull):
        await node.services.redriver.redrive("jobs", None, 100, dry_run=False)

    assert await end_of(node, "orders") == 2
    assert (await node.services.redriver.redrive("jobs", None, 100, dry_run=True)).partitions == {0: 2}
    disk.exhausted = False
    assert (await node.services.redriver.redrive("jobs", None, 100, dry_run=False)).partitions == {0: 2}
