"""A batch of appends: each request meets the state that the requests before it have left."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.log.append import (
    Accepted,
    Append,
    AppendBatch,
    Appended,
    IdempotencyKey,
    PartitionEnd,
    StoredKey,
    TopicVersionChanged,
    partition_ids_of,
)
from app.domain.log.producer import ProducerStamp
from app.domain.log.record import Record
from app.errors.log import IdempotencyKeyReused, OffsetMismatch, OutOfOrderSequenceNumber, UnknownTopicOrPartition

NOW_MS = 1_700_000_000_000
KEY = IdempotencyKey(b"key", b"print")


def records(*values: bytes, timestamp_ms: int = -1) -> list[Record]:
    return [Record(-1, timestamp_ms, None, value, None, 0) for value in values]


def append(*values: bytes, partitions: list[int] | None = None, timestamp_ms: int = -1, **options: Any) -> Append:
    chosen = partitions or [0] * len(values)
    return Append(1, "orders", 3, (10, 11), records(*values, timestamp_ms=timestamp_ms), chosen, **options)


def batch(**options: Any) -> AppendBatch:
    ends = {10: PartitionEnd(1, 3, 100, 5_000, 7, 70_000), 11: PartitionEnd(1, 3, 0, 0, 0, 80_000)}
    state: dict[str, Any] = {"ends": ends, "keys": {}, "epochs": {}, "producers": {}, "now_ms": NOW_MS} | options
    return AppendBatch(**state)


def offsets(outcome: object) -> list[int]:
    assert isinstance(outcome, Accepted)
    return outcome.appended.offsets


def test_offsets_and_start_bytes_follow_the_records_before() -> None:
    applied = batch()

    outcome = applied.apply(append(b"a", b"bcd", b"", partitions=[0, 1, 0]))

    assert outcome == Accepted(Appended([0, 1, 0], [100, 0, 101], [NOW_MS] * 3), duplicate=False)
    assert applied.rows == [
        (70_100, NOW_MS, 0, None, b"a", None, 5_000, NOW_MS),
        (80_000, NOW_MS, 0, None, b"bcd", None, 0, NOW_MS),
        (70_101, NOW_MS, 0, None, b"", None, 5_001, NOW_MS),
    ]


def test_a_record_keeps_its_timestamp_and_the_largest_one_never_falls() -> None:
    applied = batch()

    applied.apply(append(b"a", timestamp_ms=50))
    applied.apply(append(b"b", timestamp_ms=3))

    assert [(row[1], row[7]) for row in applied.rows] == [(50, 50), (3, 50)]


def test_log_append_time_replaces_the_timestamp_of_the_record() -> None:
    applied = batch()

    outcome = applied.apply(append(b"a", timestamp_ms=50, stamp_time=True))

    assert isinstance(outcome, Accepted)
    assert outcome.appended.timestamps_ms == [NOW_MS]


def test_sixteen_equal_keys_in_one_batch_append_once() -> None:
    applied = batch()

    outcomes = [applied.apply(append(b"a", key=KEY)) for _ in range(16)]

    appended = Appended([0], [100], [NOW_MS])
    assert outcomes == [Accepted(appended, duplicate=False)] + [Accepted(appended, duplicate=True)] * 15
    assert len(applied.rows) == 1
    assert list(applied.keys_written) == [(1, b"key")]


def test_another_request_with_the_same_key_is_refused_in_the_same_batch() -> None:
    applied = batch()

    applied.apply(append(b"a", key=KEY))
    outcome = applied.apply(append(b"b", key=IdempotencyKey(b"key", b"other")))

    assert isinstance(outcome, IdempotencyKeyReused)
    assert len(applied.rows) == 1


def test_a_key_belongs_to_its_topic() -> None:
    applied = batch(keys={(2, b"key"): StoredKey(b"print", b"")})

    assert offsets(applied.apply(append(b"a", key=KEY))) == [100]


def test_a_repeat_gets_its_result_whatever_expected_offset_and_topic_version_are() -> None:
    first = batch()
    first.apply(append(b"a", key=KEY, expected_offset=100))
    second = batch(
        keys=first.keys_written, ends={10: PartitionEnd(1, 4, 101, 5_001, 7), 11: PartitionEnd(1, 4, 0, 0, 0)}
    )

    outcome = second.apply(append(b"a", key=KEY, expected_offset=100))

    assert outcome == Accepted(Appended([0], [100], [NOW_MS]), duplicate=True)
    assert second.rows == []
    assert second.keys_written == {}


def test_the_key_of_a_refused_request_stays_unused() -> None:
    applied = batch()

    refused = applied.apply(append(b"a", key=KEY, expected_offset=99))
    accepted = applied.apply(append(b"b", key=KEY))

    assert isinstance(refused, OffsetMismatch)
    assert offsets(accepted) == [100]


def test_of_two_equal_expected_offsets_in_one_batch_the_first_is_accepted() -> None:
    applied = batch()

    first = applied.apply(append(b"a", expected_offset=100))
    second = applied.apply(append(b"b", expected_offset=100))
    third = applied.apply(append(b"c", expected_offset=101))

    assert offsets(first) == [100]
    assert isinstance(second, OffsetMismatch)
    assert second.facts == {"log_end_offset": 101}
    assert offsets(third) == [101]


def test_consecutive_sequences_may_share_a_batch() -> None:
    applied = batch()
    stamps = [ProducerStamp("p", 0, sequence, b"%d" % sequence) for sequence in (0, 2, 1, 2, 1)]

    outcomes = [applied.apply(append(b"a", stamp=stamp)) for stamp in stamps]

    assert offsets(outcomes[0]) == [100]
    assert isinstance(outcomes[1], OutOfOrderSequenceNumber)
    assert [offsets(outcome) for outcome in outcomes[2:]] == [[101], [102], [101]]
    assert len(applied.rows) == 3


@pytest.mark.parametrize(
    "refused",
    [
        append(b"x", expected_offset=1),
        append(b"x", b"y", partitions=[0, 1], key=IdempotencyKey(b"used", b"other")),
        append(b"x", stamp=ProducerStamp("p", 0, 1, b"")),
        append(b"x", stamp=ProducerStamp("p", 0, 1, b""), expected_offset=100),
        Append(1, "orders", 2, (10, 11), records(b"x"), [0]),
        Append(2, "orders", 3, (10, 11), records(b"x"), [0], key=KEY),
        Append(1, "orders", 3, (10, 99), records(b"x", b"y"), [0, 1], key=KEY),
    ],
    ids=["offset", "key", "sequence", "both", "version", "recreated", "deleted"],
)
def test_a_refused_append_changes_nothing(refused: Append) -> None:
    applied = batch(keys={(1, b"used"): StoredKey(b"print", b"")})

    outcome = applied.apply(refused)

    assert not isinstance(outcome, Accepted)
    assert (applied.rows, applied.keys_written, applied.producers_written) == ([], {}, {})
    assert offsets(applied.apply(append(b"a", key=KEY))) == [100]


def test_records_checked_against_another_version_of_the_topic_are_checked_again() -> None:
    assert batch().apply(Append(1, "orders", 2, (10, 11), records(b"x"), [0])) == TopicVersionChanged()


def test_a_missing_partition_or_one_of_another_topic_means_a_deleted_topic() -> None:
    gone = batch().apply(Append(1, "orders", 3, (10, 99), records(b"x"), [1]))
    recreated = batch().apply(Append(2, "orders", 3, (10, 11), records(b"x"), [0]))

    assert isinstance(gone, UnknownTopicOrPartition)
    assert isinstance(recreated, UnknownTopicOrPartition)


def test_partitions_are_locked_in_ascending_order_of_their_ids() -> None:
    assert partition_ids_of([append(b"a", partitions=[1]), append(b"b", b"c", partitions=[1, 0])]) == [10, 11]
