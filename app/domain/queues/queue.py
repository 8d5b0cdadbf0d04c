"""Queues: their configuration, the names of their deliveries, and the headers that they read and write. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec

from app.domain.log.offset_spec import OffsetSpec, parse_offset_spec
from app.domain.log.record import StoredRecord
from app.domain.queues.in_flight import KEYLESS, DeliveryRules
from app.errors.queues import InvalidQueueConfig

MAX_COPIES = 100_000
"""Records of a queue that are delayed, each in a row of its own."""

MAX_DELAY_MS = 30 * 86_400_000
MAX_ACKNOWLEDGEMENTS = 10_000

DELIVER_AT = "deliver_at_ms"
"""Header of a record that no queue delivers before that time."""

_DLQ = "__dlq.errors."
_DELIVER_AT_BYTES = DELIVER_AT.encode()
_MOMENT = re.compile(r"[0-9]{1,15}")
_DELIVERY_ID = re.compile(r"([0-9]{1,18})\.([0-9]{1,4})\.([0-9]{1,15})\.([0-9]{1,9})")

Ordering = Literal["none", "key"]


class QueueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A queue's configuration.

    Attributes:
        lock_duration_ms: How long an acquired record is its holder's alone.
        max_delivery_count: Deliveries after which a record that was not accepted is archived.
        start: Where in the topic the queue began.
        ordering: `key`: per key within a partition at most one record in flight, in order.
        paused: Whether nothing is acquired for the time being.
    """

    lock_duration_ms: int = 30_000
    max_delivery_count: int = 5
    start: str = "earliest"
    ordering: Ordering = "none"
    paused: bool = False

    @property
    def rules(self) -> DeliveryRules:
        """What of it decides about records."""
        return DeliveryRules(self.lock_duration_ms, self.max_delivery_count, self.ordering == "key")


class QueueInfo(NamedTuple):
    """A queue as a node knows it.

    Attributes:
        dead_letter_topic: Where archived records are copied to, or None.
    """

    queue_id: int
    name: str
    topic_id: int
    topic: str
    dead_letter_topic: str | None
    config: QueueConfig
    created_at_ms: int


BOUNDS: dict[str, tuple[int, int]] = {"lock_duration_ms": (1_000, 3_600_000), "max_delivery_count": (1, 100)}


def check_config(given: Mapping[str, object]) -> None:
    """Refuse values out of their bounds.

    Raises:
        InvalidQueueConfig: With one entry in `errors` per field.
        InvalidRequest: The start is no position.
    """
    errors = [
        {"field": name, "detail": f"must be from {low} to {high}"}
        for name, (low, high) in BOUNDS.items()
        if isinstance(value := given.get(name), int) and not low <= value <= high
    ]
    if errors:
        raise InvalidQueueConfig("; ".join(f"{each['field']} {each['detail']}" for each in errors), errors=errors)
    if isinstance(start := given.get("start"), str):
        parse_offset_spec(start, "start")


def start_of(config: QueueConfig) -> OffsetSpec:
    """Return where a queue begins in each partition."""
    return parse_offset_spec(config.start, "start")


class DeliveryId(NamedTuple):
    """The name of one delivery: of which queue, which record, and the how manieth it is."""

    queue_id: int
    partition: int
    offset: int
    delivery_count: int

    def __str__(self) -> str:
        """Spell it as clients see it."""
        return f"{self.queue_id}.{self.partition}.{self.offset}.{self.delivery_count}"


def parse_delivery_id(text: str) -> DeliveryId | None:
    """Read a delivery's name; None if it is none."""
    found = _DELIVERY_ID.fullmatch(text)
    return None if found is None else DeliveryId(*map(int, found.groups()))


def key_hash(key: bytes | None) -> int:
    """Return what stands for a key in the state of a queue; two keys that share it only wait for each other."""
    if key is None:
        return KEYLESS
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big", signed=True) or 1


class Header(msgspec.Struct, omit_defaults=True):
    """A header as it is stored."""

    name: str
    value: str | None
    encoding: str = "text"


_headers = msgspec.json.Decoder(list[Header])
_encode = msgspec.json.Encoder().encode


def deliver_at_ms(headers: bytes | None) -> int:
    """Return the time before which a record is not to be delivered, by its last header that says so, or 0."""
    if headers is None or _DELIVER_AT_BYTES not in headers:
        return 0
    return max((int(value) for value in _values(headers, DELIVER_AT) if _MOMENT.fullmatch(value)), default=0)


def _values(headers: bytes, name: str) -> list[str]:
    return [header.value for header in _headers.decode(headers) if header.name == name and header.value is not None]


class Origin(NamedTuple):
    """Where a dead letter comes from."""

    topic: str
    partition: int
    offset: int
    queue: str


def with_origin(headers: bytes | None, origin: Origin, delivery_count: int, reason: str) -> bytes:
    """Return a dead letter's headers: the record's own, then where it comes from and why.

    Source: KIP-1191; its `group` is the queue.
    """
    own = [] if headers is None else _own(_headers.decode(headers))
    added = {
        "topic": origin.topic,
        "partition": str(origin.partition),
        "offset": str(origin.offset),
        "group": origin.queue,
        "delivery.count": str(delivery_count),
        "message": reason,
    }
    return _encode([*own, *(Header(_DLQ + name, value) for name, value in added.items())])


def origin_of(headers: bytes | None) -> Origin | None:
    """Return where a dead letter comes from; None of a record that is none."""
    if headers is None or _DLQ.encode() not in headers:
        return None
    found = {header.name.removeprefix(_DLQ): header.value or "" for header in _headers.decode(headers)}
    try:
        return Origin(found["topic"], int(found["partition"]), int(found["offset"]), found["group"])
    except (KeyError, ValueError):
        return None


def without_origin(headers: bytes | None) -> tuple[bytes | None, int]:
    """Return the headers that the record had before it was a dead letter, and the bytes of their names and values.

    A time before which it was not to be delivered has passed, or its queue was told otherwise; it goes too.
    """
    own = [] if headers is None else [each for each in _own(_headers.decode(headers)) if each.name != DELIVER_AT]
    size = sum(len(each.name.encode()) + len((each.value or "").encode()) for each in own)
    return (_encode(own) if own else None), size


def _own(headers: Sequence[Header]) -> list[Header]:
    return [header for header in headers if not header.name.startswith(_DLQ)]


def size_of(record: StoredRecord) -> int:
    """Return the bytes that a record adds to an answer, about."""
    return record.size_bytes + 64
