"""A step back of the clock: locks and delays of queues last no longer for it."""

from __future__ import annotations

from app.storage.db.transaction import Tx
from app.storage.queues import delayed_records, queues, share_partitions


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
            delayed_records.step_back(tx, key, rules, step_ms, now_ms)
            state.schedule_delayed_archiving(delayed_records.archive_at_ms(tx, key, rules))
        share_partitions.save(tx, key.queue_id, state)
