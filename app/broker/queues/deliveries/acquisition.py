"""The records of a locked share partition that an acquire may deliver.

First delayed records that are due, then in-flight records that are available again, then new records of the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from app.broker.queues.deliveries.delayed_record_cache import DelayedQuota
from app.broker.queues.deliveries.share_partition import SharePartition
from app.domain.log.record import StoredRecord
from app.domain.queues.delivery import response_bytes
from app.domain.queues.in_flight import InFlightRecord, available, first_offset_by_key, is_available, next_run
from app.domain.queues.record_summary import KEYLESS, RecordSummary, deliver_at_ms, key_hash
from app.domain.queues.share_partition_state import MAX_IN_FLIGHT
from app.storage.log import pages, records_by_offset
from app.storage.queues.delayed_records import DelayedRecord, DelayedSummary

_MIN_SUMMARIES = 100
_READ_AT_ONCE = 64


class Candidate(NamedTuple):
    """A record that may be delivered."""

    share_partition: SharePartition
    entry: InFlightRecord
    record: StoredRecord


def candidates(
    share_partition: SharePartition, wanted: int, max_bytes: int, quota: DelayedQuota, *, admit_new: bool = True
) -> list[Candidate]:
    """Return up to `wanted` records that may be delivered now, and admit records of the log as they are needed.

    Args:
        share_partition: A locked share partition.
        wanted: How many records, at least one.
        max_bytes: Bytes of the records; the first one may exceed it.
        quota: Quota of delayed records.
        admit_new: Whether records may be delivered that were not delivered before, and admitted from the log.
    """
    share_partition.expire_before_log_start()
    if share_partition.rules.by_partition:
        return _next_run(share_partition, wanted, max_bytes, quota, admit_new=admit_new)
    due = _due(share_partition, wanted, max_bytes, quota)
    found = [Candidate(share_partition, delayed.entry, delayed.record) for delayed in due]
    left_bytes = max_bytes - sum(response_bytes(each.record) for each in found)
    if found and left_bytes <= 0:
        return found
    by_key = share_partition.rules.by_key
    if by_key:
        left = wanted - len(found)
        chosen = (
            _first_of_keys(share_partition, left, quota)
            if admit_new
            else _delivered_before(_available_by_key(share_partition, MAX_IN_FLIGHT), left)
        )
    else:
        free = available(share_partition.state.entries.values(), share_partition.rules, share_partition.now_ms)
        chosen = list(islice(free, wanted - len(found))) if admit_new else _delivered_before(free, wanted - len(found))
    for each in _with_records(share_partition, chosen, left_bytes):
        if found and left_bytes <= 0:
            return found
        found.append(each)
        left_bytes -= response_bytes(each.record)
    if admit_new and not by_key and left_bytes > 0:
        found += _new(share_partition, wanted - len(found), left_bytes, quota)
    return found


def _next_run(
    share_partition: SharePartition, wanted: int, max_bytes: int, quota: DelayedQuota, *, admit_new: bool
) -> list[Candidate]:
    """Return the next records of a queue that is ordered by partition."""
    state, rules, now_ms = share_partition.state, share_partition.rules, share_partition.now_ms
    delayed = share_partition.delayed.first() if state.delayed else None
    before = math.inf if delayed is None else delayed.entry.offset
    entries = [entry for entry in state.entries.values() if entry.offset < before]
    if delayed is not None and not entries:
        if not is_available(delayed.entry, rules, now_ms):
            return []
        share_partition.delayed.load([delayed.entry.offset])
        row = share_partition.delayed.find(delayed.entry.offset)
        return [] if row is None else [Candidate(share_partition, row.entry, row.record)]
    chosen = list(islice(next_run(entries, rules, now_ms), wanted))
    if not admit_new:
        chosen = _delivered_before(chosen, 1)
    found: list[Candidate] = []
    for each in _with_records(share_partition, chosen, max_bytes):
        if found and max_bytes <= 0:
            return found
        found.append(each)
        max_bytes -= response_bytes(each.record)
    if admit_new and not found:
        found += _new(share_partition, wanted, max_bytes, quota)
        delayed = share_partition.delayed.first() if state.delayed else None
        before = math.inf if delayed is None else delayed.entry.offset
    return [each for each in found if each.entry.offset < before]


def _due(share_partition: SharePartition, wanted: int, max_bytes: int, quota: DelayedQuota) -> list[DelayedRecord]:
    """Return delayed records that may be delivered, without those that an in-flight record of their key blocks.

    References whose delayed record has ended are put in flight again.
    """
    if not share_partition.state.has_rows:
        return []
    limit = min(wanted, _READ_AT_ONCE)
    free = _free_rows(share_partition, limit)
    if any(each.size_bytes is None for each in free):
        _bring_back(share_partition, free[:limit], quota)
    sizes = {each.entry.offset: each.size_bytes for each in free[:limit] if each.size_bytes is not None}
    chosen = records_by_offset.fitting(sizes, max_bytes)
    has_more = len(free) > limit or (len(free) == limit < wanted)
    share_partition.incomplete |= has_more or len(chosen) < len(sizes)
    share_partition.delayed.load(chosen)
    return [delayed for offset in chosen if (delayed := share_partition.delayed.find(offset)) is not None]


def _free_rows(share_partition: SharePartition, limit: int) -> list[DelayedSummary]:
    """Return rows that are due and not blocked by an in-flight record of their key: at least `limit` if there are."""
    rules = share_partition.rules
    first = first_offset_by_key(share_partition.state.entries.values()) if rules.by_key else {}
    due = share_partition.delayed.due(rules, share_partition.now_ms, limit + len(first))
    return [each for each in due if first.get(each.entry.key_hash, each.entry.offset) >= each.entry.offset]


def _bring_back(share_partition: SharePartition, free: Sequence[DelayedSummary], quota: DelayedQuota) -> None:
    """Put the records of references in flight again, and end those that retention has deleted.

    If all records in flight wait for others, and the quota allows none of them to leave, they come back nevertheless:
    only they can end. They are at most as many as one acquire wants.
    """
    log_start_offset = share_partition.bounds.log_start_offset
    entries = [each.entry for each in free if each.size_bytes is None]
    kept = [entry for entry in entries if entry.offset >= log_start_offset]
    if len(kept) < len(entries):
        share_partition.expire_references()
        share_partition.incomplete = True
    if kept and share_partition.state.is_full:
        share_partition.make_room(quota)
    if share_partition.state.in_use(share_partition.now_ms) < MAX_IN_FLIGHT:
        share_partition.bring_back(kept)


def _first_of_keys(share_partition: SharePartition, wanted: int, quota: DelayedQuota) -> list[InFlightRecord]:
    """Return available records that are the first of their key, and admit records until there are enough."""
    state, bounds = share_partition.state, share_partition.bounds
    budget, limit = state.room(share_partition.rules), max(_MIN_SUMMARIES, 2 * wanted)
    while True:
        chosen = _available_by_key(share_partition, wanted)
        if len(chosen) >= wanted or state.end_offset >= bounds.log_end_offset:
            return chosen
        if budget <= 0:
            if state.is_full and state.has_rows:
                share_partition.make_room(quota)
            share_partition.incomplete |= state.room(share_partition.rules) > 0
            return chosen
        summaries, end_offset = _summaries(share_partition, min(limit, budget))
        budget -= max(1, len(summaries))
        limit *= 2
        if not share_partition.admit(summaries, end_offset, quota):
            return _available_by_key(share_partition, wanted)


def _available_by_key(share_partition: SharePartition, wanted: int) -> list[InFlightRecord]:
    """Return up to `wanted` available in-flight records that are the first of their key."""
    entries = share_partition.state.entries.values()
    first_delayed = (
        share_partition.delayed.first_offsets(entry.key_hash for entry in entries)
        if share_partition.state.has_rows
        else {}
    )
    found = available(entries, share_partition.rules, share_partition.now_ms, first_delayed)
    return list(islice(found, max(0, wanted)))


def _delivered_before(entries: Iterable[InFlightRecord], wanted: int) -> list[InFlightRecord]:
    return list(islice((entry for entry in entries if entry.delivery_count), wanted))


def _summaries(share_partition: SharePartition, limit: int) -> tuple[list[RecordSummary], int]:
    """Read up to `limit` records that are to be admitted, and return them with the offset after the last."""
    found, end_offset = records_by_offset.keys(
        share_partition.tx, share_partition.bounds, share_partition.state.end_offset, limit
    )
    return [RecordSummary(offset, key_hash(key), deliver_at_ms(headers)) for offset, key, headers in found], end_offset


def _with_records(
    share_partition: SharePartition, chosen: Sequence[InFlightRecord], max_bytes: int
) -> Iterator[Candidate]:
    """Yield in-flight records with what the log has of them; those that compaction deleted expire."""
    left = iter(chosen)
    offsets = [entry.offset for entry in chosen]
    for record in records_by_offset.read_bounded(
        share_partition.tx, share_partition.bounds.partition_id, offsets, _READ_AT_ONCE, max_bytes
    ):
        for entry in left:
            if entry.offset == record.offset:
                yield Candidate(share_partition, entry, record)
                break
            _expire(share_partition, entry)
    for entry in left:
        _expire(share_partition, entry)


def _expire(share_partition: SharePartition, entry: InFlightRecord) -> None:
    share_partition.expire([entry.offset])
    share_partition.incomplete = True


def _new(share_partition: SharePartition, wanted: int, max_bytes: int, quota: DelayedQuota) -> Iterator[Candidate]:
    """Admit records in the order of the log, and yield those that are not delayed."""
    state, bounds = share_partition.state, share_partition.bounds
    budget = state.room(share_partition.rules)
    while wanted > 0 and budget > 0 and max_bytes > 0 and state.end_offset < bounds.log_end_offset:
        page = pages.read(share_partition.tx, bounds, state.end_offset, min(wanted, budget), max_bytes)
        if not page:
            share_partition.admit([], bounds.log_end_offset, quota)
            return
        summaries = [RecordSummary(record.offset, KEYLESS, deliver_at_ms(record.headers)) for record in page]
        is_admitted = share_partition.admit(summaries, page[-1].offset + 1, quota, page)
        for record in page:
            if (entry := state.entries.get(record.offset)) is not None:
                wanted -= 1
                max_bytes -= response_bytes(record)
                yield Candidate(share_partition, entry, record)
        if not is_admitted:
            return
        budget -= len(page)
    if wanted > 0 and state.end_offset < bounds.log_end_offset:
        share_partition.incomplete |= state.room(share_partition.rules) > 0
