"""What happens to webhooks, as records of the topic `__webhook_events`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.domain.log.append import Append
from app.domain.log.record import VALUE_JSON, Record
from app.domain.log.topic import TopicConfig
from app.domain.webhooks.event import WebhookEvent
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.log import topics
from app.storage.log.appends import append_all

EVENTS_TOPIC = "__webhook_events"
_encode = msgspec.json.Encoder().encode


def append_events(tx: Tx, events: Sequence[WebhookEvent]) -> tuple[int, ...]:
    """Append events, and create their topic if it is missing. Return the ids of its partitions.

    By the lock order, call it last in a transaction.
    """
    now_ms = clock.read(tx)
    topics.create(tx, EVENTS_TOPIC, 1, {}, now_ms)
    found = topics.find(tx, EVENTS_TOPIC, TopicConfig())
    if found is None:
        return ()
    info = found.info
    records = [Record(-1, -1, event.webhook.encode(), _encode(event), None, VALUE_JSON) for event in events]
    append_all(
        tx, [Append(info.topic_id, info.name, info.version, info.partition_ids, records, [0] * len(records))], now_ms
    )
    return info.partition_ids
