"""The life of a record in a queue, step by step; tests/broker/queues/test_queue_machine.py has the rest."""

from __future__ import annotations

import pytest

from app.domain.queues import in_flight
from app.domain.queues.in_flight import AcknowledgeType, DeliveryRules, InFlightRecord, RecordState
from app.domain.queues.queue import (
    DeliveryId,
    Origin,
    deliver_at_ms,
    key_hash,
    origin_of,
    parse_delivery_id,
    with_origin,
    without_origin,
)
from app.errors.queues import InvalidRecordState

RULES = DeliveryRules(lock_duration_ms=1_000, max_delivery_count=2)
BY_KEY = RULES._replace(by_key=True)
FIRST = in_flight.acquire(InFlightRecord(7), 1_500)
LAST = in_flight.acquire(FIRST, 1_500)


def test_an_acquired_record_counts_its_delivery_and_is_held_until_its_lock_passes() -> None:
    assert InFlightRecord(7, RecordState.ACQUIRED, 1, 1_500) == FIRST
    assert (in_flight.is_held(FIRST, 1_499), in_flight.is_held(FIRST, 1_500)) == (True, False)
    assert (in_flight.is_takeable(FIRST, RULES, 1_499), in_flight.is_takeable(FIRST, RULES, 1_500)) == (False, True)


@pytest.mark.parametrize(
    ("entry", "outcome", "then"),
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
def test_a_holder_says_what_becomes_of_the_record(
    entry: InFlightRecord, outcome: AcknowledgeType, then: InFlightRecord | None
) -> None:
    assert in_flight.settle(entry, entry.delivery_count, outcome, RULES, 1_000) == then


def test_a_renewal_never_shortens_a_lock() -> None:
    assert in_flight.settle(
        in_flight.acquire(InFlightRecord(7), 9_000), 1, AcknowledgeType.RENEW, RULES, 1_000
    ) == InFlightRecord(7, RecordState.ACQUIRED, 1, 9_000)


@pytest.mark.parametrize(
    ("entry", "count", "now_ms"),
    [(None, 1, 1_000), (FIRST, 1, 1_500), (FIRST, 2, 1_000), (InFlightRecord(7), 0, 1_000)],
)
def test_a_delivery_that_has_ended_is_refused(entry: InFlightRecord | None, count: int, now_ms: int) -> None:
    with pytest.raises(InvalidRecordState):
        in_flight.settle(entry, count, AcknowledgeType.ACCEPT, RULES, now_ms)


def test_the_last_delivery_is_archived_when_its_lock_passes_and_a_postponed_one_later() -> None:
    assert (in_flight.is_to_archive(LAST, RULES, 1_499), in_flight.is_to_archive(LAST, RULES, 1_500)) == (False, True)
    assert in_flight.archive_at_ms([InFlightRecord(1), FIRST, LAST], RULES) == 1_500
    postponed = in_flight.postpone(LAST, 9_000)
    assert (in_flight.is_to_archive(postponed, RULES, 9_000), in_flight.is_takeable(postponed, RULES, 9_000)) == (
        False,
        True,
    )
    assert in_flight.reason_of(LAST) == "lock expired after delivery 2, the last that max_delivery_count allows"


def test_only_the_first_record_of_a_key_may_be_taken_whatever_it_waits_for() -> None:
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
    found = in_flight.takeable(entries, BY_KEY, 1_000, {44: 3, 22: 9})
    assert [entry.offset for entry in found] == [2, 4, 5]
    assert [entry.offset for entry in in_flight.takeable(entries, RULES, 1_000)] == [1, 2, 3, 4, 5, 7, 8]


def test_retention_takes_what_nobody_holds() -> None:
    entries = {
        entry.offset: entry
        for entry in (InFlightRecord(1), in_flight.acquire(InFlightRecord(2), 5_000), InFlightRecord(3))
    }
    assert in_flight.passed(entries, 3, 1_000) == [1]
    assert in_flight.passed(entries, 3, 5_000) == [1, 2]


def test_a_delivery_id_is_read_as_it_is_written() -> None:
    named = DeliveryId(3, 0, 17, 2)
    assert (str(named), parse_delivery_id("3.0.17.2")) == ("3.0.17.2", named)
    for text in ("", "3.0.17", "3.0.17.2.1", "3.0.17.x", "-3.0.17.2", "3.0.17.2 ", "9" * 30):
        assert parse_delivery_id(text) is None


def test_a_key_stands_for_itself_and_none_for_none() -> None:
    assert key_hash(None) == 0
    assert key_hash(b"") != 0
    assert key_hash(b"a") == key_hash(b"a") != key_hash(b"b")


def test_a_dead_letter_says_where_it_comes_from_and_loses_that_when_it_goes_back() -> None:
    own = b'[{"name":"n","value":"v"},{"name":"b","value":"eA==","encoding":"base64"},{"name":"z","value":null}]'
    origin = Origin("orders", 3, 17, "jobs")
    headers = with_origin(own, origin, 2, "rejected")
    assert origin_of(headers) == origin
    assert without_origin(headers)[0] == own
    assert origin_of(with_origin(headers, Origin("dead", 0, 1, "undertaker"), 1, "rejected")) == Origin(
        "dead", 0, 1, "undertaker"
    )
    assert origin_of(own) is None
    assert without_origin(with_origin(None, origin, 1, "x")) == (None, 0)


@pytest.mark.parametrize(
    ("headers", "at_ms"),
    [
        (None, 0),
        (b'[{"name":"n","value":"deliver_at_ms"}]', 0),
        (b'[{"name":"deliver_at_ms","value":"1700000000000"}]', 1_700_000_000_000),
        (b'[{"name":"deliver_at_ms","value":"soon"},{"name":"deliver_at_ms","value":null}]', 0),
    ],
)
def test_a_header_says_when_a_record_may_be_delivered(headers: bytes | None, at_ms: int) -> None:
    assert deliver_at_ms(headers) == at_ms
