"""The states of a record in a share partition: available, acquired under a lock, ended or available again. Pure.

Source: KIP-932 (`SharePartition`): record states, delivery counts, acquisition locks.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from app.domain.queues.record_summary import KEYLESS
from app.errors.queues import InvalidRecordState


class RecordState(enum.IntEnum):
    """State of an in-flight record; `REJECTED` and `EXHAUSTED` records wait to be archived."""

    AVAILABLE = 0
    ACQUIRED = 1
    REJECTED = 2
    EXHAUSTED = 3


class AcknowledgeType(enum.IntEnum):
    """Type of an acknowledgement; the broker sends `WITHDRAW` if the client disconnects before its response."""

    ACCEPT = 1
    RELEASE = 2
    REJECT = 3
    RENEW = 4
    WITHDRAW = 5


class DeliveryRules(NamedTuple):
    """The part of a queue's configuration that decides about its records.

    Attributes:
        by_key: Whether a record that has not ended blocks the later records of its key.
        by_partition: Whether a record that has not ended blocks the later records of its partition.
        run_records: If so, how many new records are acquired together.
    """

    lock_duration_ms: int
    max_delivery_count: int
    by_key: bool = False
    by_partition: bool = False
    run_records: int = 1

    @property
    def ordered(self) -> bool:
        """Whether a record may block others."""
        return self.by_key or self.by_partition


class InFlightRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record that was admitted to a share partition and has not ended.

    Attributes:
        delivery_count: Deliveries so far, the current one included.
        until_ms: End of the acquisition lock; for any other state, the time before which the record is not used.
        key_hash: 64 bits of the key's hash if the queue is ordered by key, else `KEYLESS`.
    """

    offset: int
    state: int = RecordState.AVAILABLE
    delivery_count: int = 0
    until_ms: int = 0
    key_hash: int = KEYLESS


def is_acquired(entry: InFlightRecord, now_ms: int) -> bool:
    """Return whether the record is acquired and its lock has not expired."""
    return entry.state == RecordState.ACQUIRED and entry.until_ms > now_ms


def is_available(entry: InFlightRecord, rules: DeliveryRules, now_ms: int) -> bool:
    """Return whether the record may be delivered now, without regard to the order of keys."""
    if entry.until_ms > now_ms:
        return False
    if entry.state == RecordState.AVAILABLE:
        return True
    return entry.state == RecordState.ACQUIRED and entry.delivery_count < rules.max_delivery_count


def is_delayed(entry: InFlightRecord, now_ms: int) -> bool:
    """Return whether the record becomes available only at a later time."""
    return entry.state == RecordState.AVAILABLE and entry.until_ms > now_ms


def is_held(entry: InFlightRecord, now_ms: int) -> bool:
    """Return whether the record stays in the queue when the log deletes it: it does, unless it is available.

    A record whose lock has expired stays: its consumer may have failed.
    """
    return entry.state != RecordState.AVAILABLE or entry.until_ms > now_ms


def is_to_archive(entry: InFlightRecord, rules: DeliveryRules, now_ms: int) -> bool:
    """Return whether the record is to be archived now."""
    return entry.until_ms <= now_ms and will_be_archived(entry, rules)


def will_be_archived(entry: InFlightRecord, rules: DeliveryRules) -> bool:
    """Return whether the record is archived at `until_ms` unless an acknowledgement arrives before."""
    if entry.state == RecordState.ACQUIRED:
        return entry.delivery_count >= rules.max_delivery_count
    return entry.state != RecordState.AVAILABLE


def acquire(entry: InFlightRecord, until_ms: int) -> InFlightRecord:
    """Return the record after another delivery, locked until `until_ms`."""
    return InFlightRecord(entry.offset, RecordState.ACQUIRED, entry.delivery_count + 1, until_ms, entry.key_hash)


def settle(
    entry: InFlightRecord | None,
    delivery_count: int,
    acknowledge_type: AcknowledgeType,
    rules: DeliveryRules,
    now_ms: int,
    delay_ms: int = 0,
) -> InFlightRecord | None:
    """Return the record after an acknowledgement of its delivery number `delivery_count`, or None if it is accepted.

    Raises:
        InvalidRecordState: The delivery has ended, its lock has expired, or it never existed.
    """
    if entry is None or entry.delivery_count != delivery_count or not is_acquired(entry, now_ms):
        raise InvalidRecordState("this delivery has ended, or its lock has expired; acquire again")
    if acknowledge_type is AcknowledgeType.ACCEPT:
        return None
    state, until_ms = RecordState.AVAILABLE, now_ms + delay_ms
    if acknowledge_type is AcknowledgeType.REJECT:
        state, until_ms = RecordState.REJECTED, now_ms
    elif acknowledge_type is AcknowledgeType.RENEW:
        state, until_ms = RecordState.ACQUIRED, max(entry.until_ms, now_ms + rules.lock_duration_ms)
    elif acknowledge_type is AcknowledgeType.RELEASE and delivery_count >= rules.max_delivery_count:
        state, until_ms = RecordState.EXHAUSTED, now_ms
    return InFlightRecord(entry.offset, state, delivery_count, until_ms, entry.key_hash)


