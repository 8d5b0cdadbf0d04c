"""Compaction and retention by example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from app.domain.log.offset_spec import Last
from app.domain.log.topic import TopicConfig
from app.storage.log import compaction, offset_lookup, pages
from tests.storage.scribe import NOW_MS, Row, Scribe

if TYPE_CHECKING:
    from app.domain.log.topic import TopicInfo
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

DAY_MS = 86_400_000


@pytest.fixture
def scribe(storage: Storage) -> Scribe:
    return Scribe(storage)


def compact(scribe: Scribe, info: TopicInfo, **config: Any) -> None:
    chosen = structs.replace(info, config=TopicConfig(cleanup_policy="compact", **config))
    while scribe.storage.write_now(compaction.compact, info.partition_ids[0], chosen, scribe.now_ms, 2):
        pass


def keyed(*pairs: tuple[bytes, bytes | None]) -> list[Row]:
    return [Row(key=key, value=value) for key, value in pairs]


def test_the_record_with_the_highest_offset_of_each_key_is_kept(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"a", b"3")))

    compact(scribe, info)

    assert scribe.values(info) == {1: b"1", 3: b"1", 4: b"3"}
    assert scribe.extent(info)[1:] == (0, 5, 6)


def test_offsets_never_change_and_gaps_are_never_filled(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"a", b"1"), (b"a", b"2")))
    compact(scribe, info)

    assert scribe.append(info, keyed((b"b", b"1"))) == [2]
    assert scribe.values(info) == {1: b"2", 2: b"1"}


def test_a_tombstone_is_deleted_its_retention_after_the_first_pass_that_read_it(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"a", b"1"), (b"a", None), (b"b", b"1")))

    scribe.now_ms += 10 * DAY_MS  # the record's own age does not count
    compact(scribe, info)
    assert scribe.values(info) == {1: None, 2: b"1"}

    scribe.now_ms += DAY_MS - 1
    compact(scribe, info)
    assert scribe.values(info) == {1: None, 2: b"1"}

    scribe.now_ms += 1
    compact(scribe, info)
    assert scribe.values(info) == {2: b"1"}


def test_the_last_record_is_never_deleted_even_if_it_is_a_tombstone(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"a", b"1"), (b"a", None)))
    compact(scribe, info)
    scribe.now_ms += 10 * DAY_MS

    compact(scribe, info)
    assert scribe.values(info) == {1: None}
    assert scribe.append(info, keyed((b"b", b"1"))) == [2]

    compact(scribe, info)
    assert scribe.values(info) == {2: b"1"}


def test_records_younger_than_the_lag_are_kept(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, [Row(NOW_MS, b"a", b"1"), Row(NOW_MS, b"a", b"2"), Row(NOW_MS + 1, b"a", b"3")])
    scribe.now_ms = NOW_MS + 100

    compact(scribe, info, min_compaction_lag_ms=101)
    assert scribe.values(info) == {0: b"1", 1: b"2", 2: b"3"}

    compact(scribe, info, min_compaction_lag_ms=100)
    assert scribe.values(info) == {1: b"2", 2: b"3"}

    compact(scribe, info, min_compaction_lag_ms=99)
    assert scribe.values(info) == {2: b"3"}


def test_records_without_a_key_from_before_the_policy_are_deleted(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, [Row(value=b"1"), Row(key=b"a", value=b"2"), Row(value=b"3"), Row(key=b"b", value=b"4")])

    compact(scribe, info)

    assert scribe.values(info) == {1: b"2", 3: b"4"}
    assert scribe.extent(info)[1:] == (0, 4, 4)


def test_a_last_record_without_a_key_is_deleted_once_another_one_follows(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, [Row(value=b"1"), Row(value=b"2")])
    compact(scribe, info)
    assert scribe.values(info) == {1: b"2"}
    scribe.append(info, keyed((b"a", b"3")))

    compact(scribe, info)

    assert scribe.values(info) == {2: b"3"}


def test_records_without_a_key_that_are_younger_than_the_lag_are_kept(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, [Row(NOW_MS, None, b"1"), Row(NOW_MS + 1, None, b"2"), Row(NOW_MS + 1, b"a", b"3")])
    scribe.now_ms = NOW_MS + 100

    compact(scribe, info, min_compaction_lag_ms=100)

    assert scribe.values(info) == {1: b"2", 2: b"3"}


@pytest.mark.parametrize(
    ("number", "offset"), [(0, 6), (1, 5), (2, 3), (3, 1), (4, 0), (9, 0), (9_999_999_999_999_999_999, 0)]
)
def test_the_last_records_are_counted_over_the_gaps_of_compaction(scribe: Scribe, number: int, offset: int) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"x", b"1"), (b"a", b"1"), (b"b", b"1"), (b"b", b"2"), (b"c", b"1"), (b"c", b"2")))
    compact(scribe, info)
    assert list(scribe.values(info)) == [0, 1, 3, 5]

    def resolve(tx: Tx) -> int:
        (bounds,) = pages.bounds(tx, [info.partition_ids[0]]).values()
        return offset_lookup.resolve(tx, bounds, Last(number))

    assert scribe.storage.read_now(resolve) == offset


def test_keys_too_long_for_an_index_are_compacted_too(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"k" * 4096, b"1"), (b"k" * 4095 + b"l", b"1"), (b"k" * 4096, b"2")))

    compact(scribe, info)

    assert list(scribe.values(info)) == [1, 2]


def test_retention_by_size_counts_only_records_that_compaction_kept(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"a", b"1" * 99), (b"b", b"1" * 99)))
    scribe.append(info, keyed(*[(b"c", b"1" * 99)] * 20))
    compact(scribe, info)
    assert scribe.extent(info)[1:] == (0, 22, 300)

    scribe.retain(info, retention_bytes=1000)
    assert list(scribe.values(info)) == [0, 1, 21]

    scribe.retain(info, retention_bytes=200)
    assert list(scribe.values(info)) == [1, 21]


def test_a_sparse_partition_below_its_size_limit_is_kept(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"c", b"1"), (b"c", b"2")))
    compact(scribe, info)

    scribe.retain(info, retention_bytes=1000)

    assert scribe.extent(info)[1:] == (0, 2, 2)


def test_retention_by_time_deletes_the_longest_prefix_of_older_records(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, [Row(NOW_MS + at, value=b"%d" % at) for at in (0, 10, 5, 30, 7, 20)])
    scribe.now_ms = NOW_MS + 100

    assert scribe.retain(info, retention_ms=85) == 1

    assert scribe.values(info) == {3: b"30", 4: b"7", 5: b"20"}
    assert scribe.extent(info)[1:] == (3, 6, 5)


def test_a_time_is_looked_up_in_the_records_that_retention_kept(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, [Row(NOW_MS + at) for at in (90, 10, 20, 30)])
    scribe.delete_before(info, 1)
    scribe.now_ms = NOW_MS + 100

    scribe.retain(info, retention_ms=75)

    assert list(scribe.values(info)) == [3]


def test_offsets_continue_after_retention_has_emptied_a_partition(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append_values(info, b"1", b"2", b"3")
    scribe.now_ms += DAY_MS

    scribe.retain(info, retention_ms=1000)
    assert scribe.extent(info)[1:] == (3, 3, 0)
    assert scribe.count("records") == 3

    assert scribe.purge() > 0
    assert scribe.count("records") == 0
    assert scribe.extent(info)[1:] == (3, 3, 0)
    assert scribe.append_values(info, b"4") == [3]
    assert scribe.extent(info)[1:] == (3, 4, 1)


def test_a_purge_takes_as_many_passes_as_its_limit_requires(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append_values(info, *[b"x"] * 10)
    scribe.delete_before(info, 9)

    assert scribe.purge(limit=4) >= 3
    assert scribe.count("records") == 1
    assert scribe.count("purges") == 0


def test_a_page_over_a_wide_gap_finds_the_next_record(scribe: Scribe) -> None:
    info = scribe.create()
    scribe.append(info, keyed((b"first", b"1"), *[(b"k", b"1")] * 5000, (b"last", b"1")))
    compacted = structs.replace(info, config=TopicConfig(cleanup_policy="compact"))
    while scribe.storage.write_now(compaction.compact, info.partition_ids[0], compacted, scribe.now_ms, 500):
        pass

    assert [record.offset for record in scribe.page(info, 1, max_records=1)] == [5000]
    assert [record.offset for record in scribe.page(info, 0, max_records=10)] == [0, 5000, 5001]
