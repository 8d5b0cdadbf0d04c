"""The life of a record in a queue: available, acquired under a lock, ended or available again. Pure.

What a queue knows of a partition is a window: `end_offset` is the next record to be looked at, and only records
below it that have not ended have an entry. So the state is as large as what is in flight, whatever the topic holds.

Source: KIP-932 (SharePartition): states, delivery counts, locks, and at most 2,000 records in flight a partition.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from app.errors.queues import InvalidRecordState

MAX_IN_FLIGHT = 2_000
"""Entries of a window, and records that one acquire looks at, per partition."""

KEYLESS = 0
"""`key_hash` of a record whose key blocks no other."""


class RecordState(enum.IntEnum):
    """What a record is waiting for: a worker, its holder, or its removal by the background task."""

    AVAILABLE = 0
    ACQUIRED = 1
    REJECTED = 2
    EXHAUSTED = 3


class AcknowledgeType(enum.IntEnum):
    """What a holder says of a delivery. `WITHDRAW` is said for a client that was gone before its answer."""

    ACCEPT = 1
    RELEASE = 2
    REJECT = 3
    RENEW = 4
    WITHDRAW = 5


class DeliveryRules(NamedTuple):
    """What of a queue's configuration decides about its records."""

    lock_duration_ms: int
    max_delivery_count: int
    by_key: bool = False


class InFlightRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record that has been looked at and has not ended.

    Attributes:
        delivery_count: Deliveries so far, the running one included.
        until_ms: End of the lock; of an available or ended record the time before which it is left alone.
        key_hash: 64 bits of the key's hash where the queue is ordered by key, else `KEYLESS`.
    """

    offset: int
    state: int = RecordState.AVAILABLE
    delivery_count: int = 0
    until_ms: int = 0
    key_hash: int = KEYLESS


class RecordSummary(NamedTuple):
    """A record of the log that comes into the window."""

    offset: int
    key_hash: int
    deliver_at_ms: int


def is_held(entry: InFlightRecord, now_ms: int) -> bool:
    """Return whether somebody holds the record."""
    return entry.state == RecordState.ACQUIRED and entry.until_ms > now_ms


def is_takeable(entry: InFlightRecord, rules: DeliveryRules, now_ms: int) -> bool:
    """Return whether the record may be delivered now, the order of keys left aside."""
    if entry.until_ms > now_ms:
        return False
    if entry.state == RecordState.AVAILABLE:
        return True
    return entry.state == RecordState.ACQUIRED and entry.delivery_count < rules.max_delivery_count


def is_to_archive(entry: InFlightRecord, rules: DeliveryRules, now_ms: int) -> bool:
    """Return whether the record is to be archived now."""
    return entry.until_ms <= now_ms and is_last(entry, rules)


def is_last(entry: InFlightRecord, rules: DeliveryRules) -> bool:
    """Return whether the record will be archived at `until_ms`, unless its holder says something better before."""
    if entry.state == RecordState.ACQUIRED:
        return entry.delivery_count >= rules.max_delivery_count
    return entry.state != RecordState.AVAILABLE


def acquire(entry: InFlightRecord, until_ms: int) -> InFlightRecord:
    """Return the record's entry once it is delivered again, locked until a time."""
    return InFlightRecord(entry.offset, RecordState.ACQUIRED, entry.delivery_count + 1, until_ms, entry.key_hash)


def settle(
    entry: InFlightRecord | None,
    delivery_count: int,
    outcome: AcknowledgeType,
    rules: DeliveryRules,
    now_ms: int,
    delay_ms: int = 0,
) -> InFlightRecord | None:
    """Return the record's entry after its holder's word, or None once it is accepted.

    Raises:
        InvalidRecordState: The delivery has ended, its lock has passed, or it never was.
    """
    if entry is None or entry.delivery_count != delivery_count or not is_held(entry, now_ms):
        raise InvalidRecordState("this delivery has ended, or its lock has passed; acquire again")
    if outcome is AcknowledgeType.ACCEPT:
        return None
    state, until_ms = RecordState.AVAILABLE, now_ms + delay_ms
    if outcome is AcknowledgeType.REJECT:
        state, until_ms = RecordState.REJECTED, now_ms
    elif outcome is AcknowledgeType.RENEW:
        state, until_ms = RecordState.ACQUIRED, max(entry.until_ms, now_ms + rules.lock_duration_ms)
    elif outcome is AcknowledgeType.RELEASE and delivery_count >= rules.max_delivery_count:
        state, until_ms = RecordState.EXHAUSTED, now_ms
    return InFlightRecord(entry.offset, state, delivery_count, until_ms, entry.key_hash)


