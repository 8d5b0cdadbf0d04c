"""The rules of groups: one owner per partition, no commit of a fenced member, nothing skipped, nothing lost."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tests.history.events import AnyEvent, Claim, Commit, Committed, Poll, Release, Send
from tests.history.log_view import Anomaly, HighestBefore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.history.events import Range
    from tests.history.log_view import LogView

Owned = tuple[str, str]
"""A group and a partition."""


class _Interval(NamedTuple):
    start: int
    end: int
    process: str


def owners(history: Sequence[AnyEvent]) -> Iterator[Anomaly]:
    """Find partitions that two processes owned at the same time.

    A claim begins with the answer that assigns the partition. It ends when the process sends its next request, is
    released, or is not answered until its session is over.
    """
    claims: dict[tuple[str, str], list[Claim | Release]] = defaultdict(list)
    for event in history:
        if isinstance(event, Claim | Release) and event.outcome == "ok":
            claims[event.group, event.process].append(event)
    intervals: dict[Owned, list[_Interval]] = defaultdict(list)
    for (group, process), events in claims.items():
        ordered: list[Claim | Release] = sorted(events, key=lambda event: event.began)
        for event, following in zip(ordered, [*ordered[1:], None], strict=True):
            if isinstance(event, Claim):
                end = event.until if following is None else min(event.until, following.began)
                for partition in event.partitions:
                    intervals[group, partition].append(_Interval(event.ended, end, process))
    for (group, partition), found in intervals.items():
        for before, after in pairwise(sorted(found)):
            if after.start < before.end and after.process != before.process:
                yield Anomaly("two owners", f"{before.process} and {after.process} own {partition} in {group}")


def zombies(history: Sequence[AnyEvent]) -> Iterator[Anomaly]:
    """Find answered claims, commits and sends of a process that was fenced."""
    released: dict[str, int] = {}
    for event in sorted(history, key=lambda event: event.began):
        if isinstance(event, Release):
            released[event.process] = event.ended
        elif isinstance(event, Claim) and event.joined:
            released.pop(event.process, None)
        elif isinstance(event, Claim | Commit | Send) and _is_zombie(event, released):
            yield Anomaly("zombie", f"{event.process} was answered after it was fenced")


def _is_zombie(event: Claim | Commit | Send, released: Mapping[str, int]) -> bool:
    return event.outcome == "ok" and event.began > released.get(event.process, event.began)


def commits(history: Sequence[AnyEvent]) -> Iterator[Anomaly]:
    """Find commits beyond what the group polled, and polls that begin beyond that or below what is committed."""
    answered = [(event, one) for event, one in _ranges(history) if event.outcome == "ok"]
    polled: dict[Owned, list[tuple[int, int]]] = defaultdict(list)
    committed: dict[Owned, list[tuple[int, int]]] = defaultdict(list)
    polls = [event for event in history if isinstance(event, Poll) and event.group and event.outcome == "ok"]
    for poll in polls:
        polled[poll.group, poll.partition].append((poll.ended, poll.next_offset))
    for event, one in answered:
        committed[one.group, one.partition].append((event.ended, one.offset))
    ends = {owned: HighestBefore(points) for owned, points in polled.items()}
    floors = {owned: HighestBefore(points) for owned, points in committed.items()}
    for event, one in answered:
        owned = one.group, one.partition
        end = ends[owned](event.began) if owned in ends else one.offset
        if one.offset > max(end, 0):
            yield Anomaly("commit skip", f"{event.process} committed {owned}@{one.offset}, polled up to {end}")
    for poll in polls:
        owned = poll.group, poll.partition
        floor = floors[owned](poll.began) if owned in floors else -1
        if poll.from_offset < floor:
            yield Anomaly("nonmonotonic poll", f"{poll.process} at {owned}@{poll.from_offset}, {floor} is committed")
        if poll.from_offset > max(ends[owned](poll.ended), floor, poll.log_start_offset):
            yield Anomaly("poll skip", f"{poll.process} at {owned}@{poll.from_offset}, first polled there")


def transactions(history: Sequence[AnyEvent], view: LogView) -> Iterator[Anomaly]:
    """Find records that two transactions processed, and transactions of which a part is there."""
    spans: dict[Owned, dict[str, Range]] = defaultdict(dict)
    others: dict[Owned, int] = defaultdict(int)
    for event, one in _ranges(history):
        owned = one.group, one.partition
        if isinstance(event, Commit):
            others[owned] = max(others[owned], one.offset if event.outcome != "fail" else 0)
        elif event.outcome == "ok" or any(view.is_in_final(value) for value in event.values):
            spans[owned][event.request] = one
    for owned, by_request in spans.items():
        ordered = sorted(by_request.values(), key=lambda span: (span.from_offset, span.offset))
        for before, after in pairwise(ordered):
            if after.from_offset < before.offset:
                yield Anomaly("processed twice", f"{owned}: {before} and {after}")
        end = ordered[-1].offset
        for found in _committed(history, owned):
            if not end <= found <= max(end, others[owned]):
                yield Anomaly("torn transaction", f"{owned} is committed at {found}, transactions end at {end}")


def _committed(history: Sequence[AnyEvent], owned: Owned) -> list[int]:
    """Return the committed offset of a partition as the last reading found it."""
    return [
        event.offset for event in history if isinstance(event, Committed) and (event.group, event.partition) == owned
    ]


def _ranges(history: Sequence[AnyEvent]) -> Iterator[tuple[Send | Commit, Range]]:
    for event in history:
        if isinstance(event, Send | Commit):
            for one in event.commits:
                yield event, one
