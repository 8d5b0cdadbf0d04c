"""The states of a record in a share partition; tests/broker/queues/test_queue_machine.py tests them together."""

from __future__ import annotations

import pytest

from app.domain.queues.in_flight import (
    AcknowledgeType,
    DeliveryRules,
    InFlightRecord,
    RecordState,
    acquire,
    archive_at_ms,
    archive_reason,
    available,
    is_acquired,
    is_available,
    is_to_archive,
    next_run,
    postpone,
    settle,
)
from app.errors.queues import InvalidRecordState

RULES = DeliveryRules(lock_duration_ms=1_000, max_delivery_count=2)
BY_KEY = RULES._replace(by_key=True)
FIRST = acquire(InFlightRecord(7), 1_500)
LAST = acquire(FIRST, 1_500)


def test_an_acquired_record_counts_its_delivery_and_stays_acquired_until_its_lock_expires() -> None:
    assert InFlightRecord(7, RecordState.ACQUIRED, 1, 1_500) == FIRST
    assert (is_acquired(FIRST, 1_499), is_acquired(FIRST, 1_500)) == (True, False)
    assert (is_available(FIRST, RULES, 1_499), is_available(FIRST, RULES, 1_500)) == (False, True)


@pytest.mark.parametrize(
    ("entry", "acknowledge_type", "settled"),
    [
        (FIRST, AcknowledgeType.ACCEPT, None),
        (FIRST, AcknowledgeType.RELEASE, InFlightRecord(7, RecordState.AVAILABLE, 1, 1_000)),
        (FIRST, AcknowledgeType.REJECT, InFlightRecord(7, RecordState.REJECTED, 1, 1_000)),
        (FIRST, AcknowledgeType.RENEW, InFlightRecord(7, RecordState.ACQUIRED, 1, 2_000)),
        (FIRST, AcknowledgeType.WITHDRAW, InFlightRecord(7, RecordState.AVAILABLE, 1, 1_000)),
        (LAST, AcknowledgeType.RELEASE, InFlightRecord(7, RecordState.EXHAUSTED, 2, 1_000)),
        (LAST, AcknowledgeType.WITHDRAW, InFlightRecord(7, RecordState.AVAILABLE, 2, 1_000)),
    ],
)
def test_an_acknowledgement_sets_the_next_state(
    entry: InFlightRecord, acknowledge_type: AcknowledgeType, settled: InFlightRecord | None
) -> None:
    assert settle(entry, entry.delivery_count, acknowledge_type, RULES, 1_000) == settled


def test_a_renewal_never_shortens_a_lock() -> None:
    assert settle(acquire(InFlightRecord(7), 9_000), 1, AcknowledgeType.RENEW, RULES, 1_000) == InFlightRecord(
        7, RecordState.ACQUIRED, 1, 9_000
    )


@pytest.mark.parametrize(
    ("entry", "count", "now_ms"),
    [(None, 1, 1_000), (FIRST, 1, 1_500), (FIRST, 2, 1_000), (InFlightRecord(7), 0, 1_000)],
)
def test_a_delivery_that_has_ended_is_refused(entry: InFlightRecord | None, count: int, now_ms: int) -> None:
    with pytest.raises(InvalidRecordState):
        settle(entry, count, AcknowledgeType.ACCEPT, RULES, now_ms)


def test_a_record_is_archived_when_the_lock_of_its_last_delivery_expires_unless_it_is_postponed() -> None:
    assert (is_to_archive(LAST, RULES, 1_499), is_to_archive(LAST, RULES, 1_500)) == (False, True)
    assert archive_at_ms([InFlightRecord(1), FIRST, LAST], RULES) == 1_500
    postponed = postpone(LAST, 9_000)
    assert (is_to_archive(postponed, RULES, 9_000), is_available(postponed, RULES, 9_000)) == (
        False,
        True,
    )
    assert archive_reason(LAST) == "lock expired after delivery 2, the last that max_delivery_count allows"


def test_the_first_record_of_a_key_blocks_the_later_ones_in_any_state() -> None:
    entries = [
        InFlightRecord(0, RecordState.ACQUIRED, 1, 5_000, 11),
        InFlightRecord(1, key_hash=11),
        InFlightRecord(2, key_hash=22),
        InFlightRecord(3, key_hash=22),
        InFlightRecord(4),
        InFlightRecord(5),
        InFlightRecord(6, RecordState.AVAILABLE, 1, 5_000, 33),
        InFlightRecord(7, key_hash=33),
        InFlightRecord(8, key_hash=44),
    ]
    found = available(entries, BY_KEY, 1_000, {44: 3, 22: 9})
    assert [entry.offset for entry in found] == [2, 4, 5]
    assert [entry.offset for entry in available(entries, RULES, 1_000)] == [1, 2, 3, 4, 5, 7, 8]


def test_a_run_ends_before_a_record_that_is_held_or_was_delivered_before() -> None:
    new = [InFlightRecord(offset) for offset in range(3)]
    again = InFlightRecord(3, delivery_count=1)

    assert list(next_run(new, RULES, 1_000)) == new
    assert list(next_run([*new, again], RULES, 1_000)) == new
    assert list(next_run([again, InFlightRecord(4)], RULES, 1_000)) == [again]
    assert list(next_run([*new[:1], InFlightRecord(1, until_ms=1_001), *new[2:]], RULES, 1_000)) == new[:1]
    assert list(next_run([FIRST, InFlightRecord(8)], RULES, 1_000)) == []
