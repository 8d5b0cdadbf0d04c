"""Changes of many records in one transaction: purge, release of all locks, skip, a step back of the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.broker.queues.deliveries.delayed_record_cache import DelayedQuota
from app.broker.queues.deliveries.share_partition import SharePartition
from app.domain.queues.in_flight import AcknowledgeType, is_acquired
from app.domain.queues.queue import QueueInfo
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log.pages import Bounds
from app.storage.queues import delayed_changes, delayed_records, queues, share_partitions
from app.storage.queues.share_partitions import SharePartitionKey


def purge(tx: Tx, info: QueueInfo) -> int | None:
    """Archive all available and delayed records; acquired records and those to be archived stay.

    Returns:
        The number of records, or None if the queue was deleted.
    """
    locked = _lock_all(tx, info, clock.read)
    return None if locked is None else sum(map(_purge, locked))


def release_locks(tx: Tx, info: QueueInfo, time: Callable[[Tx], int] = clock.read) -> int | None:
    """Make all acquired records available now; their delivery counts stay.

    Args:
        tx: A write transaction.
        info: The queue.
        time: Clock; the default is the database's.

    Returns:
        The number of records, or None if the queue was deleted.
    """
    locked = _lock_all(tx, info, time)
    return None if locked is None else sum(map(_release_locks, locked))


def skip(tx: Tx, info: QueueInfo, partition_id: int, offset: int, time: Callable[[Tx], int] = clock.read) -> int | None:
    """Archive all records of a partition below an offset, acquired and delayed ones included.

    Args:
        tx: A write transaction.
        info: The queue.
        partition_id: Id of the partition.
        offset: The offset; one above the log end offset stands for the log end offset.
        time: Clock; the default is the database's.

    Returns:
        The number of records, or None if the queue was deleted or has no such partition.
    """
    locked = _lock(tx, info, [partition_id], time)
    return None if not locked else _skip(locked[0], offset)


def count_below(tx: Tx, info: QueueInfo, bounds: Bounds, offset: int) -> int:
    """Return how many records of a partition below an offset have not ended, as `skip` would archive them."""
    states = {state.partition_id: state for state in share_partitions.list_(tx, info.queue_id)}
    if (state := states.get(bounds.partition_id)) is None:
        return 0
    key = SharePartitionKey(info.queue_id, bounds.partition_id)
    not_admitted = max(0, offset - max(state.end_offset, bounds.log_start_offset))
    rows = delayed_changes.count_before(tx, key, offset) if state.has_rows else 0
    return not_admitted + sum(each < offset for each in state.entries) + rows


def step_back(tx: Tx, step_ms: int, now_ms: int) -> None:
    """Pull in the locks and delays of all queues after the clock has stepped back by `step_ms` to `now_ms`."""
    for key in share_partitions.unfinished(tx):
        locked = share_partitions.lock(tx, key.queue_id, [key.partition_id], wait=True)
        if locked is None:
            continue
        (state,) = locked.states
        rules = queues.decode_config(locked.config).rules
        state.step_back(rules, step_ms, now_ms)
        state.schedule_archiving(rules)
        if state.delayed:
            delayed_changes.step_back(tx, key, rules, step_ms, now_ms)
            state.schedule_delayed_archiving(delayed_records.archive_at_ms(tx, key, rules))
        share_partitions.save(tx, key.queue_id, state)


def _lock_all(tx: Tx, info: QueueInfo, time: Callable[[Tx], int]) -> list[SharePartition] | None:
    return _lock(tx, info, [state.partition_id for state in share_partitions.list_(tx, info.queue_id)], time)


def _lock(
    tx: Tx, info: QueueInfo, partition_ids: Sequence[int], time: Callable[[Tx], int]
) -> list[SharePartition] | None:
    """Lock share partitions, or return None if there are none."""
    locked = share_partitions.lock(tx, info.queue_id, partition_ids, wait=True) if partition_ids else None
    if locked is None:
        return None
    rules = queues.decode_config(locked.config).rules
    bounds = share_partitions.log_snapshot(tx, partition_ids).bounds
    now_ms = time(tx)
    return [
        SharePartition(
            tx, SharePartitionKey(info.queue_id, state.partition_id), state, bounds[state.partition_id], rules, now_ms
        )
        for state in locked.states
        if state.partition_id in bounds
    ]


def _purge(share_partition: SharePartition) -> int:
    tx, key, state, bounds = share_partition.tx, share_partition.key, share_partition.state, share_partition.bounds
    rules, now_ms = share_partition.rules, share_partition.now_ms
    share_partition.expire_references()
    purged = state.purge(bounds.log_start_offset, bounds.log_end_offset, rules, now_ms)
    if state.has_rows:
        deleted = delayed_changes.purge(tx, key, rules, now_ms)
        state.archive_rows(*deleted)
        purged += sum(deleted)
    share_partitions.save(tx, key.queue_id, state)
    return purged


def _release_locks(share_partition: SharePartition) -> int:
    now_ms, quota = share_partition.now_ms, DelayedQuota(share_partition.tx, share_partition.key.queue_id)
    released = 0
    if share_partition.state.delayed:
        released += delayed_changes.release_locks(share_partition.tx, share_partition.key, now_ms)
    for entry in [each for each in share_partition.state.entries.values() if is_acquired(each, now_ms)]:
        share_partition.settle(entry.offset, entry.delivery_count, AcknowledgeType.WITHDRAW, 0, quota)
        released += 1
    share_partition.save_archived()
    return released


def _skip(share_partition: SharePartition, offset: int) -> int:
    state, bounds = share_partition.state, share_partition.bounds
    share_partition.expire_before_log_start()
    share_partition.expire_references()
    offset = min(offset, bounds.log_end_offset)
    skipped = state.skip(offset)
    if state.has_rows:
        deleted = delayed_changes.delete_before(share_partition.tx, share_partition.key, share_partition.rules, offset)
        state.archive_rows(*deleted)
        skipped += sum(deleted)
    share_partition.save_archived()
    return skipped
