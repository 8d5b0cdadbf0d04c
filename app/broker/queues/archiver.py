"""Archive records that were rejected or delivered too often, with their dead letters in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.broker.queues.deliveries.share_partition import SharePartition
from app.domain.log.append import Accepted, Append
from app.domain.log.record import Record, StoredRecord
from app.domain.log.topic import TopicConfig, TopicInfo
from app.domain.queues.dead_letter import Origin, with_origin
from app.domain.queues.in_flight import InFlightRecord, archive_reason, is_to_archive, postpone
from app.domain.queues.queue import QueueInfo
from app.errors.broker_error import BrokerError
from app.errors.log import InvalidRecord, MessageTooLarge, UnknownTopicOrPartition
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import records_by_offset, topics
from app.storage.log.appends import append_all
from app.storage.queues import archives, queues, share_partitions
from app.storage.queues.archives import Archived
from app.storage.queues.share_partitions import SharePartitionKey

MAX_RECORDS = 100
"""Records that one transaction archives."""

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of the records that one transaction archives; the first record may exceed it."""

POSTPONED_MS = 30_000
"""Delay after a dead letter was refused, or could not be stored for lack of space."""

_NO_SPACE = "the database has no space left; archiving continues when space is available"


class ArchivePass(NamedTuple):
    """Result of one transaction.

    Attributes:
        settled: How many records have ended, or are available again because their dead letter was refused.
        partition_ids: Partitions that dead letters were appended to.
        more: Whether there may be more records to archive in the share partition now.
    """

    settled: int = 0
    partition_ids: frozenset[int] = frozenset()
    more: bool = False


OnEnd = Callable[[Tx, QueueInfo, int, Sequence[int]], None]
"""Takes the transaction, the queue, the id of the partition, and the offsets of records."""


class _ToArchive(NamedTuple):
    entry: InFlightRecord
    record: StoredRecord


class _AppendResult(NamedTuple):
    """Partitions that dead letters were appended to, and the errors by offset of the record."""

    partition_ids: frozenset[int]
    refused: Mapping[int, BrokerError]


def archive(
    tx: Tx,
    key: SharePartitionKey,
    defaults: TopicConfig,
    time: Callable[[Tx], int] = clock.read,
    *,
    full: bool = False,
    on_end: OnEnd | None = None,
) -> ArchivePass:
    """Archive the records of a share partition that are to be archived; skip it if another transaction holds its lock.

    If a dead letter is refused, its record becomes available again after `POSTPONED_MS`, and the state of the share
    partition stores the error. On a full disk, records that need a dead letter wait.

    Args:
        tx: A write transaction.
        key: The share partition.
        defaults: Configuration of topics where they do not set a value.
        time: Clock; the default is the database's.
        full: Whether the disk is full.
        on_end: Called in the transaction for the records that have ended.
    """
    share_partition = _lock(tx, key, time)
    queue = queues.find_by_id(tx, key.queue_id)
    if queue is None or share_partition is None:
        return ArchivePass()
    share_partition.expire_before_log_start()
    if full and queue.dead_letter_topic is not None:
        share_partition.state.postpone_archiving(share_partition.now_ms + POSTPONED_MS, _NO_SPACE)
        share_partitions.save(tx, key.queue_id, share_partition.state)
        return ArchivePass()
    to_archive, more = _select(share_partition)
    appended = _append_dead_letters(tx, queue, share_partition, to_archive, defaults)
    _end(share_partition, [each.entry for each in to_archive], appended.refused)
    if on_end is not None:
        ended = [each.entry.offset for each in to_archive if each.entry.offset not in appended.refused]
        on_end(tx, queue, key.partition_id, ended)
    share_partition.save_archived()
    return ArchivePass(len(to_archive), appended.partition_ids, more)


def _lock(tx: Tx, key: SharePartitionKey, time: Callable[[Tx], int]) -> SharePartition | None:
    """Lock the share partition, or return None if it is locked by another transaction or deleted."""
    locked = share_partitions.lock(tx, key.queue_id, [key.partition_id], wait=False)
    if locked is None:
        return None
    bounds = share_partitions.log_snapshot(tx, [key.partition_id]).bounds.get(key.partition_id)
    if bounds is None:
        return None
    (state,) = locked.states
    return SharePartition(tx, key, state, bounds, queues.decode_config(locked.config).rules, time(tx))


