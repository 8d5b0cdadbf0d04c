"""The steps of the state of a share partition."""

from __future__ import annotations

import msgspec
import pytest

from app.domain.queues.in_flight import DeliveryRules, InFlightRecord, RecordState
from app.domain.queues.record_summary import RecordSummary
from app.domain.queues.share_partition_state import SharePartitionState

NOW_MS = 1_000
LATER_MS = 5_000
RULES = DeliveryRules(lock_duration_ms=1_000, max_delivery_count=2)


def state(*entries: InFlightRecord, end_offset: int = 10, delayed: int = 0) -> SharePartitionState:
    return SharePartitionState(
        1, end_offset, {entry.offset: entry for entry in entries}, delayed, 0, 0, 0, None, None, None, None
    )


def acquired(offset: int, delivery_count: int = 1, until_ms: int = LATER_MS) -> InFlightRecord:
    return InFlightRecord(offset, RecordState.ACQUIRED, delivery_count, until_ms)


def test_records_are_admitted_in_flight_and_those_with_a_later_delivery_time_are_delayed() -> None:
    share_partition = state()

    delayed = share_partition.admit(
        [RecordSummary(10, 7, 0), RecordSummary(11, 8, LATER_MS), RecordSummary(13, 9, NOW_MS)], 14, NOW_MS, 5
    )

    assert delayed == [InFlightRecord(11, until_ms=LATER_MS, key_hash=8)]
    assert share_partition.entries == {10: InFlightRecord(10, key_hash=7), 13: InFlightRecord(13, key_hash=9)}
    assert (share_partition.end_offset, share_partition.delayed) == (14, 1)


def test_admission_ends_before_the_first_record_that_may_not_be_delayed() -> None:
    share_partition = state()
    summaries = [RecordSummary(10, 0, LATER_MS), RecordSummary(11, 0, 0), RecordSummary(12, 0, LATER_MS)]

    delayed = share_partition.admit([*summaries, RecordSummary(13, 0, 0)], 14, NOW_MS, 1)

    assert [entry.offset for entry in delayed] == [10]
    assert (list(share_partition.entries), share_partition.end_offset, share_partition.delayed) == ([11], 12, 1)


def test_an_acquired_record_stays_in_the_order_of_offsets() -> None:
    share_partition = state(InFlightRecord(3), InFlightRecord(4))

    entry = share_partition.acquire(InFlightRecord(3), LATER_MS)

    assert entry == acquired(3)
    assert list(share_partition.entries.values()) == [entry, InFlightRecord(4)]


@pytest.mark.parametrize("end", ["accept", "archive", "expire"])
def test_a_record_ends_in_flight_or_delayed_and_is_counted_once(end: str) -> None:
    share_partition = state(InFlightRecord(3), delayed=1)

    assert [getattr(share_partition, end)(offset) for offset in (3, 4)] == [True, False]

    counters = {"accept": share_partition.accepted, "archive": share_partition.archived}
    assert counters.get(end, share_partition.expired) == 2
    assert share_partition.accepted + share_partition.archived + share_partition.expired == 2
    assert (share_partition.entries, share_partition.delayed) == ({}, 0)


def test_a_released_record_that_is_delayed_leaves_flight() -> None:
    share_partition = state(acquired(3))

    share_partition.delay(3)

    assert (share_partition.entries, share_partition.delayed) == ({}, 1)


def test_available_records_below_the_log_start_expire() -> None:
    rejected = InFlightRecord(4, RecordState.REJECTED, 1, NOW_MS)
    released, postponed = (InFlightRecord(5, delivery_count=1, until_ms=NOW_MS + ms) for ms in (0, 1))
    lock_expired = acquired(3, until_ms=NOW_MS)
    entries = [InFlightRecord(1), acquired(2), lock_expired, rejected, released, InFlightRecord(9)]
    share_partition = state(*entries)

    assert share_partition.held_offsets(NOW_MS) == [2, 3, 4]
    assert share_partition.expired_offsets(6, NOW_MS) == [1, 5]
    assert share_partition.expire_before(6, NOW_MS) == [1, 5]
    assert not share_partition.expire_before(6, NOW_MS)
    assert (list(share_partition.entries), share_partition.expired) == ([2, 3, 4, 9], 2)
    assert share_partition.end_offset == 10
    assert state(postponed).expired_offsets(6, NOW_MS) == []


def test_records_that_retention_deletes_before_they_are_admitted_expire() -> None:
    share_partition = state(end_offset=10)

    assert share_partition.expire_before(13, NOW_MS) == []

    assert (share_partition.end_offset, share_partition.expired) == (13, 3)


def test_a_purge_archives_what_is_neither_acquired_nor_to_be_archived() -> None:
    last = acquired(3, delivery_count=2, until_ms=NOW_MS)
    share_partition = state(InFlightRecord(1), acquired(2), last, acquired(4, until_ms=NOW_MS), delayed=2)

    assert share_partition.purge(12, 20, RULES, NOW_MS) == 10
    share_partition.archive_rows(2, 0)

    assert (list(share_partition.entries), share_partition.end_offset) == ([2, 3], 20)
    assert (share_partition.archived, share_partition.expired, share_partition.delayed) == (12, 2, 0)


def test_archiving_is_due_at_the_first_time_of_in_flight_and_of_delayed_records() -> None:
    share_partition = state(acquired(1, 2, 3_000), acquired(2, 1, 2_000))

    share_partition.schedule_archiving(RULES)
    for until_ms in (4_000, 3_500, 6_000):
        share_partition.update_delayed(InFlightRecord(3, RecordState.REJECTED, 1, until_ms), RULES)
    share_partition.update_delayed(InFlightRecord(4), RULES)

    assert (share_partition.archive_at_ms, share_partition.delayed_archive_at_ms) == (3_000, 3_500)


def test_postponed_archiving_keeps_later_times_and_stores_the_error() -> None:
    share_partition = state(acquired(1, 2, 3_000))
    share_partition.schedule_archiving(RULES)

    share_partition.postpone_archiving(9_000, "no space")

    assert (share_partition.archive_at_ms, share_partition.delayed_archive_at_ms) == (9_000, None)
    assert (share_partition.dead_letter_error, share_partition.refused_offset) == ("no space", None)


def test_the_error_of_a_dead_letter_names_its_record_until_it_is_cleared() -> None:
    share_partition = state()
    before = msgspec.structs.asdict(share_partition)

    share_partition.set_dead_letter_error(3, "too large")
    stored = (share_partition.dead_letter_error, share_partition.refused_offset)
    share_partition.clear_dead_letter_error()

    assert stored == ("too large", 3)
    assert msgspec.structs.asdict(share_partition) == before
