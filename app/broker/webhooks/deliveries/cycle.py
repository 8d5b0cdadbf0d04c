"""One transaction of a webhook: settle what has been sent, count it, and acquire what is sent next.

It is the transaction of a queue, `deliver`, for each queue of the webhook, after the row of the webhook was locked: a
node that no longer holds the webhook changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from app.broker.queues.deliveries.delivery_transaction import DeliveryBatch, deliver
from app.broker.webhooks.events import append_events
from app.domain.log.topic import TopicInfo
from app.domain.queues.delivery import (
    Acknowledge,
    Acknowledged,
    Acknowledgement,
    Acquire,
    Acquired,
    Delivery,
    Settled,
)
from app.domain.queues.queue import QueueInfo
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.event import WebhookEvent
from app.storage.db.transaction import Tx
from app.storage.queues import queues
from app.storage.webhooks import retries, webhooks
from app.storage.webhooks.leases import LeaseLost
from app.storage.webhooks.retries import RecordKey
from app.storage.webhooks.webhooks import Progress, StoredWebhook


class OpenQueue(NamedTuple):
    """A queue of a webhook with its topic."""

    queue: QueueInfo
    topic: TopicInfo


class Settling(NamedTuple):
    """What becomes of a delivery.

    Attributes:
        attempts: Charged attempts to store: more than 0, `EXHAUSTED`, or None for none.
        had_attempts: Whether attempts are stored, of a record that is retried.
    """

    acknowledgement: Acknowledgement
    key: RecordKey
    attempts: int | None
    had_attempts: bool

    @property
    def more_retrying(self) -> int:
        """How many records more are retried once it is stored: -1, 0 or 1."""
        return int((self.attempts or 0) > 0) - self.had_attempts


class Counts(NamedTuple):
    """What a cycle adds to the counts of a webhook."""

    delivered: int = 0
    filtered: int = 0
    dead_lettered: int = 0
    dropped: int = 0


class Outcome(NamedTuple):
    """The state of the webhook after some attempts.

    Attributes:
        disable: Why the webhook is disabled now, or None.
        pause: Whether the webhook is paused now, because a record is exhausted.
        events: What has happened, for the topic of events.
    """

    counts: Counts
    breaker: Breaker
    held_until_ms: int
    last_delivered_at_ms: int | None
    last_failed_at_ms: int | None
    disable: str | None = None
    pause: bool = False
    events: Sequence[WebhookEvent] = ()


class QueueWork(NamedTuple):
    """What a cycle does in one queue.

    Attributes:
        wanted: How many records to acquire.
        max_bytes: Bytes of these records; the first one may be larger.
        admit_new: Whether records that were never sent may be acquired.
    """

    open_queue: OpenQueue
    settlings: Sequence[Settling]
    wanted: int
    max_bytes: int
    admit_new: bool
    rotation: int


class QueueResult(NamedTuple):
    """What a cycle acquired in one queue.

    Attributes:
        attempts: Charged attempts of the acquired records that have some.
        more: Whether another cycle may find records now.
        lost: Whether a record has ended, or its lock has, without this webhook.
    """

    deliveries: Sequence[Delivery]
    attempts: Mapping[RecordKey, int]
    now_ms: int
    available_at_ms: int | None
    log_end_offsets: Mapping[int, int]
    more: bool = False
    to_archive: bool = False
    lost: bool = False


class CycleResult(NamedTuple):
    """The webhook as it is by now, and what was acquired in each queue, by the id of the queue.

    Attributes:
        appended: Ids of the partitions that events were appended to.
    """

    stored: StoredWebhook
    queues: dict[int, QueueResult]
    appended: Sequence[int]


def load_webhook(tx: Tx, webhook_id: int) -> tuple[StoredWebhook | None, list[QueueInfo], int]:
    """Return a webhook, its queues, and how many of its records are retried."""
    if (stored := webhooks.find_by_id(tx, webhook_id)) is None:
        return None, [], 0
    hidden = webhooks.hidden_queues(tx, stored.info.name)
    infos = [queues.find_by_id(tx, each.queue_id) for each in hidden]
    retrying = retries.count(tx, [each.queue_id for each in hidden])
    return stored, [info for info in infos if info is not None], retrying


def run_cycle(tx: Tx, known: StoredWebhook, works: Sequence[QueueWork], outcome: Outcome | None) -> CycleResult:
    """Run a cycle.

    If the webhook was changed meanwhile, its breaker and its pause stay as the change has left them.

    Args:
        tx: A write transaction.
        known: The webhook as this node has it, with the epoch with which the node took it.
        works: In order of the ids of the queues.
        outcome: What the attempts since the last cycle changed; None for nothing.

    Raises:
        LeaseLost: Another node works the webhook.
        QueueChanged: A queue or its topic has to be looked up again; nothing is changed.
    """
    stored = webhooks.lock_by_id(tx, known.info.webhook_id)
    if stored is None or stored.epoch != known.epoch:
        raise LeaseLost
    if outcome is not None:
        if stored.version != known.version:
            outcome = outcome._replace(breaker=stored.info.breaker, held_until_ms=stored.held_until_ms)
        stored = _save_outcome(tx, stored, outcome)
    idle = stored.info.status != "active"
    found: dict[int, QueueResult] = {}
    for work in works:
        found[work.open_queue.queue.queue_id] = _work(tx, work, acquires=not idle)
    appended = append_events(tx, outcome.events) if outcome is not None and outcome.events else ()
    return CycleResult(stored, found, appended)


def _work(tx: Tx, work: QueueWork, *, acquires: bool) -> QueueResult:
    requests: list[Acknowledge | Acquire] = []
    if work.settlings:
        requests.append(Acknowledge([settling.acknowledgement for settling in work.settlings]))
    if acquires and work.wanted > 0:
        requests.append(Acquire(work.wanted, work.max_bytes, admit_new=work.admit_new))
    if not requests:
        return QueueResult((), {}, 0, None, {})
    open_queue = work.open_queue
    batch = DeliveryBatch(
        open_queue.queue, open_queue.topic, requests, work.rotation, wait=False, limits_releases=False
    )
    result = deliver(tx, batch)
    acquired: Acquired | None = None
    more, lost = False, bool(result.expired)
    for answer in result.answers:
        if isinstance(answer, Acquired):
            acquired = answer
        elif isinstance(answer, Acknowledged):
            lost |= _save_attempts(tx, work.settlings, answer.results)
        else:
            more = True
    retries.remove(tx, [RecordKey(open_queue.queue.queue_id, *place) for place in result.expired])
    if acquired is None:
        return QueueResult((), {}, 0, None, {}, more or result.freed, result.to_archive, lost)
    again = [_key(open_queue, delivery) for delivery in acquired.deliveries if delivery.delivery_id.delivery_count > 1]
    return QueueResult(
        acquired.deliveries,
        retries.find(tx, again),
        acquired.now_ms,
        acquired.available_at_ms,
        acquired.log_end_offsets or {},
        more or bool(acquired.deliveries),
        result.to_archive,
        lost,
    )


def _save_attempts(tx: Tx, settlings: Sequence[Settling], results: Sequence[Settled]) -> bool:
    """Store the attempts of the records that were settled. Return whether others have ended, or lost their lock."""
    settled = [each for each, result in zip(settlings, results, strict=True) if result.code is None]
    retries.save(tx, {each.key: each.attempts for each in settled if each.attempts is not None})
    retries.remove(tx, [each.key for each in settled if each.attempts is None and each.had_attempts])
    return len(settled) < len(settlings)


def _save_outcome(tx: Tx, stored: StoredWebhook, outcome: Outcome) -> StoredWebhook:
    progress = Progress(
        outcome.breaker,
        outcome.held_until_ms,
        outcome.last_delivered_at_ms,
        outcome.last_failed_at_ms,
        *outcome.counts,
    )
    webhooks.save_progress(tx, stored.info.webhook_id, progress)
    info = stored.info._replace(breaker=outcome.breaker)
    current = stored._replace(info=info, held_until_ms=outcome.held_until_ms)
    if outcome.disable is None and not outcome.pause:
        return current
    if outcome.disable is not None:
        info = info._replace(disabled_reason=outcome.disable, disabled_at_ms=outcome.last_failed_at_ms)
    else:
        info = info._replace(config=msgspec.structs.replace(info.config, paused=True))
    changed = current._replace(info=info)
    webhooks.save(tx, changed)
    return webhooks.lock_by_id(tx, info.webhook_id) or changed


def _key(open_queue: OpenQueue, delivery: Delivery) -> RecordKey:
    return key_of(open_queue, delivery.delivery_id.partition, delivery.delivery_id.offset)


def key_of(open_queue: OpenQueue, partition: int, offset: int) -> RecordKey:
    """Return the key of a record in a queue."""
    return RecordKey(open_queue.queue.queue_id, open_queue.topic.partition_ids[partition], offset)
