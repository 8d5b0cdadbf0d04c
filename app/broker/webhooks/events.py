"""What happens to webhooks, as records of the topic `__webhook_events`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.broker.log.system_topics import append_to_system_topic
from app.domain.log.record import VALUE_JSON, Record
from app.domain.webhooks.event import WebhookEvent
from app.storage.db.transaction import Tx

EVENTS_TOPIC = "__webhook_events"
_encode = msgspec.json.Encoder().encode


def append_events(tx: Tx, events: Sequence[WebhookEvent]) -> tuple[int, ...]:
    """Append events, and create their topic if it is missing. Return the ids of its partitions.

    By the lock order, call it last in a transaction.
    """
    records = [Record(-1, -1, event.webhook.encode(), _encode(event), None, VALUE_JSON) for event in events]
    return append_to_system_topic(tx, EVENTS_TOPIC, records)
