"""The rules of order: offsets rise with the sends, and a reader neither skips a record nor goes back."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.history.log_view import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.history.events import Poll, Send
    from tests.history.log_view import LogView


def sends(view: LogView) -> Iterator[Anomaly]:
    """Find requests at or below an offset that was acknowledged before they began, of whatever process.

    Jepsen compares the sends of one process; the lock of a partition orders those of all.
    """
    for request, attempts in view.attempts.items():
        began = min(attempt.began for attempt in attempts)
        answered = next((attempt for attempt in attempts if attempt.outcome == "ok"), None)
        if answered is None:
            continue
        for partition, offset in zip(answered.partitions, answered.offsets, strict=True):
            if (before := view.acknowledged_before(partition, began)) >= offset:
                yield Anomaly("nonmonotonic send", f"{request} got {partition}@{offset} after {before}")
                break
        yield from _inside_send(answered)


def _inside_send(send: Send) -> Iterator[Anomaly]:
    last: dict[str, int] = {}
    for partition, offset in zip(send.partitions, send.offsets, strict=True):
        if partition in last and offset <= last[partition]:
            yield Anomaly("internal nonmonotonic send", f"{send.request}: {offset} after {last[partition]}")
        elif partition in last and offset > last[partition] + 1:
            yield Anomaly("internal send skip", f"{send.request}: {offset} after {last[partition]}")
        last[partition] = offset


def polls(view: LogView) -> Iterator[Anomaly]:
    """Find gaps and repeats within a page, and between the pages of a session."""
    sessions: dict[tuple[str, str, str], list[Poll]] = defaultdict(list)
    for poll in view.polls:
        yield from _inside_poll(poll)
        sessions[poll.process, poll.session, poll.partition].append(poll)
    for session in sessions.values():
        for before, after in pairwise(sorted(session, key=lambda poll: poll.began)):
            yield from _compare("poll", after, before.next_offset, after.from_offset)


def _inside_poll(poll: Poll) -> Iterator[Anomaly]:
    expected = poll.from_offset
    for offset, _ in poll.records:
        yield from _compare("internal poll", poll, expected, offset)
        expected = offset + 1
    yield from _compare("poll", poll, expected, poll.next_offset)
    if not poll.records and poll.log_end_offset > poll.from_offset:
        yield Anomaly("stalled poll", f"{poll.process} got nothing at {poll.partition}@{poll.from_offset}")


def _compare(kind: str, poll: Poll, expected: int, offset: int) -> Iterator[Anomaly]:
    where = f"{poll.process} at {poll.partition}@{offset}, not {expected}"
    if offset > expected:
        yield Anomaly(f"{kind} skip", where)
    elif offset < expected:
        yield Anomaly("internal nonmonotonic poll" if kind == "internal poll" else "nonmonotonic poll", where)
