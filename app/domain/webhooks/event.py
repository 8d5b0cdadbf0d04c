"""What happens to webhooks. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from app.domain.webhooks.breaker import Breaker

EventType = Literal[
    "webhook.disabled", "webhook.paused", "webhook.breaker_opened", "webhook.breaker_closed", "record.exhausted"
]


class WebhookEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Something that has happened to a webhook.

    Attributes:
        reason: Why; for an exhausted record, what went wrong in its last attempt.
        probe_at_ms: When an open breaker lets the next attempt pass.
        on_exhausted: What becomes of an exhausted record.
    """

    type: EventType
    webhook: str
    at_ms: int
    reason: str | None = None
    probe_at_ms: int | None = None
    message_id: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    attempts: int | None = None
    on_exhausted: str | None = None


def breaker_event(webhook: str, before: Breaker, after: Breaker, at_ms: int) -> WebhookEvent | None:
    """Return what has happened to a breaker, or None if it neither opened nor closed; a failed probe opens it again."""
    if after.opened > before.opened:
        return WebhookEvent(type="webhook.breaker_opened", webhook=webhook, at_ms=at_ms, probe_at_ms=after.probe_at_ms)
    if before.opened and not after.opened:
        return WebhookEvent(type="webhook.breaker_closed", webhook=webhook, at_ms=at_ms)
    return None
