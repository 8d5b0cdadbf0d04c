"""Check topics, partitions, records and compaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection, Select, func, select

from app.domain.log.topic import TopicConfig, with_overrides
from app.storage.db.tables import (
    OFFSET_BITS,
    OFFSET_MASK,
    compacted_keys,
    compactions,
    partitions,
    purges,
    records,
    topics,
)
from app.storage.log.appends import size_of_record
from app.storage.verification.partition_scan import CheckedPartition, PartitionScan
from app.storage.verification.report import Report

T = TypeVar("T")

_ROWS_AT_ONCE = 5_000
_KEYS_AT_ONCE = 1_000
_PROGRESS_EVERY = 20_000

_TOPICS = select(topics.c.topic_id, topics.c.name, topics.c.config).order_by(topics.c.topic_id)
_PARTITIONS = (
    select(
        partitions.c.partition_id,
        partitions.c.topic_id,
        partitions.c.partition,
        partitions.c.log_start_offset,
        partitions.c.start_bytes,
        partitions.c.compacted_bytes,
        func.coalesce(compactions.c.cleaned_offset, 0),
        func.coalesce(purges.c.before_offset, 0),
    )
    .outerjoin(compactions, compactions.c.partition_id == partitions.c.partition_id)
    .outerjoin(purges, purges.c.partition_id == partitions.c.partition_id)
    .order_by(partitions.c.topic_id, partitions.c.partition)
)
_PURGED = select(purges.c.partition_id, purges.c.before_offset)
_COMPACTIONS = select(compactions.c.partition_id)
_RECORDS = select(
    records.c.record_id,
    records.c.timestamp_ms,
    size_of_record.label("size"),
    records.c.start_bytes,
    records.c.max_timestamp_ms,
).order_by(records.c.record_id)
_KEYS = (
    select(compacted_keys.c.partition_id, compacted_keys.c.offset, compacted_keys.c.key_hash, records.c.key)
    .outerjoin(
        records, records.c.record_id == compacted_keys.c.partition_id * (1 << OFFSET_BITS) + compacted_keys.c.offset
    )
    .order_by(compacted_keys.c.partition_id, compacted_keys.c.offset)
)


class CheckedTopic(NamedTuple):
    """A topic, and the ids of its partitions by number."""

    name: str
    partition_ids: dict[int, int]


class CheckedLog(NamedTuple):
    """The log as it was found: what other tables are compared with.

    Attributes:
        topics: By id.
        ends: The log end offset of each partition, by its id.
    """

    topics: dict[int, CheckedTopic]
    ends: dict[int, int]

    def end_of(self, topic_id: int, partition: int) -> int | None:
        """Return the log end offset of a partition, or None."""
        topic = self.topics.get(topic_id)
        return None if topic is None else self.ends.get(topic.partition_ids.get(partition, -1))


def rows_of(connection: Connection, statement: Select[Any], rows_at_once: int = _ROWS_AT_ONCE) -> Iterable[Any]:
    """Return the rows of a statement, which are fetched in parts."""
    return connection.execute(statement.execution_options(yield_per=rows_at_once))


def decoded(report: Report, subject: str, decode: Callable[[], T]) -> T | None:
    """Return what a function decodes, or None and an inconsistency."""
    try:
        return decode()
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        report.add("UNREADABLE", subject, str(error))
        return None


def check_log(connection: Connection, report: Report) -> CheckedLog:
    """Check the log, and return it for the checks of other tables."""
    found = _check_topics(connection, report)
    by_id = {one.partition_id: one for one in _check_partitions(connection, found, report)}
    purged = {row.partition_id: row.before_offset for row in connection.execute(_PURGED)}
    scans = _check_records(connection, by_id, purged, report)
    _check_keys(connection, by_id, scans, purged, report)
    return CheckedLog(found, {partition_id: scan.next_offset for partition_id, scan in scans.items()})


def _check_topics(connection: Connection, report: Report) -> dict[int, CheckedTopic]:
    found: dict[int, CheckedTopic] = {}
    for topic_id, name, config in connection.execute(_TOPICS):
        report.checked["topics"] += 1
        found[topic_id] = CheckedTopic(name, {})
        decoded(report, f"topic {name}", partial(_config, config))
    return found


def _config(config: str) -> TopicConfig:
    given = with_overrides(TopicConfig(), msgspec.json.decode(config, type=dict[str, object]))
    return msgspec.convert(msgspec.to_builtins(given), TopicConfig)


def _check_partitions(
    connection: Connection, found: Mapping[int, CheckedTopic], report: Report
) -> list[CheckedPartition]:
    checked = []
    for partition_id, topic_id, partition, *others in connection.execute(_PARTITIONS):
        report.checked["partitions"] += 1
        topic = found.get(topic_id)
        name = f"topic id {topic_id}" if topic is None else topic.name
        one = CheckedPartition(partition_id, topic_id, name, partition, *others)
        checked.append(one)
        if topic is None:
            report.add("ORPHAN", one.subject, f"the partition has no topic (partition_id {partition_id})")
        else:
            topic.partition_ids[partition] = partition_id
        report.require(
            min(one.log_start_offset, one.start_bytes, one.compacted_bytes) >= 0,
            "OFFSETS",
            one.subject,
            "a bound is negative",
        )
    for topic in found.values():
        numbers = sorted(topic.partition_ids)
        if numbers != list(range(len(numbers))) or not numbers:
            report.add("MISSING", f"topic {topic.name}", f"it has the partitions {numbers[:10]}")
    known = {one.partition_id for one in checked}
    for (partition_id,) in connection.execute(_COMPACTIONS):
        report.require(partition_id in known, "ORPHAN", f"partition_id {partition_id}", "compaction of no partition")
    return checked


def _check_records(
    connection: Connection, by_id: Mapping[int, CheckedPartition], purged: Mapping[int, int], report: Report
) -> dict[int, PartitionScan]:
    scans = {partition_id: PartitionScan(partition, report) for partition_id, partition in by_id.items()}
    unknown = -1
    number = 0
    for record_id, *values in rows_of(connection, _RECORDS):
        partition_id, offset = record_id >> OFFSET_BITS, record_id & OFFSET_MASK
        number += 1
        if number % _PROGRESS_EVERY == 0:
            report.progress(number)
        if (scan := scans.get(partition_id)) is not None:
            scan.feed(offset, *values)
        elif offset >= purged.get(partition_id, 0) and unknown != partition_id:
            unknown = partition_id
            report.add("ORPHAN", f"partition_id {partition_id}", f"offset {offset} belongs to no partition, and stays")
    report.progress(number)
    report.checked["records"] = number
    for scan in scans.values():
        scan.finish()
    return scans


def _check_keys(
    connection: Connection,
    by_id: Mapping[int, CheckedPartition],
    scans: Mapping[int, PartitionScan],
    purged: Mapping[int, int],
    report: Report,
) -> None:
    matched = dict.fromkeys(by_id, 0)
    for partition_id, offset, key_hash, key in rows_of(connection, _KEYS, _KEYS_AT_ONCE):
        report.checked["compacted_keys"] += 1
        of = by_id.get(partition_id)
        if of is None or offset < of.log_start_offset:
            subject = f"partition_id {partition_id}" if of is None else of.subject
            detail = f"the key of offset {offset}, which is not in the log, stays"
            report.require(offset < purged.get(partition_id, 0), "COMPACTION", subject, detail)
        elif key is None or sha256(key).digest() != bytes(key_hash):
            report.add("COMPACTION", of.subject, f"offset {offset} is not the record of its key, or it is missing")
        elif offset >= of.cleaned_offset:
            detail = f"the key of offset {offset} is not below cleaned_offset {of.cleaned_offset}"
            report.add("COMPACTION", of.subject, detail)
        else:
            matched[partition_id] += 1
    _compare_keys(by_id.values(), scans, matched, report)


def _compare_keys(
    checked: Iterable[CheckedPartition],
    scans: Mapping[int, PartitionScan],
    matched: Mapping[int, int],
    report: Report,
) -> None:
    for of in checked:
        present, keys = scans[of.partition_id].below_cleaned, matched[of.partition_id]
        detail = f"{present} records are below cleaned_offset {of.cleaned_offset}, and {keys} of them are of a key"
        report.require(present == keys, "COMPACTION", of.subject, detail)
