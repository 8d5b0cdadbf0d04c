"""What an attempt means: for its records, for the breaker, and for the webhook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.broker.webhooks.deliveries.cycle import Counts, Outcome
from app.broker.webhooks.deliveries.sender import Sent
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.webhooks import breaker
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.event import WebhookEvent, breaker_event
from app.domain.webhooks.retries import MAX_HOLD_MS, hold_ms, retry_delay_ms
from app.domain.webhooks.webhook import WebhookInfo
from app.storage.webhooks.retries import EXHAUSTED
from app.storage.webhooks.webhooks import StoredWebhook

_UNCHARGED_MS = 5_000
_GONE = "the receiver answered 410 Gone"
_FIVE_DAYS = "nothing but failures for five days"


class Fate(NamedTuple):
    """What becomes of a record after an attempt.

    Attributes:
        attempts: Charged attempts to store; None for none.
    """

    acknowledge_type: AcknowledgeType
    delay_ms: int
    attempts: int | None
    next_attempt_at_ms: int | None
    is_exhausted: bool = False


class Verdicts:
    """What attempts have changed of a webhook, until a transaction stores it.

    Attributes:
        changed: Whether there is something to store.
    """

    def __init__(
        self,
        state: Breaker,
        held_until_ms: int,
        last_delivered_at_ms: int | None,
        last_failed_at_ms: int | None,
    ) -> None:
        self.breaker = state
        self.held_until_ms = held_until_ms
        self.last_delivered_at_ms = last_delivered_at_ms
        self.last_failed_at_ms = last_failed_at_ms
        self.counts = Counts()
        self.disable: str | None = None
        self.pause = False
        self.events: list[WebhookEvent] = []
        self.changed = False

    @classmethod
    def of(cls, stored: StoredWebhook) -> Verdicts:
        """Return the state that the row of a webhook has."""
        return cls(stored.info.breaker, stored.held_until_ms, stored.last_delivered_at_ms, stored.last_failed_at_ms)

    def adopt(self, stored: StoredWebhook) -> None:
        """Take over the breaker and the pause of a webhook that was changed: enabling a webhook resets both."""
        self.breaker, self.held_until_ms = stored.info.breaker, stored.held_until_ms

    def note(self, event: WebhookEvent) -> None:
        """Add an event."""
        self.events.append(event)
        self.changed = True

    def record(self, webhook: WebhookInfo, sent: Sent, now_ms: int) -> bool:
        """Let an attempt that is charged count for the webhook. Return whether it ends there: the webhook is disabled.

        Args:
            webhook: The webhook.
            sent: What came back.
            now_ms: The clock of the log.
        """
        delivered = sent.outcome == "delivered"
        before, self.breaker = self.breaker, breaker.record(self.breaker, now_ms, delivered=delivered)
        self.changed = True
        if (event := breaker_event(webhook.name, before, self.breaker, now_ms)) is not None:
            self.events.append(event)
        if delivered:
            self.last_delivered_at_ms = now_ms
            return False
        self.last_failed_at_ms = now_ms
        if held_ms := hold_ms(sent.status, sent.requested_ms):
            self.held_until_ms = max(self.held_until_ms, now_ms + held_ms)
        if not sent.is_gone and not breaker.is_to_disable(self.breaker, now_ms):
            return False
        self._disable(webhook, _GONE if sent.is_gone else _FIVE_DAYS, now_ms)
        return True

    def _disable(self, webhook: WebhookInfo, reason: str, now_ms: int) -> None:
        """Disable the webhook once: other attempts may have been under way."""
        if self.disable is None and webhook.status != "disabled":
            self.disable = reason
            self.note(WebhookEvent(type="webhook.disabled", webhook=webhook.name, at_ms=now_ms, reason=reason))

    def add(self, counts: Counts) -> None:
        """Add to the counts."""
        self.counts = Counts(*(one + other for one, other in zip(self.counts, counts, strict=True)))
        self.changed = True

    def take(self) -> Outcome | None:
        """Return what is to be stored, or None for nothing."""
        if not self.changed:
            return None
        outcome = Outcome(
            self.counts,
            self.breaker,
            self.held_until_ms,
            self.last_delivered_at_ms,
            self.last_failed_at_ms,
            self.disable,
            self.pause,
            self.events,
        )
        self.counts, self.disable, self.pause, self.events, self.changed = Counts(), None, False, [], False
        return outcome

    def give_back(self, outcome: Outcome | None) -> None:
        """Take back what could not be stored."""
        if outcome is not None:
            self.add(outcome.counts)
            self.disable = self.disable or outcome.disable
            self.pause |= outcome.pause
            self.events[:0] = outcome.events


def stepped_back(stored: StoredWebhook, step_ms: int, now_ms: int) -> StoredWebhook:
    """Return a webhook after the clock has stepped back: its breaker and its pause last no longer than before."""
    info = stored.info._replace(breaker=breaker.step_back(stored.info.breaker, step_ms, now_ms))
    return stored._replace(info=info, held_until_ms=min(stored.held_until_ms - step_ms, now_ms + MAX_HOLD_MS))


def pulled_in(stored: StoredWebhook, now_ms: int) -> StoredWebhook:
    """Return a webhook without waits that are longer than they can be: the clock has stepped back since then."""
    too_late_ms = max(stored.held_until_ms - MAX_HOLD_MS, stored.info.breaker.probe_at_ms - breaker.LONGEST_OPEN_MS)
    return stored if too_late_ms <= now_ms else stepped_back(stored, too_late_ms - now_ms, now_ms)


def settle_all(
    webhook: WebhookInfo,
    attempts: Sequence[int],
    sent: Sent,
    verdicts: Verdicts,
    now_ms: int,
    jitter: float,
    *,
    is_probe: bool,
) -> list[Fate]:
    """Judge an attempt: change `verdicts`, and return the fate of each record.

    Args:
        webhook: The webhook.
        attempts: Charged attempts of each record before.
        sent: What came back.
        verdicts: The state of the webhook.
        now_ms: The clock of the log.
        jitter: A random number from 0 to 1.
        is_probe: Whether the breaker was not closed: such an attempt charges no record.
    """
    if not sent.is_charged:
        return [_uncharged(before, now_ms, _UNCHARGED_MS) for before in attempts]
    if verdicts.record(webhook, sent, now_ms):
        return [_uncharged(before, now_ms, 0) for before in attempts]
    if sent.outcome == "delivered":
        verdicts.add(Counts(delivered=len(attempts)))
        return [Fate(AcknowledgeType.ACCEPT, 0, None, None) for _ in attempts]
    if is_probe:
        return [_uncharged(before, now_ms, max(1, verdicts.breaker.probe_at_ms - now_ms)) for before in attempts]
    return [_charged(webhook, before + 1, sent, verdicts, now_ms, jitter) for before in attempts]


def _uncharged(attempts: int, now_ms: int, delay_ms: int) -> Fate:
    return Fate(AcknowledgeType.RELEASE, delay_ms, attempts or None, now_ms + delay_ms)


def _charged(webhook: WebhookInfo, attempts: int, sent: Sent, verdicts: Verdicts, now_ms: int, jitter: float) -> Fate:
    config = webhook.config
    delay_ms = retry_delay_ms(attempts, config.retry_delays_ms, sent.status, sent.requested_ms, jitter)
    if delay_ms is not None:
        return Fate(AcknowledgeType.RELEASE, delay_ms, attempts, now_ms + delay_ms)
    if config.on_exhausted == "dead_letter":
        verdicts.add(Counts(dead_lettered=1))
        return Fate(AcknowledgeType.REJECT, 0, EXHAUSTED, None, is_exhausted=True)
    if config.on_exhausted == "pause":
        if not verdicts.pause:
            verdicts.pause = True
            reason = "a record is exhausted, and on_exhausted is pause"
            verdicts.note(WebhookEvent(type="webhook.paused", webhook=webhook.name, at_ms=now_ms, reason=reason))
        return Fate(AcknowledgeType.RELEASE, 0, None, None, is_exhausted=True)
    verdicts.add(Counts(dropped=1))
    return Fate(AcknowledgeType.ACCEPT, 0, None, None, is_exhausted=True)
