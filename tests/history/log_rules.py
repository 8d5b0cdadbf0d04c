"""The rules of the log: no record is lost, stored twice, torn from its request, or read although it was refused.

Source: `jepsen.tests.kafka`. There, the index of a value in the order of all values seen stands for its offset, since
Kafka's logs have gaps. Here offsets are dense, so the rules use them: topics with compaction have no history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.history.log_view import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.history.events import Poll
    from tests.history.log_view import LogView


def lost(view: LogView) -> Iterator[Anomaly]:
    """Find values that were acknowledged, or read once, and that the last reading does not have.

    A value is `lost` if the last reading has a later one, and `unseen` if it ends before the value.
    """
    for value, places in view.places.items():
        if view.is_in_final(value):
            continue
        for partition, offset in places:
            if offset >= view.floors[partition]:
                rule = "lost" if any(other > offset for other in view.final[partition]) else "unseen"
                yield Anomaly(rule, f"{value} at {partition}@{offset}")


def inconsistent_offsets(view: LogView) -> Iterator[Anomaly]:
    """Find offsets with two values, over the answers of sends and of polls."""
    for place, values in view.seen.items():
        if len(values) > 1:
            yield Anomaly("inconsistent offsets", f"{place} had {sorted(values)}")


def duplicates(view: LogView) -> Iterator[Anomaly]:
    """Find values at two offsets. A repeated request that is answered with another offset is one of them."""
    for value, places in view.places.items():
        if len(places) > 1:
            yield Anomaly("duplicate", f"{value} at {sorted(places)}")


def early_reads(view: LogView) -> Iterator[Anomaly]:
    """Find reads of values that were refused, that no attempt could have written yet, or that nobody sent."""
    for poll in view.polls:
        for offset, value in poll.records:
            if (rule := _early(view, poll, value)) is not None:
                yield Anomaly(rule, f"{value} at {poll.partition}@{offset} by {poll.process}")


def _early(view: LogView, poll: Poll, value: str) -> str | None:
    attempts = view.senders.get(value)
    if not attempts:
        return "phantom"
    possible = [attempt.began for attempt in attempts if attempt.outcome != "fail"]
    if not possible:
        return "aborted read"
    return "precommitted read" if poll.ended < min(possible) else None


def torn_requests(view: LogView) -> Iterator[Anomaly]:
    """Find requests of which the last reading has a part."""
    for request, attempts in view.attempts.items():
        values = attempts[0].values
        if any(view.floors[place.partition] for value in values for place in view.places.get(value, ())):
            continue
        present = [value for value in values if view.is_in_final(value)]
        if 0 < len(present) < len(values):
            yield Anomaly("torn request", f"of {request} only {present} is in the log")


def stale_reads(view: LogView) -> Iterator[Anomaly]:
    """Find reads that began after an acknowledgement and whose log ends before it, and waits that it did not end."""
    for poll in view.polls:
        acknowledged = view.acknowledged_before(poll.partition, poll.began)
        if 0 <= poll.log_end_offset <= acknowledged:
            yield Anomaly(
                "stale read",
                f"{poll.process}: the end of {poll.partition} is {poll.log_end_offset} after {acknowledged} was "
                "acknowledged",
            )
    for poll in view.unanswered_polls:
        if poll.unwoken and view.acknowledged_before(poll.partition, poll.ended) >= poll.from_offset:
            yield Anomaly("lost wake-up", f"{poll.process} at {poll.partition}@{poll.from_offset}")


def undeleted_records(view: LogView) -> Iterator[Anomaly]:
    """Find records below a log start offset that was answered before, and a start beyond the one requested."""
    for trim in view.trims:
        if trim.outcome != "ok":
            continue
        if trim.log_start_offset > view.floors[trim.partition]:
            yield Anomaly("deleted too much", f"{trim.partition} starts at {trim.log_start_offset}")
        for poll in view.polls:
            low = [offset for offset, _ in poll.records if offset < trim.log_start_offset]
            if poll.partition == trim.partition and poll.began > trim.ended and low:
                yield Anomaly("read below the log start", f"{poll.process} at {poll.partition}@{low}")
