"""Each rule of the checker on a small history: without the anomaly, and with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.history.checker import assert_sound, check
from tests.history.events import (
    Acknowledge,
    Acquire,
    AnyEvent,
    Claim,
    Commit,
    Committed,
    Delivery,
    Outcome,
    Poll,
    Range,
    Release,
    Send,
    Settled,
    Trim,
    load,
    save,
)

if TYPE_CHECKING:
    from pathlib import Path

P = "orders/0"
FOREVER = 1_000_000


def send(
    at: int, *values: str, offsets: tuple[int, ...] = (), outcome: Outcome = "ok", request: str = "", **more: Any
) -> Send:
    """An attempt from `at` to `at + 5`."""
    return Send(
        process=more.pop("process", "producer"),
        began=at,
        ended=at + 5,
        outcome=outcome,
        request=request or f"{at}",
        values=list(values),
        partitions=[P] * len(values),
        offsets=list(offsets),
        **more,
    )


def poll(at: int, start: int, *values: str, process: str = "reader", **more: Any) -> Poll:
    """A page of dense offsets from `at` to `at + 5`."""
    records = [(start + number, value) for number, value in enumerate(values)]
    given: dict[str, Any] = {
        "session": "s",
        "from_offset": start,
        "next_offset": start + len(values),
        "log_end_offset": FOREVER if values else start,
        "records": records,
    } | more
    return Poll(process=process, began=at, ended=at + 5, partition=P, **given)


def final(*values: str, start: int = 0) -> Poll:
    return poll(900, start, *values, process="final", session="final", final=True)


def claim(at: int, process: str, *, until: int = FOREVER, **more: Any) -> Claim:
    return Claim(process=process, began=at, ended=at + 5, group="g", partitions=[P], until=until, **more)


def acquire(at: int, *deliveries: Delivery, **more: Any) -> Acquire:
    return Acquire(process="worker", began=at, ended=at + 5, queue="q", deliveries=list(deliveries), **more)


def accept(at: int, offset: int, count: int, code: str = "") -> Acknowledge:
    results = [Settled(P, offset, count, "accept", code)]
    return Acknowledge(process="worker", began=at, ended=at + 5, queue="q", results=results)


def transaction(at: int, value: str, offset: int, start: int, end: int) -> Send:
    return send(at, value, offsets=(offset,), commits=[Range("g", "input/0", start, end)])


def committed(offset: int, partition: str = "input/0") -> Committed:
    return Committed(process="final", began=950, ended=955, group="g", partition=partition, offset=offset)


def commit(at: int, offset: int, process: str = "alice") -> Commit:
    return Commit(process=process, began=at, ended=at + 5, commits=[Range("g", P, -1, offset)])


def member_poll(at: int, start: int, *values: str, process: str = "alice", session: str = "1") -> Poll:
    return poll(at, start, *values, process=process, session=session, group="g")


SOUND: dict[str, list[AnyEvent]] = {
    "acknowledged and read": [send(0, "a", "b", offsets=(0, 1)), poll(10, 0, "a", "b"), final("a", "b")],
    "refused and not there": [send(0, "a", outcome="fail"), final()],
    "unknown and there": [send(0, "a", outcome="info"), final("a")],
    "unknown and not there": [send(0, "a", outcome="info"), final()],
    "refused, then acknowledged": [
        send(0, "a", outcome="fail", request="r"),
        send(10, "a", offsets=(0,), request="r"),
        final("a"),
    ],
    "read before its answer": [
        Send(process="p", began=0, ended=100, request="r", values=["a"], partitions=[P], offsets=[0]),
        poll(10, 0, "a"),
        final("a"),
    ],
    "deleted below the requested offset": [
        send(0, "a", "b", offsets=(0, 1)),
        Trim(process="p", began=10, ended=15, partition=P, before_offset=1, log_start_offset=1),
        final("b", start=1),
    ],
    "owners one after the other": [
        claim(0, "alice", until=50),
        claim(60, "bob"),
        Release(process="bob", began=70, ended=71, group="g"),
        claim(80, "alice"),
    ],
    "committed what was polled": [
        send(0, "a", offsets=(0,)),
        member_poll(10, 0, "a"),
        commit(20, 1),
        member_poll(30, 1, session="2"),
        final("a"),
    ],
    "transactions one after the other": [
        transaction(0, "a", 0, 0, 2),
        transaction(10, "b", 1, 2, 5),
        final("a", "b"),
        committed(5),
    ],
    "delivered again after its lock": [
        send(0, "a", offsets=(0,)),
        acquire(10, Delivery(P, 0, 1, 0, 100)),
        acquire(20, Delivery(P, 0, 2, 100, 200), drained=True),
        accept(30, 0, 1, "INVALID_RECORD_STATE"),
        accept(40, 0, 2),
        final("a"),
    ],
}

ANOMALOUS: list[tuple[str, list[AnyEvent]]] = [
    ("lost", [send(0, "a", offsets=(0,)), send(10, "b", offsets=(1,)), final("b", start=1)]),
    ("lost", [send(0, "a", outcome="info"), poll(6, 0, "a"), send(20, "b", offsets=(1,)), final("b", start=1)]),
    ("unseen", [send(0, "a", offsets=(0,)), send(10, "b", offsets=(1,)), final("a")]),
    ("unseen", [send(0, "a", offsets=(0,))]),
    ("inconsistent offsets", [send(0, "a", offsets=(0,)), send(10, "b", offsets=(0,)), final("b")]),
    ("inconsistent offsets", [send(0, "a", "b", offsets=(0, 1)), poll(10, 0, "b"), final("a", "b")]),
    ("duplicate", [send(0, "a", offsets=(0,)), final("a", "a")]),
    (
        "duplicate",
        [send(0, "a", offsets=(0,), request="r"), send(10, "a", offsets=(1,), request="r"), final("a")],
    ),
    ("aborted read", [send(0, "a", outcome="fail"), final("a")]),
    (
        "precommitted read",
        [
            send(0, "a", outcome="fail", request="r"),
            poll(10, 0, "a"),
            send(20, "a", offsets=(0,), request="r"),
            final("a"),
        ],
    ),
    ("phantom", [final("a")]),
    ("torn request", [send(0, "a", "b", outcome="info"), final("a")]),
    ("stale read", [send(0, "a", offsets=(0,)), poll(10, 0), final("a")]),
    (
        "lost wake-up",
        [
            send(0, "a", offsets=(0,)),
            poll(1, 0, outcome="info", unwoken=True, log_end_offset=-1),
            final("a"),
        ],
    ),
    (
        "deleted too much",
        [
            send(0, "a", "b", offsets=(0, 1)),
            Trim(process="p", began=10, ended=15, partition=P, before_offset=1, log_start_offset=2),
            final("b", start=1),
        ],
    ),
    (
        "read below the log start",
        [
            send(0, "a", "b", offsets=(0, 1)),
            Trim(process="p", began=10, ended=15, partition=P, before_offset=1, log_start_offset=1),
            final("a", "b"),
        ],
    ),
    ("nonmonotonic send", [send(0, "a", offsets=(1,)), send(10, "b", offsets=(0,)), final("b", "a")]),
    ("internal nonmonotonic send", [send(0, "a", "b", offsets=(1, 0)), final("b", "a")]),
    ("internal send skip", [send(0, "a", "b", offsets=(0, 2)), send(10, "c", offsets=(1,)), final("a", "c", "b")]),
    ("poll skip", [send(0, "a", "b", offsets=(0, 1)), poll(10, 0, "a"), poll(20, 2), final("a", "b")]),
    ("poll skip", [send(0, "a", "b", offsets=(0, 1)), poll(10, 0, "a", next_offset=2), final("a", "b")]),
    ("nonmonotonic poll", [send(0, "a", offsets=(0,)), poll(10, 0, "a"), poll(20, 0, "a"), final("a")]),
    ("internal poll skip", [poll(10, 0, records=[(0, "a"), (2, "c")], next_offset=3)]),
    ("internal nonmonotonic poll", [poll(10, 0, records=[(0, "a"), (0, "a")], next_offset=1)]),
    ("stalled poll", [send(0, "a", offsets=(0,)), poll(10, 0, log_end_offset=1), final("a")]),
    ("two owners", [claim(0, "alice"), claim(10, "bob")]),
    (
        "zombie",
        [
            claim(0, "alice"),
            Release(process="alice", began=10, ended=11, group="g"),
            claim(20, "alice"),
        ],
    ),
    (
        "zombie",
        [claim(0, "alice"), Release(process="alice", began=10, ended=11, group="g"), commit(20, 0)],
    ),
    ("commit skip", [send(0, "a", "b", offsets=(0, 1)), member_poll(10, 0, "a"), commit(20, 2), final("a", "b")]),
    (
        "nonmonotonic poll",
        [
            send(0, "a", offsets=(0,)),
            member_poll(10, 0, "a"),
            commit(20, 1),
            member_poll(30, 0, "a", process="bob"),
            final("a"),
        ],
    ),
    ("poll skip", [send(0, "a", "b", offsets=(0, 1)), member_poll(10, 1, "b"), final("a", "b")]),
    ("processed twice", [transaction(0, "a", 0, 0, 2), transaction(10, "b", 1, 0, 2), final("a", "b"), committed(2)]),
    ("torn transaction", [transaction(0, "a", 0, 0, 2), final("a"), committed(0)]),
    ("torn transaction", [transaction(0, "a", 0, 0, 2), final("a"), committed(4)]),
    ("two holders", [acquire(0, Delivery(P, 0, 1, 0, 100)), acquire(10, Delivery(P, 0, 2, 50, 150))]),
    ("delivered twice", [acquire(0, Delivery(P, 0, 1, 0, 100)), acquire(10, Delivery(P, 0, 1, 50, 150))]),
    (
        "delivered after the accept",
        [acquire(0, Delivery(P, 0, 1, 0, 100)), accept(10, 0, 1), acquire(20, Delivery(P, 0, 2, 100, 200))],
    ),
    (
        "late acknowledgement",
        [acquire(0, Delivery(P, 0, 1, 0, 100)), acquire(10, Delivery(P, 0, 2, 100, 200)), accept(20, 0, 1)],
    ),
    ("accepted twice", [acquire(0, Delivery(P, 0, 1, 0, 100)), accept(10, 0, 1), accept(20, 0, 1)]),
    (
        "delivered out of order",
        [acquire(0, Delivery(P, 1, 1, 0, 9, "k"), ordering="key"), acquire(10, Delivery(P, 0, 1, 9, 20, "k"))],
    ),
    (
        "undelivered",
        [
            send(0, "a", "b", offsets=(0, 1)),
            acquire(10, Delivery(P, 0, 1, 0, 100), drained=True),
            final("a", "b"),
        ],
    ),
]


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_history_has_no_anomaly(name: str) -> None:
    assert check(SOUND[name]) == []


@pytest.mark.parametrize(("rule", "history"), ANOMALOUS, ids=[f"{n} {rule}" for n, (rule, _) in enumerate(ANOMALOUS)])
def test_the_checker_finds_the_anomaly(rule: str, history: list[AnyEvent]) -> None:
    assert rule in {anomaly.rule for anomaly in check(history)}


def test_an_anomaly_fails_with_its_rule_and_its_place() -> None:
    with pytest.raises(AssertionError, match=r"unseen: a at Place\(partition='orders/0', offset=0\)|unseen: a at"):
        assert_sound([send(0, "a", offsets=(0,)), final()])


def test_a_history_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    history = [event for events in SOUND.values() for event in events]

    save(tmp_path / "history.jsonl", history)

    assert load(tmp_path / "history.jsonl") == history
