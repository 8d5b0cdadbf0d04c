"""The idempotent producer: whether a request is the next one, a repeat, a gap or fenced. Pure.

Source: Kafka's ProducerStateEntry and ProducerAppendInfo. Here the sequence counts requests, not records, per producer
and topic, from 0.
"""

from __future__ import annotations

import msgspec

from app.errors.log import DuplicateSequenceNumber, InvalidProducerEpoch, OutOfOrderSequenceNumber, SequenceReused

WINDOW = 5
"""Requests whose result is stored for a repeat: as many as Kafka stores batches."""

MAX_SEQUENCE = 2**63 - 1
MAX_EPOCH = 2**31 - 1


class ProducerStamp(msgspec.Struct, frozen=True):
    """Producer id, epoch and sequence of a request.

    Attributes:
        fingerprint: SHA-256 of path, query, media type and body.
    """

    producer_id: str
    epoch: int
    sequence: int
    fingerprint: bytes


class BatchMetadata(msgspec.Struct, frozen=True, array_like=True):
    """Sequence, fingerprint and stored result of one of the last requests."""

    sequence: int
    fingerprint: bytes
    result: bytes


class ProducerState(msgspec.Struct, frozen=True):
    """A producer on one topic: its epoch there, its next sequence, and its last requests, oldest first."""

    epoch: int
    next_sequence: int
    window: tuple[BatchMetadata, ...] = ()


def stored_result(state: ProducerState | None, highest_epoch: int, stamp: ProducerStamp) -> bytes | None:
    """Return the stored result of a request that is a repeat, or None for the next request.

    Args:
        state: The producer's state on this topic, or None.
        highest_epoch: The highest epoch of the producer on any topic; -1 for an unknown producer.
        stamp: Of the request.

    Raises:
        InvalidProducerEpoch: The epoch is below the producer's.
        OutOfOrderSequenceNumber: A sequence is missing before it, or a new producer or epoch does not start at 0.
        DuplicateSequenceNumber: A repeat older than the window.
        SequenceReused: The sequence was used for another request.
    """
    current = max(highest_epoch, state.epoch if state else -1)
    if stamp.epoch < current:
        raise InvalidProducerEpoch(f"this producer's epoch is {current}, not {stamp.epoch}", producer_epoch=current)
    expected = state.next_sequence if state and state.epoch == stamp.epoch else 0
    if stamp.sequence > expected:
        raise OutOfOrderSequenceNumber(
            f"the next sequence is {expected}, not {stamp.sequence}", expected_sequence=expected
        )
    if stamp.sequence == expected:
        return None
    assert state is not None  # noqa: S101 - without a state no sequence is below the expected one
    for batch in state.window:
        if batch.sequence == stamp.sequence:
            if batch.fingerprint != stamp.fingerprint:
                raise SequenceReused(f"sequence {stamp.sequence} was used for another request")
            return batch.result
    raise DuplicateSequenceNumber(
        f"sequence {stamp.sequence} was appended before the last {WINDOW} requests",
        expected_sequence=expected,
    )


def advance(state: ProducerState | None, stamp: ProducerStamp, result: bytes) -> ProducerState:
    """Return the state after a request was appended with a result."""
    kept = state.window if state and state.epoch == stamp.epoch else ()
    batch = BatchMetadata(stamp.sequence, stamp.fingerprint, result)
    return ProducerState(stamp.epoch, stamp.sequence + 1, (*kept, batch)[-WINDOW:])