def postpone(entry: InFlightRecord, until_ms: int) -> InFlightRecord:
    """Return the entry of a record that could not be archived: available again, after a while."""
    return InFlightRecord(entry.offset, RecordState.AVAILABLE, entry.delivery_count, until_ms, entry.key_hash)


def reason_of(entry: InFlightRecord) -> str:
    """Return why a to_archive record is archived."""
    if entry.state == RecordState.REJECTED:
        return "rejected"
    word = "released" if entry.state == RecordState.EXHAUSTED else "lock expired"
    return f"{word} after delivery {entry.delivery_count}, the last that max_delivery_count allows"


def passed(entries: Mapping[int, InFlightRecord], log_start_offset: int, now_ms: int) -> list[int]:
    """Return the offsets that retention has passed: they have expired, unless held or waiting for the archive."""
    return [
        offset
        for offset, entry in entries.items()
        if offset < log_start_offset
        and not is_held(entry, now_ms)
        and entry.state not in {RecordState.REJECTED, RecordState.EXHAUSTED}
    ]


def first_of_keys(entries: Iterable[InFlightRecord]) -> dict[int, int]:
    """Return the lowest offset of each key among entries in order of offsets."""
    first: dict[int, int] = {}
    for entry in entries:
        first.setdefault(entry.key_hash, entry.offset)
    first.pop(KEYLESS, None)
    return first


def takeable(
    entries: Iterable[InFlightRecord], rules: DeliveryRules, now_ms: int, copied: Mapping[int, int] | None = None
) -> Iterator[InFlightRecord]:
    """Yield what may be delivered now, in order of offsets.

    Where the queue is ordered by key, only the first record of a key that has not ended may be: whatever state it
    is in, it blocks those after it.

    Args:
        entries: All of a window, by offset.
        rules: The queue's.
        now_ms: Time of the acquisition.
        copied: Lowest offset by `key_hash` of the records that are delayed in rows of their own.
    """
    seen: set[int] = set()
    for entry in entries:
        if rules.by_key and entry.key_hash != KEYLESS:
            if entry.key_hash in seen:
                continue
            seen.add(entry.key_hash)
            if copied is not None and copied.get(entry.key_hash, entry.offset) < entry.offset:
                continue
        if is_takeable(entry, rules, now_ms):
            yield entry


def admit(looks: Iterable[RecordSummary], now_ms: int) -> Iterator[InFlightRecord]:
    """Yield the entries of records that come into the window; those to be delivered later wait until then."""
    for offset, key_hash, deliver_at_ms in looks:
        until_ms = deliver_at_ms if deliver_at_ms > now_ms else 0
        yield InFlightRecord(offset, RecordState.AVAILABLE, 0, until_ms, key_hash)


def is_delayed(entry: InFlightRecord, now_ms: int) -> bool:
    """Return whether the record waits for a time rather than for a worker."""
    return entry.state == RecordState.AVAILABLE and entry.until_ms > now_ms


def archive_at_ms(entries: Iterable[InFlightRecord], rules: DeliveryRules) -> int | None:
    """Return when the first of the records is to be archived if nothing happens, or None."""
    return min((entry.until_ms for entry in entries if is_last(entry, rules)), default=None)


def free_at_ms(entries: Iterable[InFlightRecord], now_ms: int) -> int | None:
    """Return when the next of the records is free by the passing of time, or None."""
    return min((entry.until_ms for entry in entries if entry.until_ms > now_ms), default=None)
