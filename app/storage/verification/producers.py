"""Check idempotent producers and Idempotency-Keys against each other and against the log."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import msgspec
from sqlalchemy import Connection, select

from app.domain.log.append import Appended
from app.domain.log.producer import WINDOW, BatchMetadata
from app.storage.db.tables import idempotency_keys, producer_topics, producers
from app.storage.verification.log import CheckedLog, decoded, rows_of
from app.storage.verification.report import Report

_RESULTS_AT_ONCE = 100
"""A result has up to 10,000 offsets."""
_HASH_BYTES = 32

_PRODUCERS = select(producers.c.producer_id, producers.c.producer_epoch)
_TOPICS = (
    select(
        producer_topics.c.producer_id,
        producer_topics.c.topic_id,
        producer_topics.c.producer_epoch,
        producer_topics.c.next_sequence,
        producer_topics.c.window,
        producers.c.producer_epoch.label("epoch"),
    )
    .outerjoin(producers, producers.c.producer_id == producer_topics.c.producer_id)
    .order_by(producer_topics.c.producer_id, producer_topics.c.topic_id)
)
_KEYS = select(
    idempotency_keys.c.topic_id,
    idempotency_keys.c.key_hash,
    idempotency_keys.c.fingerprint,
    idempotency_keys.c.result,
).order_by(idempotency_keys.c.topic_id, idempotency_keys.c.key_hash)

_windows = msgspec.msgpack.Decoder(tuple[BatchMetadata, ...])
_results = msgspec.msgpack.Decoder(Appended)
_any = msgspec.msgpack.Decoder()


def check_producers(connection: Connection, log: CheckedLog, report: Report) -> None:
    """Check epochs, sequences and stored results."""
    for producer_id, epoch in rows_of(connection, _PRODUCERS):
        report.checked["producers"] += 1
        report.require(epoch >= 0, "PRODUCERS", f"producer {producer_id}", f"its epoch is {epoch}")
    for producer_id, topic_id, epoch, next_sequence, window, highest in rows_of(connection, _TOPICS, _RESULTS_AT_ONCE):
        report.checked["producer_topics"] += 1
        topic = log.topics.get(topic_id)
        subject = f"producer {producer_id} on {'a deleted topic' if topic is None else topic.name}"
        if topic is None or highest is None:
            report.add("ORPHAN", subject, "it has no topic" if topic is None else "it has no epoch")
            continue
        report.require(epoch <= highest, "PRODUCERS", subject, f"its epoch is {epoch}, above the producer's {highest}")
        batches = decoded(report, subject, partial(_windows.decode, window))
        if batches is None:
            continue
        sequences = [batch.sequence for batch in batches]
        expected = list(range(next_sequence - len(sequences), next_sequence))
        report.require(
            sequences == expected and len(sequences) <= WINDOW and expected[:1] >= [0],
            "PRODUCERS",
            subject,
            f"its next sequence is {next_sequence}, and its last requests are {sequences}",
        )
        for batch in batches:
            _check_result(log, topic_id, batch.result, f"{subject}, sequence {batch.sequence}", report)


def check_idempotency_keys(connection: Connection, log: CheckedLog, report: Report) -> None:
    """Check the stored results of Idempotency-Keys. Keys of deleted topics stay until they expire."""
    for topic_id, key_hash, fingerprint, result in rows_of(connection, _KEYS, _RESULTS_AT_ONCE):
        report.checked["idempotency_keys"] += 1
        subject = f"Idempotency-Key {bytes(key_hash).hex()[:16]} of topic id {topic_id}"
        if result is None:
            report.add("MISSING", subject, "it has no result")
            continue
        lengths = len(key_hash), len(fingerprint)
        report.require(lengths == (_HASH_BYTES, _HASH_BYTES), "UNREADABLE", subject, "its hashes are not SHA-256")
        if topic_id in log.topics:
            _check_result(log, topic_id, result, subject, report)
        else:
            decoded(report, subject, partial(_any.decode, result))


def _check_result(log: CheckedLog, topic_id: int, result: bytes, subject: str, report: Report) -> None:
    """Check that the records of a stored result, which a client has been told, are below the end of the log."""
    appended = decoded(report, subject, partial(_results.decode, result))
    if appended is None:
        return
    for partition, offset in _last_offsets(appended):
        end = log.end_of(topic_id, partition)
        if end is None:
            report.add("ORPHAN", subject, f"its topic has no partition {partition}")
        elif offset >= end:
            detail = f"offset {offset} of partition {partition} was acknowledged, and log_end_offset is {end}"
            report.add("ABOVE_END", subject, detail)


def _last_offsets(appended: Appended) -> Iterable[tuple[int, int]]:
    last: dict[int, int] = {}
    for partition, offset in zip(appended.partitions, appended.offsets, strict=True):
        last[partition] = max(offset, last.get(partition, -1))
    return last.items()
