"""The retention task: which topics each step concerns, and how large its passes are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.domain.log.append import IdempotencyKey
from app.domain.log.topic import TopicConfig
from app.errors.database import DiskFull
from app.tasks.retention import Retention
from tests.storage.scribe import NOW_MS, Row, Scribe, request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.storage.db.engine import Storage

pytestmark = pytest.mark.anyio

DAY_MS = 24 * 3_600_000


@pytest.fixture
def scribe(storage: Storage) -> Scribe:
    """Writes to the log that the task works on."""
    return Scribe(storage)


def task(storage: Storage, now_ms: int = NOW_MS, **defaults: Any) -> Retention:
    return Retention(storage, TopicConfig(**defaults), lambda: now_ms)


async def test_log_starts_rise_in_all_partitions_of_topics_with_the_policy_delete(
    storage: Storage, scribe: Scribe
) -> None:
    orders = scribe.create("orders", partitions=60, retention_ms=DAY_MS)
    state = scribe.create("state", cleanup_policy="compact", retention_ms=DAY_MS)
    for partition in (0, 59):
        scribe.append_values(orders, b"old", b"older", partition=partition)
    scribe.append(state, [Row(key=b"k", value=b"kept")])

    assert await task(storage, NOW_MS + 2 * DAY_MS).raise_log_starts() is False

    assert [scribe.bounds(orders, partition).log_start_offset for partition in (0, 1, 59)] == [2, 0, 2]
    assert scribe.values(state) == {0: b"kept"}


async def test_a_topic_without_a_policy_of_its_own_has_the_defaults(storage: Storage, scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append_values(info, b"old")

    await task(storage, NOW_MS + 2 * DAY_MS, retention_ms=DAY_MS).raise_log_starts()

    assert scribe.values(info) == {}


async def test_compaction_cleans_whole_partitions_of_compacted_topics_only(storage: Storage, scribe: Scribe) -> None:
    state = scribe.create("state", cleanup_policy="compact")
    orders = scribe.create("orders")
    for info in (state, orders):
        scribe.append(info, [Row(key=b"k", value=b"%d" % number) for number in range(1_100)])

    assert await task(storage).compact() is False

    assert scribe.values(state) == {1_099: b"1099"}
    assert len(scribe.values(orders)) == 1_100


class ChangesAfter:
    """A storage in which a topic is changed after some transactions of the task, as by a request."""

    def __init__(self, storage: Storage, transactions: int, change: Callable[[], object]) -> None:
        self._storage = storage
        self._left = transactions
        self._change = change

    async def read(self, *query: Any) -> Any:
        return await self._run(self._storage.read, query)

    async def write(self, *query: Any) -> Any:
        return await self._run(self._storage.write, query)

    async def _run(self, run: Callable[..., Awaitable[Any]], query: tuple[Any, ...]) -> Any:
        result = await run(*query)
        self._left -= 1
        if self._left == 0:
            self._change()
        return result


async def test_records_without_a_key_survive_a_compaction_that_began_before_the_policy_was_changed_to_delete(
    storage: Storage, scribe: Scribe
) -> None:
    state = scribe.create("state", cleanup_policy="compact")
    scribe.append(state, [Row(key=b"k", value=b"v")])

    def keep_all() -> None:
        scribe.append_values(scribe.change(state, 1, cleanup_policy="delete"), b"a", b"b", b"c")

    await task(ChangesAfter(storage, 1, keep_all)).compact()  # type: ignore[arg-type] # a double

    assert scribe.values(state) == {0: b"v", 1: b"a", 2: b"b", 3: b"c"}


async def test_a_compaction_of_many_records_ends_when_the_policy_is_changed_to_delete(
    storage: Storage, scribe: Scribe
) -> None:
    state = scribe.create("state", cleanup_policy="compact")
    scribe.append(state, [Row(key=b"k", value=b"%d" % number) for number in range(1_100)])

    def keep_all() -> None:
        scribe.change(state, 1, cleanup_policy="delete")

    await task(ChangesAfter(storage, 2, keep_all)).compact()  # type: ignore[arg-type] # a double

    assert min(scribe.values(state)) == 499


@pytest.mark.parametrize("transactions", [1, 2])
@pytest.mark.parametrize("config", [{"retention_ms": -1}, {"cleanup_policy": "compact"}])
async def test_records_survive_a_retention_that_began_before_the_topic_was_changed_to_keep_them(
    storage: Storage, scribe: Scribe, transactions: int, config: dict[str, Any]
) -> None:
    info = scribe.create(retention_ms=DAY_MS)
    scribe.append(info, [Row(key=b"k", value=b"kept")])
    changing = ChangesAfter(storage, transactions, lambda: scribe.change(info, 1, **config))

    await task(changing, NOW_MS + 2 * DAY_MS).raise_log_starts()  # type: ignore[arg-type] # a double

    assert scribe.values(info) == {0: b"kept"}


async def test_a_purge_deletes_rows_in_passes_and_adapts_their_size(storage: Storage, scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append_values(info, *[b"x"] * 1_200)
    scribe.delete_before(info, 1_200)
    retention = task(storage)

    assert await retention.purge() is True

    assert scribe.count("records") == 700
    assert 250 <= retention.rows <= 1_000
    while await retention.purge():
        pass
    assert scribe.count("records") == 0


class FullDisk:
    """A storage that has no space left."""

    async def write(self, *_: object) -> bool:
        raise DiskFull("no space left")


async def test_a_purge_on_a_full_disk_is_retried_with_half_the_rows_down_to_one() -> None:
    retention = task(FullDisk())  # type: ignore[arg-type] # a double

    retried = [(await retention.purge(), retention.rows) for _ in range(10)]

    assert [rows for _, rows in retried] == [250, 125, 62, 31, 15, 7, 3, 1, 1, 1]
    assert [more for more, _ in retried] == [True] * 7 + [False] * 3


class FullForTheFirst:
    """A storage without the space to copy the records of the first partition."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def write(self, query: Any, rows: int, skipped: int, holders: Any) -> bool:
        if skipped == 0:
            raise DiskFull("no space left")
        return await self._storage.write(query, rows, skipped, holders)


async def test_a_partition_without_space_for_its_copies_does_not_stop_the_purge_of_others(
    storage: Storage, scribe: Scribe
) -> None:
    for name in ("first", "second"):
        info = scribe.create(name)
        scribe.append_values(info, b"x", b"y")
        scribe.delete_before(info, 2)
    retention = task(FullForTheFirst(storage))  # type: ignore[arg-type] # a double

    for _ in range(15):
        await retention.purge()

    assert scribe.count("records") == 2


async def test_expired_keys_are_deleted_and_a_full_batch_reports_more(storage: Storage, scribe: Scribe) -> None:
    info = scribe.create()
    keys = [IdempotencyKey(b"%032d" % number, b"f" * 32) for number in range(501)]
    scribe.apply(*[request(info, [Row()], key=key) for key in keys])
    retention = task(storage, NOW_MS + 2 * DAY_MS)

    assert [await retention.expire(), await retention.expire()] == [True, False]

    assert scribe.count("idempotency_keys") == 0
