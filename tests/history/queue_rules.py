"""The rules of queues: a record has one holder at a time, ends once, and each one is delivered."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tests.history.events import Acknowledge, Acquire, AnyEvent
from tests.history.log_view import Anomaly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.history.events import Delivery
    from tests.history.log_view import LogView


class _Queued(NamedTuple):
    """A record of a queue."""

    queue: str
    partition: str
    offset: int


class _Settlement(NamedTuple):
    """A settled delivery: its count, and when the acknowledgement was sent and answered."""

    delivery_count: int
    began: int
    ended: int


def holders(history: Sequence[AnyEvent]) -> Iterator[Anomaly]:
    """Find records with two holders, deliveries after the accept, and acknowledgements of ended deliveries."""
    deliveries = _deliveries(history)
    sent, accepted = _settlements(history)
    for record, found in deliveries.items():
        ordered = sorted(found, key=lambda pair: pair[1].delivery_count)
        for (_, earlier), (acquire, later) in pairwise(ordered):
            given_back = sent.get((record, earlier.delivery_count), acquire.ended)
            if earlier.delivery_count == later.delivery_count:
                yield Anomaly("delivered twice", f"{record} has the delivery {later.delivery_count} twice")
            elif given_back >= acquire.ended and later.from_ms < earlier.until_ms:
                yield Anomaly("two holders", f"{record}: {earlier} and {later}")
        for acceptance in accepted.get(record, ()):
            for acquire, delivery in ordered:
                if delivery.delivery_count > acceptance.delivery_count:
                    late = acquire.ended < acceptance.began
                    rule = "late acknowledgement" if late else "delivered after the accept"
                    yield Anomaly(rule, f"{record}: {acceptance}, delivery {delivery.delivery_count}")
        if len(accepted.get(record, ())) > 1:
            yield Anomaly("accepted twice", f"{record}: {accepted[record]}")


def order(history: Sequence[AnyEvent]) -> Iterator[Anomaly]:
    """Find deliveries of a key, or of a partition, out of order."""
    ordering = {event.queue: event.ordering for event in history if isinstance(event, Acquire) and event.ordering}
    by_key: dict[tuple[str, str, str], list[Delivery]] = defaultdict(list)
    for record, found in _deliveries(history).items():
        if record.queue in ordering:
            for _, delivery in found:
                key = delivery.key if ordering[record.queue] == "key" else ""
                by_key[record.queue, record.partition, key].append(delivery)
    for ordered, deliveries in by_key.items():
        offsets = [one.offset for one in sorted(deliveries, key=lambda one: (one.from_ms, one.offset))]
        if offsets != sorted(offsets):
            yield Anomaly("delivered out of order", f"{ordered}: {offsets}")


def undelivered(history: Sequence[AnyEvent], view: LogView) -> Iterator[Anomaly]:
    """Find records of a queue that says it is drained which were never delivered."""
    drained = {event.queue for event in history if isinstance(event, Acquire) and event.drained}
    delivered = _deliveries(history)
    topics: dict[str, set[str]] = defaultdict(set)
    for record in delivered:
        topics[record.queue].add(record.partition.rpartition("/")[0])
    for queue in drained:
        for partition, values in view.final.items():
            if partition.rpartition("/")[0] in topics[queue]:
                for offset, value in values.items():
                    if _Queued(queue, partition, offset) not in delivered:
                        yield Anomaly("undelivered", f"{value} at {partition}@{offset} in {queue}")


def _deliveries(history: Sequence[AnyEvent]) -> dict[_Queued, list[tuple[Acquire, Delivery]]]:
    found: dict[_Queued, list[tuple[Acquire, Delivery]]] = defaultdict(list)
    for event in history:
        if isinstance(event, Acquire):
            for one in event.deliveries:
                found[_Queued(event.queue, one.partition, one.offset)].append((event, one))
    return found


def _settlements(
    history: Sequence[AnyEvent],
) -> tuple[dict[tuple[_Queued, int], int], dict[_Queued, list[_Settlement]]]:
    """Return when the end of each delivery was first sent, and the accepts that were confirmed."""
    sent: dict[tuple[_Queued, int], int] = {}
    accepted: dict[_Queued, list[_Settlement]] = defaultdict(list)
    for event in history:
        for one in event.results if isinstance(event, Acknowledge) else ():
            record = _Queued(event.queue, one.partition, one.offset)  # type: ignore[union-attr]
            key = record, one.delivery_count
            sent[key] = min(event.began, sent.get(key, event.began))
            if event.outcome == "ok" and one.outcome == "accept" and not one.code:
                accepted[record].append(_Settlement(one.delivery_count, event.began, event.ended))
    return sent, accepted