def postpone(entry: InFlightRecord, until_ms: int) -> InFlightRecord:
    """Return a record whose dead letter was refused: available again from `until_ms` on."""
    return InFlightRecord(entry.offset, RecordState.AVAILABLE, entry.delivery_count, until_ms, entry.key_hash)


def step_back(entry: InFlightRecord, rules: DeliveryRules, step_ms: int, now_ms: int) -> InFlightRecord:
    """Return the record after the clock has stepped back: its lock or delay does not last longer for it.

    A lock ends at the latest `lock_duration_ms` from now. A delay before the first delivery ends at `deliver_at_ms`, a
    time of day, and stays.
    """
    if entry.delivery_count == 0:
        return entry
    latest_ms = now_ms + rules.lock_duration_ms if entry.state == RecordState.ACQUIRED else now_ms
    until_ms = min(entry.until_ms, max(entry.until_ms - step_ms, latest_ms))
    return InFlightRecord(entry.offset, entry.state, entry.delivery_count, until_ms, entry.key_hash)


def archive_reason(entry: InFlightRecord) -> str:
    """Return why a record is archived."""
    if entry.state == RecordState.REJECTED:
        return "rejected"
    cause = "released" if entry.state == RecordState.EXHAUSTED else "lock expired"
    return f"{cause} after delivery {entry.delivery_count}, the last that max_delivery_count allows"


def first_offset_by_key(entries: Iterable[InFlightRecord]) -> dict[int, int]:
    """Return the lowest offset of each `key_hash`, from records in ascending order of offsets."""
    first: dict[int, int] = {}
    for entry in entries:
        first.setdefault(entry.key_hash, entry.offset)
    first.pop(KEYLESS, None)
    return first


def available(
    entries: Iterable[InFlightRecord],
    rules: DeliveryRules,
    now_ms: int,
    first_delayed: Mapping[int, int] | None = None,
) -> Iterator[InFlightRecord]:
    """Yield the records that may be delivered now, in ascending order of offsets.

    If the queue is ordered by key, the first record of a key that has not ended blocks all later ones of that key,
    whatever its state.

    Args:
        entries: All in-flight records of a share partition, in ascending order of offsets.
        rules: Rules of the queue.
        now_ms: Time of the acquire.
        first_delayed: Lowest offset by `key_hash` among the delayed records of the share partition.
    """
    seen: set[int] = set()
    for entry in entries:
        if rules.by_key and entry.key_hash != KEYLESS:
            if entry.key_hash in seen:
                continue
            seen.add(entry.key_hash)
            if first_delayed is not None and first_delayed.get(entry.key_hash, entry.offset) < entry.offset:
                continue
        if is_available(entry, rules, now_ms):
            yield entry


def next_run(entries: Iterable[InFlightRecord], rules: DeliveryRules, now_ms: int) -> Iterator[InFlightRecord]:
    """Yield the records of a partition that may be delivered now if the queue is ordered by partition.

    They are the first ones that were never delivered. A record that was delivered before comes alone.

    Args:
        entries: The in-flight records of a share partition that come before its delayed ones, in ascending order.
        rules: Rules of the queue.
        now_ms: Time of the acquire.
    """
    for number, entry in enumerate(entries):
        if not is_available(entry, rules, now_ms) or (number and entry.delivery_count):
            return
        yield entry
        if entry.delivery_count:
            return


def waiting_behind(
    entries: Iterable[InFlightRecord], first_delayed: Mapping[int, int], now_ms: int
) -> Iterator[InFlightRecord]:
    """Yield the available in-flight records with an earlier delayed record of their key.

    Args:
        entries: All in-flight records of a share partition.
        first_delayed: Lowest offset by `key_hash` among the delayed records of the share partition.
        now_ms: Time of the acquire.
    """
    for entry in entries:
        if not is_held(entry, now_ms) and first_delayed.get(entry.key_hash, entry.offset) < entry.offset:
            yield entry


def archive_at_ms(entries: Iterable[InFlightRecord], rules: DeliveryRules) -> int | None:
    """Return when the first of the records is to be archived if no acknowledgement arrives, or None."""
    return min((entry.until_ms for entry in entries if will_be_archived(entry, rules)), default=None)


def available_at_ms(entries: Iterable[InFlightRecord], now_ms: int) -> int | None:
    """Return the next time at which a lock expires or a delay ends, or None."""
    return min((entry.until_ms for entry in entries if entry.until_ms > now_ms), default=None)
