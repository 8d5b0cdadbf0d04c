"""Concurrent appends of threads and nodes: dense offsets, no record skipped, no request applied twice."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import psycopg
import pytest

from app.domain.log.append import Accepted, IdempotencyKey
from app.domain.log.producer import ProducerStamp
from app.errors.database import LockTimeout
from app.errors.log import UnknownTopicOrPartition
from app.storage.db.opening import open_storage
from app.storage.log import topics
from app.storage.log.appends import append_all
from tests.storage.lock_waits import await_lock_waits
from tests.storage.scribe import DEFAULTS, NOW_MS, Row, Scribe, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.domain.log.append import Append, AppendOutcome
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

T = TypeVar("T")
WRITERS = 4
PER_WRITER = 25
KEY = IdempotencyKey(b"k" * 32, b"f" * 32)
STAMP = ProducerStamp("checkout", 0, 0, b"f")
DAY_MS = 86_400_000


@pytest.fixture
def nodes(migrated_postgres_url: str) -> Iterator[tuple[Scribe, Scribe]]:
    """Two nodes on one PostgreSQL database."""
    first, second = open_storage(migrated_postgres_url), open_storage(migrated_postgres_url)
    yield Scribe(first), Scribe(second)
    first.close()
    second.close()


def while_locked(
    node: Scribe, hold: Callable[[Tx], T], *others: Callable[[], AppendOutcome]
) -> tuple[T, list[AppendOutcome]]:
    """Run `hold` in a transaction that commits when all others wait for its locks. Return all results."""
    with ThreadPoolExecutor(len(others)) as pool:

        def both(tx: Tx) -> tuple[T, list[Future[AppendOutcome]]]:
            held, futures = hold(tx), []
            for number, other in enumerate(others, 1):
                futures.append(pool.submit(other))
                await_lock_waits(tx, number)
            return held, futures

        held, futures = node.storage.write_now(both)
        return held, [future.result() for future in futures]


def appending(*appends: Append, now_ms: int = NOW_MS) -> Callable[[Tx], AppendOutcome]:
    return lambda tx: append_all(tx, list(appends), now_ms)[0]


def duplicate(outcome: AppendOutcome) -> bool:
    assert isinstance(outcome, Accepted)
    return outcome.duplicate


def test_concurrent_appends_get_dense_offsets_and_a_reader_skips_none(storage: Storage) -> None:
    scribe = Scribe(storage)
    info = scribe.create(partitions=2)

    def write(number: int) -> dict[int, bytes]:
        written = {}
        for index in range(PER_WRITER):
            value = b"%d.%d" % (number, index)
            written[scribe.append_values(info, value)[0]] = value
            scribe.append_values(info, value, partition=1)
        return written

    def follow() -> list[bytes | None]:
        seen: list[bytes | None] = []
        while len(seen) < WRITERS * PER_WRITER:
            for record in scribe.page(info, len(seen), max_records=7):
                assert record.offset == len(seen)
                seen.append(record.value)
        return seen

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        reader = pool.submit(follow)
        written = {offset: value for part in pool.map(write, range(WRITERS)) for offset, value in part.items()}

    assert reader.result() == [written[offset] for offset in range(WRITERS * PER_WRITER)]
    assert scribe.bounds(info, 1).log_end_offset == WRITERS * PER_WRITER


@pytest.mark.postgres
def test_a_key_locked_by_another_node_is_waited_for_and_answered_with_its_result(nodes: tuple[Scribe, Scribe]) -> None:
    first, second = nodes
    info = first.create(partitions=2)

    mine, (theirs,) = while_locked(
        first,
        appending(request(info, [Row()], 0, key=KEY)),
        lambda: second.apply(request(info, [Row()], 1, key=KEY))[0],
    )

    assert (duplicate(mine), duplicate(theirs)) == (False, True)
    assert first.count("records") == 1


@pytest.mark.postgres
def test_an_expired_key_used_on_two_nodes_at_once_appends_once(nodes: tuple[Scribe, Scribe]) -> None:
    first, second = nodes
    info = first.create(partitions=2)
    first.apply(request(info, [Row()], 0, key=KEY))
    first.now_ms = second.now_ms = NOW_MS + DAY_MS + 1

    _, outcomes = while_locked(
        first,
        lambda tx: tx.dialect.lock_partitions(tx, info.partition_ids),
        lambda: first.apply(request(info, [Row()], 0, key=KEY))[0],
        lambda: second.apply(request(info, [Row()], 1, key=KEY))[0],
    )

    assert sorted(map(duplicate, outcomes)) == [False, True]
    assert first.count("records") == 2


@pytest.mark.postgres
def test_a_sequence_sent_to_two_nodes_at_once_is_appended_once(nodes: tuple[Scribe, Scribe]) -> None:
    first, second = nodes
    info = first.create(partitions=2)

    mine, (theirs,) = while_locked(
        first,
        appending(request(info, [Row()], 0, stamp=STAMP)),
        lambda: second.apply(request(info, [Row()], 1, stamp=STAMP))[0],
    )

    assert (duplicate(mine), duplicate(theirs)) == (False, True)
    assert first.count("records") == 1


@pytest.mark.postgres
def test_an_append_waits_for_the_partition_lock_and_gets_the_next_offset(nodes: tuple[Scribe, Scribe]) -> None:
    first, second = nodes
    info = first.create()

    _, (outcome,) = while_locked(
        first, appending(request(info, [Row()] * 3)), lambda: second.apply(request(info, [Row()]))[0]
    )

    assert isinstance(outcome, Accepted)
    assert outcome.appended.offsets == [3]


@pytest.mark.postgres
def test_an_append_that_waited_for_the_deletion_of_its_topic_is_refused(nodes: tuple[Scribe, Scribe]) -> None:
    first, second = nodes
    info = first.create()

    def delete(tx: Tx) -> None:
        assert topics.find_locked(tx, "orders", DEFAULTS) is not None
        topics.delete_(tx, info)

    _, (outcome,) = while_locked(first, delete, lambda: second.apply(request(info, [Row()]))[0])

    assert isinstance(outcome, UnknownTopicOrPartition)
    assert first.count("records") == 0


@pytest.mark.postgres
def test_a_write_is_retried_after_a_connection_lost_before_commit(
    nodes: tuple[Scribe, Scribe], migrated_postgres_url: str
) -> None:
    scribe, _ = nodes
    info = scribe.create()
    scribe.append_values(info, b"1")

    with psycopg.connect(migrated_postgres_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'millrace' AND datname = current_database()"
        )

    assert scribe.append_values(info, b"2") == [1]
    assert scribe.values(info) == {0: b"1", 1: b"2"}


@pytest.mark.postgres
def test_an_append_whose_lock_times_out_is_refused_and_writes_nothing(nodes: tuple[Scribe, Scribe]) -> None:
    first, second = nodes
    info = first.create()

    def append_with_short_timeout(tx: Tx) -> list[AppendOutcome]:
        tx.connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
        return append_all(tx, [request(info, [Row()])], NOW_MS)

    def hold(tx: Tx) -> None:
        append_all(tx, [request(info, [Row()])], NOW_MS)
        with pytest.raises(LockTimeout):
            second.storage.write_now(append_with_short_timeout)

    first.storage.write_now(hold)

    assert first.extent(info).log_end_offset == 1


@pytest.mark.postgres
def test_the_log_end_is_read_by_index_before_the_database_has_statistics(
    nodes: tuple[Scribe, Scribe],
) -> None:
    node, _ = nodes
    info = node.create(partitions=2)
    read_whole = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'records'"

    def append(tx: Tx) -> int:
        append_all(tx, [request(info, [Row(value=b"x")]), request(info, [Row(value=b"x")], 1)], NOW_MS)
        return int(tx.connection.exec_driver_sql(read_whole).scalar_one())

    assert [node.storage.write_now(append) for _ in range(10)] == [0] * 10
