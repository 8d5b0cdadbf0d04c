"""Archiving: records that were rejected or delivered too often, with their dead letters in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.broker.queues.share_partition import SharePartition
from app.domain.log.append import Accepted, Append
from app.domain.log.record import Record, StoredRecord
from app.domain.log.topic import TopicConfig, TopicInfo
from app.domain.queues import in_flight as rules_of
from app.domain.queues.in_flight import DeliveryRules, InFlightRecord
from app.domain.queues.queue import Origin, QueueInfo, with_origin
from app.errors.broker_error import BrokerError
from app.errors.log import InvalidRecord, MessageTooLarge, UnknownTopicOrPartition
from app.storage.db import clock
from app.storage.db.engine import Tx
from app.storage.log import records_by_offset, topics
from app.storage.log.appends import append_all
from app.storage.queues import archives, delayed_records, queues, share_partitions
from app.storage.queues.archives import Archived
from app.storage.queues.delayed_records import SharePartitionKey
from app.storage.queues.share_partitions import SharePartitionState

AT_ONCE = 100
"""Records that one transaction archives."""

AT_ONCE_BYTES = 8 * 1024 * 1024
"""Bytes of them, unless one alone has more."""

POSTPONED_MS = 30_000
"""How long a record is left alone whose dead letter was refused, and a window whose dead letters have no space."""

_NO_SPACE = "the database has no space left; archiving goes on once it has"


class ArchivePass(NamedTuple):
    """What a pass has done.

    Attributes:
        settled: How many records have ended, or are available again because their dead letter was refused.
        partition_ids: Partitions that dead letters were appended to.
        more: Whether there may be more to archive in this window now.
    """

    settled: int = 0
    partition_ids: frozenset[int] = frozenset()
    more: bool = False


class _ToArchive(NamedTuple):
    entry: InFlightRecord
    record: StoredRecord


def archive(
    tx: Tx,
    place: SharePartitionKey,
    defaults: TopicConfig,
    time: Callable[[Tx], int] = clock.read,
    *,
    full: bool = False,
) -> ArchivePass:
    """Archive what is to be archived in a window, unless somebody else is at it.

    A record whose dead letter is refused becomes available again after a while, and the window says why. On a full
    disk nothing is appended: what is to have a dead letter waits for space.

    Args:
        tx: A write.
        place: The window.
        defaults: What topics are like that do not say.
        time: The database's clock, or another.
        full: Whether the disk is full.
    """
    locked = share_partitions.lock(tx, place.queue_id, [place.partition_id], wait=False)
    queue = queues.of_id(tx, place.queue_id)
    if locked is None or queue is None:
        return ArchivePass()
    scene = share_partitions.log_snapshot(tx, [place.partition_id])
    bounds = scene.bounds.get(place.partition_id)
    if bounds is None:
        return ArchivePass()
    now_ms = time(tx)
    (window,) = locked.windows
    rules = queues.decode_config(locked.config).rules
    share = SharePartition(tx, place, window, bounds, rules, now_ms)
    share.expire()
    if full and queue.dead_letter_topic is not None:
        _wait_for_space(tx, place, window, now_ms)
        return ArchivePass()
    to_archive, more = _to_archive(tx, share, place, rules, now_ms)
    partition_ids_written, refused = _append_dead_letters(tx, queue, bounds.partition, to_archive, defaults, now_ms)
    ended = [each for each in to_archive if each.entry.offset not in refused]
    share.archive([each.entry.offset for each in ended])
    for each in to_archive:
        if each.entry.offset in refused:
            share.put(rules_of.postpone(each.entry, now_ms + POSTPONED_MS))
    _tell(share, refused)
    archives.add(
        tx,
        place,
        [
            Archived(each.entry.offset, each.entry.delivery_count, rules_of.reason_of(each.entry), now_ms)
            for each in ended
        ],
    )
    share.save(copies_too=True)
    return ArchivePass(len(to_archive), partition_ids_written, more)


def _tell(share: SharePartition, refused: Mapping[int, BrokerError]) -> None:
    """Let the window say which refusal was the last, until the record that it is of has ended."""
    window = share.window
    if refused:
        window.refused_offset, error = next(iter(refused.items()))
        window.dead_letter_error = error.detail
    elif window.refused_offset is None or not share.has(window.refused_offset):
        window.refused_offset = window.dead_letter_error = None


def _wait_for_space(tx: Tx, place: SharePartitionKey, window: SharePartitionState, now_ms: int) -> None:
    """Leave a window alone for a while, and say why."""
    later_ms = now_ms + POSTPONED_MS
    if window.archive_at_ms is not None:
        window.archive_at_ms = max(window.archive_at_ms, later_ms)
    if window.delayed_archive_at_ms is not None:
        window.delayed_archive_at_ms = max(window.delayed_archive_at_ms, later_ms)
    window.dead_letter_error, window.refused_offset = _NO_SPACE, None
    share_partitions.save(tx, place.queue_id, window)


def _to_archive(
    tx: Tx, share: SharePartition, place: SharePartitionKey, rules: DeliveryRules, now_ms: int
) -> tuple[list[_ToArchive], bool]:
    """Return the first records to archive, and whether there are more; those that are gone from the log expire."""
    at_most = AT_ONCE // 2 if share.window.delayed else AT_ONCE
    found = [entry for entry in share.window.entries.values() if rules_of.is_to_archive(entry, rules, now_ms)][:at_most]
    sizes = records_by_offset.sizes(tx, place.partition_id, [entry.offset for entry in found])
    entries = {entry.offset: entry for entry in found if entry.offset in sizes}
    left = {offset: sizes[offset] for offset in entries}
    if share.window.delayed:
        for outline in delayed_records.to_archive(tx, place, rules, now_ms, AT_ONCE - len(left)):
            entries[outline.entry.offset] = outline.entry
            left[outline.entry.offset] = outline.size_bytes
    chosen = records_by_offset.fitting(left, AT_ONCE_BYTES)
    share.load_copies(chosen)
    records = share.records(chosen)
    share.lose([entry.offset for entry in found if entry.offset not in sizes])
    share.lose([offset for offset in chosen if offset not in records])
    more = len(found) == at_most or len(left) == AT_ONCE or len(chosen) < len(left)
    return [_ToArchive(entries[offset], records[offset]) for offset in chosen if offset in records], more


def _append_dead_letters(
    tx: Tx, queue: QueueInfo, partition: int, to_archive: Sequence[_ToArchive], defaults: TopicConfig, now_ms: int
) -> tuple[frozenset[int], dict[int, BrokerError]]:
    """Append the dead letters, if the queue wants them. Return the partition ids written, and refusals by offset."""
    if queue.dead_letter_topic is None or not to_archive:
        return frozenset(), {}
    found = topics.find(tx, queue.dead_letter_topic, defaults)
    if found is None:
        return frozenset(), {
            each.entry.offset: UnknownTopicOrPartition("the dead-letter topic is gone") for each in to_archive
        }
    target, letters, refused = found.info, [], {}
    for each in to_archive:
        letter = _dead_letter(queue, partition, each)
        if (refusal := _refusal(target, letter)) is not None:
            refused[each.entry.offset] = refusal
        else:
            letters.append(letter)
    if not letters:
        return frozenset(), refused
    number = partition % target.partitions
    append = Append(
        target.topic_id,
        target.name,
        target.version,
        target.partition_ids,
        letters,
        [number] * len(letters),
        target.config.message_timestamp_type == "LogAppendTime",
    )
    (outcome,) = append_all(tx, [append], now_ms)
    if not isinstance(outcome, Accepted):
        changed = outcome if isinstance(outcome, BrokerError) else UnknownTopicOrPartition("the topic changes")
        return frozenset(), {each.entry.offset: changed for each in to_archive}
    return frozenset({target.partition_ids[number]}), refused


def _dead_letter(queue: QueueInfo, partition: int, to_archive: _ToArchive) -> Record:
    entry, record = to_archive
    origin = Origin(queue.topic, partition, entry.offset, queue.name)
    headers = with_origin(record.headers, origin, entry.delivery_count, rules_of.reason_of(entry))
    return Record(-1, -1, record.key, record.value, headers, record.encoding)


def _refusal(target: TopicInfo, letter: Record) -> BrokerError | None:
    """Return what the dead-letter topic's configuration has against a record, or None."""
    size = len(letter.key or b"") + len(letter.value or b"")
    if size > target.config.max_message_bytes:
        return MessageTooLarge(
            f"a record has {size} bytes, and max_message_bytes of {target.name} is {target.config.max_message_bytes}"
        )
    if target.config.compacted:
        return InvalidRecord(f"the dead-letter topic {target.name} is compacted; its cleanup_policy must be delete")
    return None
