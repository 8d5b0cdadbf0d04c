"""The idempotent producer: next, repeat, gap or fenced. Pure.

Source: Kafka's ProducerStateEntry and ProducerAppendInfo; the sequence counts requests, not records,
per producer and topic, from 0.
"""

from __future__ import annotations

import msgspec

from app.errors.log import DuplicateSequenceNumber, InvalidProducerEpoch, OutOfOrderSequenceNumber, SequenceReused

WINDOW = 5
"""Requests whose answer is kept for a repeat, as many as Kafka keeps batches."""

MAX_SEQUENCE = 2**63 - 1
MAX_EPOCH = 2**31 - 1


class ProducerStamp(msgspec.Struct, frozen=True):
    """What a request says of its producer.

    Attributes:
        fingerprint: SHA-256 of path, query, media type and body.
    """

    producer_id: str
    epoch: int
    sequence: int
    fingerprint: bytes


class BatchMetadata(msgspec.Struct, frozen=True, array_like=True):
    """One of the last requests: its sequence, fingerprint and stored result."""

    sequence: int
    fingerprint: bytes
    result: bytes


class ProducerState(msgspec.Struct, frozen=True):
    """A producer on one topic: its epoch there, the next sequence, and its last requests, oldest first."""

    epoch: int
    next_sequence: int
    window: tuple[BatchMetadata, ...] = ()


def replay(state: ProducerState | None, fence_epoch: int, stamp: ProducerStamp) -> bytes | None:
    """Judge a stamped request: return the stored result of a repeat, or None if it is next.

    Args:
        state: What is known of the producer on this topic, or None.
        fence_epoch: The highest epoch of the producer on any topic; -1 if it is unknown.
        stamp: The request's stamp.

    Raises:
        InvalidProducerEpoch: The epoch is older than the producer's.
        OutOfOrderSequenceNumber: A gap, or a new producer or epoch that does not start at 0.
        DuplicateSequenceNumber: A repeat older than the window.
        SequenceReused: A repeat with another body.
    """
    current = max(fence_epoch, state.epoch if state else -1)
    if stamp.epoch < current:
        raise InvalidProducerEpoch(f"this producer's epoch is {current}, not {stamp.epoch}", producer_epoch=current)
    expected = state.next_sequence if state and state.epoch == stamp.epoch else 0
    if stamp.sequence > expected:
        raise OutOfOrderSequenceNumber(
            f"the next sequence is {expected}, not {stamp.sequence}", expected_sequence=expected
        )
    if stamp.sequence == expected:
        return None
    assert state is not None  # noqa: S101 - a sequence below the expected one has been seen
    for entry in state.window:
        if entry.sequence == stamp.sequence:
            if entry.fingerprint != stamp.fingerprint:
                raise SequenceReused(f"sequence {stamp.sequence} was used for another request")
            return entry.result
    raise DuplicateSequenceNumber(
        f"sequence {stamp.sequence} was appended before the last {WINDOW} requests",
        expected_sequence=expected,
    )


def advance(state: ProducerState | None, stamp: ProducerStamp, result: bytes) -> ProducerState:
    """Return the state after the stamped request was appended with this result."""
    kept = state.window if state and state.epoch == stamp.epoch else ()
    entry = BatchMetadata(stamp.sequence, stamp.fingerprint, result)
    return ProducerState(stamp.epoch, stamp.sequence + 1, (*kept, entry)[-WINDOW:])
