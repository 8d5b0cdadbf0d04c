"""What a history says about the log: who sent a value, where it was seen, and what the last reading found."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from tests.history.events import AnyEvent, Poll, Send, Trim

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Anomaly(NamedTuple):
    """A broken rule, and where."""

    rule: str
    detail: str


class Place(NamedTuple):
    """A partition and an offset."""

    partition: str
    offset: int


class HighestBefore:
    """The highest offset of a partition that was acknowledged before a time."""

    def __init__(self, points: Iterable[tuple[int, int]]) -> None:
        self._times: list[int] = []
        self._highest: list[int] = []
        for time, offset in sorted(points):
            self._times.append(time)
            self._highest.append(max(offset, self._highest[-1] if self._highest else -1))

    def __call__(self, time: int) -> int:
        """Return the highest offset before `time`, or -1."""
        number = bisect_left(self._times, time)
        return self._highest[number - 1] if number else -1


class LogView:
    """The sends and polls of a history.

    Attributes:
        attempts: The attempts of each request.
        senders: By value, the attempts that sent it.
        polls: All answered polls.
        seen: By place, the values that answers of sends and polls have shown there.
        places: By value, the places at which answers have shown it.
        final: By partition, the values of the last reading by offset.
        ends: By partition, the end of the last reading; a partition without one is missing.
        floors: By partition, the offset below which records may have been deleted.
    """

    def __init__(self, history: Sequence[AnyEvent]) -> None:
        self.sends = [event for event in history if isinstance(event, Send)]
        self.polls = [event for event in history if isinstance(event, Poll) and event.outcome == "ok"]
        self.unanswered_polls = [event for event in history if isinstance(event, Poll) and event.outcome != "ok"]
        self.trims = [event for event in history if isinstance(event, Trim)]
        self.attempts: dict[str, list[Send]] = defaultdict(list)
        self.senders: dict[str, list[Send]] = defaultdict(list)
        self.seen: dict[Place, set[str]] = defaultdict(set)
        self.places: dict[str, set[Place]] = defaultdict(set)
        self.final: dict[str, dict[int, str]] = defaultdict(dict)
        self.ends: dict[str, int] = {}
        self.floors: dict[str, int] = defaultdict(int)
        for send in self.sends:
            self._add_send(send)
        for poll in self.polls:
            self._add_poll(poll)
        for trim in self.trims:
            if trim.outcome != "fail":
                self.floors[trim.partition] = max(self.floors[trim.partition], trim.before_offset)
        self.acknowledged = {partition: HighestBefore(points) for partition, points in self._acknowledgements().items()}

    def _add_send(self, send: Send) -> None:
        self.attempts[send.request].append(send)
        for value in send.values:
            self.senders[value].append(send)
        if send.outcome == "ok":
            for partition, offset, value in zip(send.partitions, send.offsets, send.values, strict=True):
                self._show(Place(partition, offset), value)

    def _add_poll(self, poll: Poll) -> None:
        for offset, value in poll.records:
            self._show(Place(poll.partition, offset), value)
        if poll.final:
            self.final[poll.partition].update(poll.records)
            self.ends[poll.partition] = max(self.ends.get(poll.partition, 0), poll.next_offset)

    def _show(self, place: Place, value: str) -> None:
        self.seen[place].add(value)
        self.places[value].add(place)

    def _acknowledgements(self) -> dict[str, list[tuple[int, int]]]:
        """Return when each offset was first acknowledged, by partition."""
        first: dict[Place, int] = {}
        for send in self.sends:
            for place in map(Place, send.partitions, send.offsets) if send.outcome == "ok" else ():
                first[place] = min(send.ended, first.get(place, send.ended))
        points: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for (partition, offset), ended in first.items():
            points[partition].append((ended, offset))
        return points

    def acknowledged_before(self, partition: str, time: int) -> int:
        """Return the highest offset of a partition that was acknowledged before a time, or -1."""
        found = self.acknowledged.get(partition)
        return -1 if found is None else found(time)

    def is_in_final(self, value: str) -> bool:
        """Return whether the last reading found a value."""
        return any(self.final[place.partition].get(place.offset) == value for place in self.places.get(value, ()))
