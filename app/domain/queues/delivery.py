"""Requests to acquire and acknowledge records of a queue, and their answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.domain.log.append import IdempotencyKey
from app.domain.log.record import StoredRecord
from app.domain.queues.delivery_id import DeliveryId
from app.domain.queues.in_flight import AcknowledgeType
from app.errors.broker_error import BrokerError

MAX_ACKNOWLEDGEMENTS = 10_000
"""Acknowledgements of one request."""

MAX_DELAY_MS = 30 * 86_400_000
"""Longest delay of a release."""

_RESPONSE_OVERHEAD_BYTES = 64


class Acquire(NamedTuple):
    """A request to acquire records.

    Attributes:
        lock_duration_ms: Duration of the acquisition locks; None for that of the queue.
        admit_new: Whether new records may be acquired; otherwise only those that were delivered before and
            are available again, and delayed ones that are due.
    """

    max_records: int
    max_bytes: int
    lock_duration_ms: int | None = None
    key: IdempotencyKey | None = None
    admit_new: bool = True


class Acknowledgement(NamedTuple):
    """The acknowledgement of one delivery; `delivery_id` is None if the client sent an invalid one."""

    delivery_id: DeliveryId | None
    acknowledge_type: AcknowledgeType
    delay_ms: int = 0


class Acknowledge(NamedTuple):
    """A request to settle deliveries, independently of each other."""

    items: Sequence[Acknowledgement]
    key: IdempotencyKey | None = None


class Delivery(NamedTuple):
    """An acquired record."""

    delivery_id: DeliveryId
    record: StoredRecord
    locked_until_ms: int


class Acquired(NamedTuple):
    """The result of an acquire.

    Attributes:
        now_ms: Time of the transaction, by the database's clock.
        available_at_ms: When a lock expires or a delay ends next, by the same clock; None if there is none.
        log_end_offsets: Log end offset of each partition that was searched, by its id.
    """

    deliveries: list[Delivery]
    now_ms: int = 0
    available_at_ms: int | None = None
    log_end_offsets: dict[int, int] | None = None


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """The result of one acknowledgement: the code of an error, or the new end of a renewed lock."""

    code: str | None = None
    detail: str = ""
    locked_until_ms: int | None = None


class Acknowledged(NamedTuple):
    """The result of each acknowledgement, in order of the request."""

    results: list[Settled]


class Retry(NamedTuple):
    """The transaction did not search everything: submit the request again.

    Attributes:
        wait: Whether other nodes hold locks of share partitions, for which the next transaction is to wait.
    """

    wait: bool = False


Request = Acquire | Acknowledge
Answer = Acquired | Acknowledged | Retry | BrokerError


def response_bytes(record: StoredRecord) -> int:
    """Return about how many bytes a record adds to a response."""
    return record.size_bytes + _RESPONSE_OVERHEAD_BYTES