def _select(share_partition: SharePartition) -> tuple[list[_ToArchive], bool]:
    """Return the first records to archive, and whether there may be more; records missing in the log expire."""
    has_delayed = share_partition.state.delayed > 0
    selected, more = _select_in_flight(share_partition, MAX_RECORDS // 2 if has_delayed else MAX_RECORDS)
    if has_delayed:
        limit = MAX_RECORDS - len(selected)
        for entry, size_bytes in share_partition.delayed.to_archive(
            share_partition.rules, share_partition.now_ms, limit
        ):
            selected[entry.offset] = entry, size_bytes or 0
    sizes = {offset: size_bytes for offset, (_, size_bytes) in selected.items()}
    chosen = records_by_offset.fitting(sizes, MAX_BYTES)
    share_partition.load_delayed(chosen)
    records = share_partition.records(chosen)
    share_partition.expire([offset for offset in chosen if offset not in records])
    more |= len(selected) == MAX_RECORDS or len(chosen) < len(selected)
    return [_ToArchive(selected[offset][0], records[offset]) for offset in chosen if offset in records], more


def _select_in_flight(
    share_partition: SharePartition, limit: int
) -> tuple[dict[int, tuple[InFlightRecord, int]], bool]:
    """Return up to `limit` in-flight records to archive, by offset with their bytes, and whether there may be more."""
    rules, now_ms = share_partition.rules, share_partition.now_ms
    due = [entry for entry in share_partition.state.entries.values() if is_to_archive(entry, rules, now_ms)][:limit]
    partition_id = share_partition.bounds.partition_id
    sizes = records_by_offset.sizes(share_partition.tx, partition_id, [entry.offset for entry in due])
    share_partition.expire([entry.offset for entry in due if entry.offset not in sizes])
    return {entry.offset: (entry, sizes[entry.offset]) for entry in due if entry.offset in sizes}, len(due) == limit


def _end(
    share_partition: SharePartition, entries: Sequence[InFlightRecord], refused: Mapping[int, BrokerError]
) -> None:
    """End the records as archived, except those whose dead letter was refused: they are postponed."""
    now_ms = share_partition.now_ms
    ended = [entry for entry in entries if entry.offset not in refused]
    share_partition.archive([entry.offset for entry in ended])
    for entry in entries:
        if entry.offset in refused:
            share_partition.put_back(postpone(entry, now_ms + POSTPONED_MS))
    _store_error(share_partition, refused)
    archived = [Archived(entry.offset, entry.delivery_count, archive_reason(entry), now_ms) for entry in ended]
    archives.add(share_partition.tx, share_partition.key, archived)


def _store_error(share_partition: SharePartition, refused: Mapping[int, BrokerError]) -> None:
    """Store the first error, or clear the stored one if the record that it concerns has ended."""
    state = share_partition.state
    if refused:
        offset, error = next(iter(refused.items()))
        state.set_dead_letter_error(offset, error.detail)
    elif state.refused_offset is None or not share_partition.has(state.refused_offset):
        state.clear_dead_letter_error()


def _append_dead_letters(
    tx: Tx,
    queue: QueueInfo,
    share_partition: SharePartition,
    to_archive: Sequence[_ToArchive],
    defaults: TopicConfig,
) -> _AppendResult:
    """Append the dead letters, if the queue has a dead-letter topic."""
    if queue.dead_letter_topic is None or not to_archive:
        return _AppendResult(frozenset(), {})
    found = topics.find(tx, queue.dead_letter_topic, defaults)
    if found is None:
        return _refuse_all(to_archive, UnknownTopicOrPartition("the dead-letter topic was deleted"))
    target, partition = found.info, share_partition.bounds.partition
    letters: list[Record] = []
    refused: dict[int, BrokerError] = {}
    for each in to_archive:
        letter = _dead_letter(queue, partition, each)
        if (error := _check_letter(target, letter)) is not None:
            refused[each.entry.offset] = error
        else:
            letters.append(letter)
    if not letters:
        return _AppendResult(frozenset(), refused)
    number = partition % target.partitions
    (outcome,) = append_all(tx, [_append(target, letters, number)], share_partition.now_ms)
    if isinstance(outcome, Accepted):
        return _AppendResult(frozenset({target.partition_ids[number]}), refused)
    changed = outcome if isinstance(outcome, BrokerError) else UnknownTopicOrPartition("the dead-letter topic changes")
    return _refuse_all(to_archive, changed)


def _refuse_all(to_archive: Sequence[_ToArchive], error: BrokerError) -> _AppendResult:
    return _AppendResult(frozenset(), {each.entry.offset: error for each in to_archive})


def _append(target: TopicInfo, letters: list[Record], number: int) -> Append:
    """Return the append of dead letters to a partition of the dead-letter topic."""
    return Append(
        target.topic_id,
        target.name,
        target.version,
        target.partition_ids,
        letters,
        [number] * len(letters),
        target.config.message_timestamp_type == "LogAppendTime",
    )


def _dead_letter(queue: QueueInfo, partition: int, to_archive: _ToArchive) -> Record:
    entry, record = to_archive
    origin = Origin(queue.topic, partition, entry.offset, queue.name)
    headers = with_origin(record.headers, origin, entry.delivery_count, archive_reason(entry))
    return Record(-1, -1, record.key, record.value, headers, record.encoding)


def _check_letter(target: TopicInfo, letter: Record) -> BrokerError | None:
    """Return why the configuration of the dead-letter topic refuses a record, or None."""
    size_bytes = len(letter.key or b"") + len(letter.value or b"")
    limit = target.config.max_message_bytes
    if size_bytes > limit:
        return MessageTooLarge(f"a record has {size_bytes} bytes, and max_message_bytes of {target.name} is {limit}")
    if target.config.compacted:
        return InvalidRecord(f"the dead-letter topic {target.name} is compacted; its cleanup_policy must be delete")
    return None
