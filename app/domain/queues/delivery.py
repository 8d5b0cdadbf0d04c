"""What workers ask of a queue and what they are answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.domain.log.append import IdempotencyKey
from app.domain.log.record import StoredRecord
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.queues.queue import DeliveryId
from app.errors.broker_error import BrokerError


class Acquire(NamedTuple):
    """A request for deliveries."""

    max_records: int
    max_bytes: int
    lock_duration_ms: int | None = None
    key: IdempotencyKey | None = None


class Acknowledgement(NamedTuple):
    """What the holder of a delivery says; `delivery_id` is None if what was sent cannot be one."""

    delivery_id: DeliveryId | None
    outcome: AcknowledgeType
    delay_ms: int = 0


class Acknowledge(NamedTuple):
    """A request to settle deliveries, each for itself."""

    items: Sequence[Acknowledgement]
    key: IdempotencyKey | None = None


class Delivery(NamedTuple):
    """A record in the hands of a worker."""

    delivery_id: DeliveryId
    record: StoredRecord
    locked_until_ms: int


class Acquired(NamedTuple):
    """What an acquire got.

    Attributes:
        free_at_ms: When it may be worth to ask again although nothing is announced, by the database's clock.
        now_ms: That clock.
        ends: Log end of each partition that was looked at, by its id.
    """

    deliveries: list[Delivery]
    now_ms: int = 0
    free_at_ms: int | None = None
    ends: dict[int, int] | None = None


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """What became of an acknowledgement: a code if it was refused, the new end of the lock if that was wanted."""

    code: str | None = None
    detail: str = ""
    locked_until_ms: int | None = None


class Acknowledged(NamedTuple):
    """What became of each acknowledgement, in order."""

    results: list[Settled]


class Again(NamedTuple):
    """There may be more than this transaction could look at: ask again.

    Attributes:
        wait: Whether other nodes were at the windows, so that they must be waited for.
    """

    wait: bool = False


Request = Acquire | Acknowledge
Answer = Acquired | Acknowledged | Again | BrokerError
