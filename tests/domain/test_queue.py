"""The life of a record in a queue, step by step; tests/broker/queues/test_queue_machine.py has the rest."""

from __future__ import annotations

import pytest

from app.domain import queue
from app.domain.queue import Entry, Outcome, Rules, State
from app.domain.queue_config import (
    DeliveryId,
    Origin,
    deliver_at_ms,
    key_hash,
    origin_of,
    parse_delivery_id,
    with_origin,
    without_origin,
)
from app.errors import InvalidRecordState

RULES = Rules(lock_duration_ms=1_000, max_delivery_count=2)
BY_KEY = RULES._replace(by_key=True)
FIRST = queue.acquire(Entry(7), 1_500)
LAST = queue.acquire(FIRST, 1_500)


def test_an_acquired_record_counts_its_delivery_and_is_held_until_its_lock_passes() -> None:
    assert Entry(7, State.ACQUIRED, 1, 1_500) == FIRST
    assert (queue.is_held(FIRST, 1_499), queue.is_held(FIRST, 1_500)) == (True, False)
    assert (queue.is_takeable(FIRST, RULES, 1_499), queue.is_takeable(FIRST, RULES, 1_500)) == (False, True)


@pytest.mark.parametrize(
    ("entry", "outcome", "then"),
    [
        (FIRST, Outcome.ACCEPT, None),
        (FIRST, Outcome.RELEASE, Entry(7, State.AVAILABLE, 1, 1_000)),
        (FIRST, Outcome.REJECT, Entry(7, State.REJECTED, 1, 1_000)),
        (FIRST, Outcome.RENEW, Entry(7, State.ACQUIRED, 1, 2_000)),
        (FIRST, Outcome.WITHDRAW, Entry(7, State.AVAILABLE, 1, 1_000)),
        (LAST, Outcome.RELEASE, Entry(7, State.EXHAUSTED, 2, 1_000)),
        (LAST, Outcome.WITHDRAW, Entry(7, State.AVAILABLE, 2, 1_000)),
    ],
)
def test_a_holder_says_what_becomes_of_the_record(entry: Entry, outcome: Outcome, then: Entry | None) -> None:
    assert queue.settle(entry, entry.delivery_count, outcome, RULES, 1_000) == then


def test_a_renewal_never_shortens_a_lock() -> None:
    assert queue.settle(queue.acquire(Entry(7), 9_000), 1, Outcome.RENEW, RULES, 1_000) == Entry(
        7, State.ACQUIRED, 1, 9_000
    )


@pytest.mark.parametrize(
    ("entry", "count", "now_ms"), [(None, 1, 1_000), (FIRST, 1, 1_500), (FIRST, 2, 1_000), (Entry(7), 0, 1_000)]
)
def test_a_delivery_that_has_ended_is_refused(entry: Entry | None, count: int, now_ms: int) -> None:
    with pytest.raises(InvalidRecordState):
        queue.settle(entry, count, Outcome.ACCEPT, RULES, now_ms)


def test_the_last_delivery_is_archived_when_its_lock_passes_and_a_postponed_one_later() -> None:
    assert (queue.is_doomed(LAST, RULES, 1_499), queue.is_doomed(LAST, RULES, 1_500)) == (False, True)
    assert queue.archive_at_ms([Entry(1), FIRST, LAST], RULES) == 1_500
    postponed = queue.postpone(LAST, 9_000)
    assert (queue.is_doomed(postponed, RULES, 9_000), queue.is_takeable(postponed, RULES, 9_000)) == (False, True)
    assert queue.reason_of(LAST) == "lock expired after delivery 2, the last that max_delivery_count allows"


def test_only_the_first_record_of_a_key_may_be_taken_whatever_it_waits_for() -> None:
    entries = [
        Entry(0, State.ACQUIRED, 1, 5_000, 11),
        Entry(1, key_hash=11),
        Entry(2, key_hash=22),
        Entry(3, key_hash=22),
        Entry(4),
        Entry(5),
        Entry(6, State.AVAILABLE, 1, 5_000, 33),
        Entry(7, key_hash=33),
        Entry(8, key_hash=44),
    ]
    found = queue.takeable(entries, BY_KEY, 1_000, {44: 3, 22: 9})
    assert [entry.offset for entry in found] == [2, 4, 5]
    assert [entry.offset for entry in queue.takeable(entries, RULES, 1_000)] == [1, 2, 3, 4, 5, 7, 8]


def test_retention_takes_what_nobody_holds() -> None:
    entries = {entry.offset: entry for entry in (Entry(1), queue.acquire(Entry(2), 5_000), Entry(3))}
    assert queue.passed(entries, 3, 1_000) == [1]
    assert queue.passed(entries, 3, 5_000) == [1, 2]


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
