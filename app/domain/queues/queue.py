"""The definition of a queue: name, topics, configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from app.domain.log.offset_spec import OffsetSpec, parse_offset_spec
from app.domain.queues.in_flight import DeliveryRules
from app.errors.queues import InvalidQueueConfig

Ordering = Literal["none", "key", "partition"]

BOUNDS: dict[str, tuple[int, int]] = {"lock_duration_ms": (1_000, 3_600_000), "max_delivery_count": (1, 100)}
"""Least and greatest value of each bounded field of a configuration."""


class QueueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A queue's configuration.

    Attributes:
        lock_duration_ms: How long the acquisition lock of a delivery lasts.
        max_delivery_count: Deliveries after which a record that was not accepted is archived.
        start: Where the queue starts in each partition of the topic: an offset specification.
        ordering: `key` delivers the records of a key in order, one at a time, within a partition; `partition` those
            of a partition.
        paused: Whether acquires return no records.
        run_records: With order by partition, how many new records one acquire may return; webhooks set it, which send
            them as one batch.
    """

    lock_duration_ms: int = 30_000
    max_delivery_count: int = 5
    start: str = "earliest"
    ordering: Ordering = "none"
    paused: bool = False
    run_records: int = 1

    @property
    def rules(self) -> DeliveryRules:
        """The rules for its records."""
        by_key, by_partition = self.ordering == "key", self.ordering == "partition"
        return DeliveryRules(self.lock_duration_ms, self.max_delivery_count, by_key, by_partition, self.run_records)


class QueueInfo(NamedTuple):
    """A queue.

    Attributes:
        dead_letter_topic: Topic that archived records are copied to, or None.
    """

    queue_id: int
    name: str
    topic_id: int
    topic: str
    dead_letter_topic: str | None
    config: QueueConfig
    created_at_ms: int


def check_config(given: Mapping[str, object]) -> None:
    """Check the given fields of a configuration.

    Raises:
        InvalidQueueConfig: A value is out of its bounds; `errors` has one entry per field.
        InvalidRequest: `start` is not a valid offset specification.
    """
    errors = [
        {"field": name, "detail": f"must be from {low} to {high}{', in milliseconds' if name.endswith('_ms') else ''}"}
        for name, (low, high) in BOUNDS.items()
        if isinstance(value := given.get(name), int) and not low <= value <= high
    ]
    if errors:
        raise InvalidQueueConfig("; ".join(f"{each['field']} {each['detail']}" for each in errors), errors=errors)
    if isinstance(start := given.get("start"), str):
        parse_offset_spec(start, "start")


def start_of(config: QueueConfig) -> OffsetSpec:
    """Return where a queue starts in each partition."""
    return parse_offset_spec(config.start, "start")
