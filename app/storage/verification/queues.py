"""Check queues: records in flight and delayed records against their counters and the log."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, case, func, or_, select

from app.domain.queues.in_flight import InFlightRecord, RecordState
from app.domain.queues.record_summary import KEYLESS
from app.domain.queues.share_partition_state import MAX_IN_FLIGHT
from app.storage.db.tables import delayed_records, queue_archives, queue_partitions, queues, topics
from app.storage.queues.delayed_records import REFERENCE
from app.storage.queues.queues import decode_config
from app.storage.verification.log import CheckedLog, decoded, rows_of
from app.storage.verification.report import Report

_columns, _delayed = queue_partitions.c, delayed_records.c
_STATES = {state.value for state in RecordState}
_dead_letters = topics.alias("dead_letters")
_QUEUES = select(
    queues.c.queue_id, queues.c.name, queues.c.topic_id, queues.c.config, queues.c.dead_letter_topic_id
).order_by(queues.c.queue_id)
_SHARE_PARTITIONS = select(
    _columns.queue_id,
    _columns.partition_id,
    _columns.end_offset,
    _columns.entries,
    _columns.delayed,
    _columns.reference_count,
    _columns.accepted,
    _columns.archived,
    _columns.expired,
).order_by(_columns.queue_id, _columns.partition_id)
_is_reference = case((_delayed.encoding == REFERENCE, 1), else_=0)
_ROWS = (
    select(
        _delayed.queue_id,
        _delayed.partition_id,
        func.sum(1 - _is_reference),
        func.sum(_is_reference),
        func.max(_delayed.offset),
        func.min(_delayed.state),
        func.max(_delayed.state),
    )
    .group_by(_delayed.queue_id, _delayed.partition_id)
    .order_by(_delayed.queue_id, _delayed.partition_id)
)
_OFFSETS = select(_delayed.queue_id, _delayed.partition_id, _delayed.offset).order_by(
    _delayed.queue_id, _delayed.partition_id, _delayed.offset
)
_unblocked = case((_delayed.blocked_by_key == 0, 1), else_=0)
_WRONG_KEYS = (
    select(_delayed.queue_id, _delayed.partition_id, func.min(_delayed.offset), func.sum(_unblocked))
    .where(_delayed.key_hash != KEYLESS)
    .group_by(_delayed.queue_id, _delayed.partition_id, _delayed.key_hash)
    .having(
        or_(
            func.sum(_unblocked) != 1,
            func.min(_delayed.offset) != func.min(case((_delayed.blocked_by_key == 0, _delayed.offset))),
        )
    )
)
_ARCHIVES = (
    select(queue_archives.c.queue_id, queue_archives.c.partition_id, func.max(queue_archives.c.offset))
    .group_by(queue_archives.c.queue_id, queue_archives.c.partition_id)
    .order_by(queue_archives.c.queue_id, queue_archives.c.partition_id)
)
_entries = msgspec.msgpack.Decoder(list[InFlightRecord])

Key = tuple[int, int]
"""Queue id and partition id."""


class CheckedSharePartition(NamedTuple):
    """A share partition: how a report names it, and where it ends."""

    subject: str
    end_offset: int


class _Expected(NamedTuple):
    delayed: int
    references: int
    in_flight: frozenset[int]


def check_queues(connection: Connection, log: CheckedLog, report: Report) -> dict[Key, CheckedSharePartition]:
    """Check the queues, and return their share partitions."""
    names: dict[int, tuple[str, int]] = {}
    for queue_id, name, topic_id, config, dead_letter_topic_id in connection.execute(_QUEUES):
        report.checked["queues"] += 1
        subject = f"queue {name}"
        names[queue_id] = subject, topic_id
        decoded(report, subject, partial(decode_config, config))
        report.require(topic_id in log.topics, "ORPHAN", subject, f"it has no topic (topic_id {topic_id})")
        is_known = dead_letter_topic_id is None or dead_letter_topic_id in log.topics
        report.require(is_known, "ORPHAN", subject, f"it has no dead-letter topic (topic_id {dead_letter_topic_id})")
    found, expected = _check_share_partitions(connection, names, log, report)
    for queue_id, (subject, topic_id) in names.items():
        for partition, partition_id in log.topics[topic_id].partition_ids.items() if topic_id in log.topics else ():
            is_there = (queue_id, partition_id) in found
            report.require(is_there, "MISSING", subject, f"it has no state of partition {partition}")
    _check_rows(connection, found, expected, report)
    return found


def _check_share_partitions(
    connection: Connection, names: dict[int, tuple[str, int]], log: CheckedLog, report: Report
) -> tuple[dict[Key, CheckedSharePartition], dict[Key, _Expected]]:
    found: dict[Key, CheckedSharePartition] = {}
    expected: dict[Key, _Expected] = {}
    for queue_id, partition_id, end_offset, encoded, delayed, references, *ended in rows_of(
        connection, _SHARE_PARTITIONS, 200
    ):
        report.checked["queue_partitions"] += 1
        name = names.get(queue_id, (f"queue id {queue_id}", 0))[0]
        subject = f"{name}, partition_id {partition_id}"
        end = log.ends.get(partition_id)
        if queue_id not in names or end is None:
            report.add("ORPHAN", subject, "it has no queue" if queue_id not in names else "it has no partition")
            continue
        found[queue_id, partition_id] = CheckedSharePartition(subject, end_offset)
        if not 0 <= end_offset <= end:
            report.add("ABOVE_END", subject, f"end_offset is {end_offset}, and log_end_offset {end}")
        report.require(min(delayed, references, *ended) >= 0, "QUEUES", subject, "a counter is negative")
        entries = decoded(report, subject, partial(_entries.decode, encoded)) or []
        _check_entries(entries, end_offset, subject, report)
        if entries or delayed or references:
            offsets = frozenset(entry.offset for entry in entries) if delayed or references else frozenset()
            expected[queue_id, partition_id] = _Expected(delayed, references, offsets)
    return found, expected


def _check_entries(entries: list[InFlightRecord], end_offset: int, subject: str, report: Report) -> None:
    offsets = [entry.offset for entry in entries]
    is_ascending = all(one < other for one, other in pairwise(offsets))
    report.require(is_ascending, "QUEUES", subject, "records in flight are not in the order of their offsets")
    above = [offset for offset in offsets if offset >= end_offset]
    report.require(not above, "QUEUES", subject, f"offset {above[:1]} is in flight, and end_offset is {end_offset}")
    report.require(len(offsets) <= MAX_IN_FLIGHT, "QUEUES", subject, f"{len(offsets)} records are in flight")
    wrong = [entry.offset for entry in entries if entry.state not in _STATES or entry.delivery_count < 0]
    report.require(not wrong, "QUEUES", subject, f"offset {wrong[:1]} has an unknown state or delivery count")


def _check_rows(
    connection: Connection,
    found: dict[Key, CheckedSharePartition],
    expected: dict[Key, _Expected],
    report: Report,
) -> None:
    counted: dict[Key, tuple[int, int]] = {}
    for queue_id, partition_id, delayed, references, last_offset, *states in rows_of(connection, _ROWS):
        report.checked["delayed_records"] += delayed + references
        key = queue_id, partition_id
        counted[key] = int(delayed), int(references)
        if (share_partition := found.get(key)) is None:
            report.add("ORPHAN", f"queue id {queue_id}", f"delayed records of no share partition ({partition_id})")
            continue
        subject, end_offset = share_partition
        detail = f"offset {last_offset} is delayed, and end_offset is {end_offset}"
        report.require(last_offset < end_offset, "QUEUES", subject, detail)
        report.require(_STATES.issuperset(states), "QUEUES", subject, "a delayed record has an unknown state")
    for key, (subject, _) in found.items():
        stored = expected.get(key, _Expected(0, 0, frozenset()))
        rows = counted.get(key, (0, 0))
        detail = f"it counts {stored[:2]} delayed records and references, and has {rows}"
        report.require(rows == stored[:2], "QUEUES", subject, detail)
    for queue_id, partition_id, offset in rows_of(connection, _OFFSETS):
        one = expected.get((queue_id, partition_id))
        if one is not None and offset in one.in_flight:
            report.add("QUEUES", found[queue_id, partition_id].subject, f"offset {offset} is in flight and delayed")
    _check_keys(connection, found, report)
    _check_archives(connection, found, report)


def _check_keys(connection: Connection, found: dict[Key, CheckedSharePartition], report: Report) -> None:
    for queue_id, partition_id, offset, unblocked in rows_of(connection, _WRONG_KEYS):
        if (share_partition := found.get((queue_id, partition_id))) is not None:
            detail = f"{unblocked} delayed records of the key of offset {offset} may be delivered, not the first alone"
            report.add("QUEUES", share_partition.subject, detail)


def _check_archives(connection: Connection, found: dict[Key, CheckedSharePartition], report: Report) -> None:
    for queue_id, partition_id, offset in rows_of(connection, _ARCHIVES):
        report.checked["queue_archives"] += 1
        if (share_partition := found.get((queue_id, partition_id))) is None:
            report.add("ORPHAN", f"queue id {queue_id}", "archived records of no share partition")
        else:
            detail = f"offset {offset} is archived, and end_offset is {share_partition.end_offset}"
            report.require(offset < share_partition.end_offset, "QUEUES", share_partition.subject, detail)
