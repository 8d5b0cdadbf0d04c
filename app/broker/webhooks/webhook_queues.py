"""The queues of a webhook: one for each of its topics, hidden from the list of queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from app.broker.log.topics import TopicRequest, Topics
from app.broker.queues.queues import create_queue
from app.domain.log.topic import TopicConfig, TopicInfo
from app.domain.queues.queue import QueueConfig, QueueInfo
from app.domain.webhooks.webhook import WebhookConfig
from app.errors.database import ServiceUnavailable
from app.storage.db.transaction import Tx
from app.storage.log import topics
from app.storage.queues import queues
from app.storage.webhooks import retries, webhooks
from app.storage.webhooks.retries import RecordKey
from app.storage.webhooks.webhooks import QUEUE_PREFIX, HiddenQueue, StoredWebhook, queue_name

MayRead = Callable[[str], bool]
"""Returns whether a principal may read a topic."""

NO_LIMIT = 1_000_000_000
"""`max_delivery_count` of the queues of webhooks: attempts are counted apart."""

_MARGIN_MS = 30_000
AHEAD = 4
"""Records that are acquired while others are sent, in multiples of `max_in_flight`: a lock lasts for so many attempts
before its own, its own, and the margin."""


def queue_config(config: WebhookConfig) -> QueueConfig:
    """Return the configuration of a queue of a webhook."""
    return QueueConfig(
        lock_duration_ms=(1 + AHEAD) * config.timeout_ms + _MARGIN_MS,
        max_delivery_count=NO_LIMIT,
        start=config.start,
        ordering=config.ordering,
        run_records=config.max_batch_records if config.batches else 1,
    )


def add_queue(tx: Tx, stored: StoredWebhook, topic: TopicInfo, letters: TopicInfo | None, start: str) -> None:
    """Create the queue of a webhook over a topic.

    Raises:
        ServiceUnavailable: The topic changes.
    """
    config = msgspec.structs.replace(queue_config(stored.info.config), start=start)
    name = queue_name(stored.info.name, topic.name)
    if create_queue(tx, name, topic, letters, config) is None:
        raise ServiceUnavailable("a topic of the webhook changes; try again")


def change_queues(
    tx: Tx, stored: StoredWebhook, before: WebhookConfig, covered: Sequence[TopicInfo], letters: TopicInfo | None
) -> None:
    """Give a webhook that was changed the queues of the topics that it covers now.

    Args:
        tx: A write transaction that has locked the webhook.
        stored: The webhook.
        before: Its configuration before the change.
        covered: The existing topics that it covers.
        letters: Its dead-letter topic, or None.

    Raises:
        ServiceUnavailable: A topic changes.
    """
    config = stored.info.config
    present = {queue.topic_id: queue for queue in webhooks.hidden_queues(tx, stored.info.name)}
    for queue in present.values():
        if config.covers(queue.topic):
            queues.change(tx, queue.queue_id, None if letters is None else letters.topic_id, queue_config(config))
        else:
            remove_queue(tx, queue)
    for topic in covered:
        if topic.topic_id not in present:
            add_queue(tx, stored, topic, letters, "earliest" if before.covers(topic.name) else config.start)
    if letters is not None and not queues.lock_topics(tx, [letters.topic_id]):
        raise ServiceUnavailable("the dead-letter topic was deleted meanwhile; try again")


async def dead_letters_of(log: Topics, config: WebhookConfig) -> TopicInfo | None:
    """Return the dead-letter topic of a webhook, created if it does not exist; None without one."""
    if config.dead_letters is None:
        return None
    info, _ = await log.create(config.dead_letters, TopicRequest(None, {}))
    return await log.refresh(info.name)


def matching_topics(tx: Tx, config: WebhookConfig, may_read: MayRead | None = None) -> list[TopicInfo]:
    """Return the existing topics that a webhook covers, and that its owner may read."""
    names = [name for name in topics.all_names(tx) if config.covers(name) and (may_read is None or may_read(name))]
    found = [topics.find(tx, name, TopicConfig()) for name in names]
    return [stored.info for stored in found if stored is not None]


def forget_attempts(tx: Tx, queue: QueueInfo, partition_id: int, offsets: Sequence[int]) -> None:
    """Delete the attempts of archived records if the queue is that of a webhook."""
    if queue.name.startswith(QUEUE_PREFIX):
        retries.remove(tx, [RecordKey(queue.queue_id, partition_id, offset) for offset in offsets])


def remove_queue(tx: Tx, queue: HiddenQueue) -> None:
    """Delete a queue of a webhook with its state."""
    queues.find_locked(tx, queue.name)
    queues.delete_(tx, queue.queue_id)
