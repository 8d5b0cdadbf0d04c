"""What a webhook has delivered, and what waits."""

from __future__ import annotations

from typing import NamedTuple

from app.broker.encryption.secret_box import SecretBox, WrongSecretKey
from app.broker.queues import counts
from app.broker.queues.counts import QueueState
from app.broker.webhooks import keys
from app.broker.webhooks.keys import open_keys
from app.domain.webhooks.breaker import BreakerState
from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.queues import queues
from app.storage.webhooks import retries, webhooks
from app.storage.webhooks.webhooks import StoredWebhook


class WebhookState(NamedTuple):
    """What a webhook has delivered, and what waits.

    Attributes:
        retrying: Records that failed and have not ended.
        oldest_age_ms: Age of the oldest record that has not ended, or None.
        dead_letter_error: Why a dead letter was refused last, or None.
        topics: The topics that it covers.
        public_key: With ed25519, unless the server has not the key that decrypts its seed; else None.
    """

    stored: StoredWebhook
    breaker: BreakerState
    waiting: int
    in_flight: int
    retrying: int
    expired: int
    oldest_age_ms: int | None
    dead_letter_error: str | None
    public_key: str | None
    topics: tuple[str, ...]


def describe(tx: Tx, box: SecretBox, name: str) -> WebhookState | None:
    """Return a webhook, what it has delivered, and what waits, or None."""
    stored = webhooks.find(tx, name)
    if stored is None:
        return None
    states: list[QueueState] = []
    hidden = webhooks.hidden_queues(tx, name)
    for queue in hidden:
        info = queues.find_by_id(tx, queue.queue_id)
        if info is not None:
            states.append(counts.describe(tx, info))
    now_ms = clock.read(tx)
    ages = [state.oldest_age_ms for state in states if state.oldest_age_ms is not None]
    retrying = retries.count(tx, [queue.queue_id for queue in hidden])
    return WebhookState(
        stored,
        stored.info.breaker.state(now_ms),
        max(0, sum(state.available + state.delayed for state in states) - retrying),
        sum(state.acquired for state in states),
        retrying,
        sum(state.expired for state in states),
        max(ages, default=None),
        next((state.dead_letter_error for state in states if state.dead_letter_error is not None), None),
        _public_key(box, stored, now_ms),
        tuple(queue.topic for queue in hidden),
    )


def _public_key(box: SecretBox, stored: StoredWebhook, now_ms: int) -> str | None:
    if stored.info.config.signature != "ed25519":
        return None
    try:
        return keys.public_key(open_keys(box, stored, now_ms).secrets[0])
    except WrongSecretKey:
        return None
