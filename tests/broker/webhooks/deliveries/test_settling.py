"""What an attempt means for its records, for the breaker and for the webhook."""

from __future__ import annotations

from typing import Any

import pytest

from app.broker.webhooks.deliveries.sender import Sent
from app.broker.webhooks.deliveries.settling import Fate, Verdicts, settle_all
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.webhooks.breaker import Breaker, BreakerState
from app.domain.webhooks.webhook import WebhookConfig, WebhookInfo

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
OPEN = Breaker(opened=1, probe_at_ms=NOW_MS)


def webhook(disabled: str | None = None, **settings: Any) -> WebhookInfo:
    config = WebhookConfig(**{"url": "https://example.com", "topics": ("orders",)} | settings)
    return WebhookInfo(1, "billing", config, disabled, None, Breaker(), 0)


def verdicts(state: Breaker = Breaker()) -> Verdicts:  # noqa: B008 - immutable
    return Verdicts(state, 0, None, None)


def answer(status: int, requested_ms: int = 0) -> Sent:
    outcome = "delivered" if 200 <= status < 300 else "failed"
    return Sent(outcome, NOW_MS, 5, status, None, requested_ms=requested_ms)  # type: ignore[arg-type] # a literal


def settle(info: WebhookInfo, sent: Sent, found: Verdicts, *attempts: int, is_probe: bool = False) -> list[Fate]:
    return settle_all(info, attempts or (0,), sent, found, NOW_MS, 0.0, is_probe=is_probe)


def types(found: Verdicts) -> list[str]:
    return [event.type for event in found.events]


def test_each_record_of_a_batch_is_charged_for_itself() -> None:
    found = verdicts()

    fates = settle(webhook(retry_delays_ms=(10, 20)), answer(500), found, 0, 1, 2)
    assert [(fate.acknowledge_type, fate.delay_ms, fate.attempts) for fate in fates] == [
        (AcknowledgeType.RELEASE, 10, 1),
        (AcknowledgeType.RELEASE, 20, 2),
        (AcknowledgeType.ACCEPT, 0, None),
    ]
    assert found.counts.dropped == 1
    assert sum(bucket.failed for bucket in found.breaker.buckets) == 1


def test_what_was_not_sent_charges_nobody() -> None:
    found = verdicts()

    (fate,) = settle(webhook(), Sent("not_sent", NOW_MS, 0), found, 3)
    assert (fate.acknowledge_type, fate.attempts, fate.is_exhausted) == (AcknowledgeType.RELEASE, 3, False)
    assert (found.changed, found.breaker, found.last_failed_at_ms) == (False, Breaker(), None)


def test_a_blocked_address_is_charged() -> None:
    (fate,) = settle(webhook(), Sent("blocked", NOW_MS, 0), verdicts())
    assert (fate.attempts, fate.next_attempt_at_ms) == (1, NOW_MS + 5_000)


def test_gone_disables_once_while_other_attempts_are_under_way() -> None:
    found = verdicts()
    for _ in range(3):
        (fate,) = settle(webhook(), answer(410), found, 2)
        assert (fate.acknowledge_type, fate.delay_ms, fate.attempts) == (AcknowledgeType.RELEASE, 0, 2)
    outcome = found.take()
    settle(webhook(disabled="the receiver answered 410 Gone"), answer(410), found, 2)

    assert outcome is not None
    assert outcome.disable == "the receiver answered 410 Gone"
    assert [event.type for event in outcome.events] == ["webhook.disabled"]
    assert (found.disable, types(found)) == (None, [])


def test_five_days_of_nothing_but_failures_disable() -> None:
    failing = Breaker(failing_since_ms=NOW_MS - 5 * DAY_MS)
    almost = Breaker(failing_since_ms=NOW_MS - 5 * DAY_MS + 1)

    found = verdicts(failing)
    (fate,) = settle(webhook(), answer(500), found, 1)
    assert (found.disable, fate.attempts) == ("nothing but failures for five days", 1)
    found = verdicts(almost)
    settle(webhook(), answer(500), found)
    assert found.disable is None
    found = verdicts(failing)
    settle(webhook(), answer(200), found)
    assert (found.disable, found.breaker.failing_since_ms) == (None, None)


def test_a_failed_probe_charges_no_record_and_opens_the_breaker_for_longer() -> None:
    found = verdicts(OPEN)

    (fate,) = settle(webhook(), answer(500), found, 4, is_probe=True)
    assert (fate.acknowledge_type, fate.delay_ms, fate.attempts) == (AcknowledgeType.RELEASE, 60_000, 4)
    assert found.breaker.state(NOW_MS + 59_999) is BreakerState.OPEN
    assert types(found) == ["webhook.breaker_opened"]


def test_a_delivered_probe_closes_the_breaker() -> None:
    found = verdicts(OPEN)

    (fate,) = settle(webhook(), answer(204), found, 4, is_probe=True)
    assert (fate.acknowledge_type, found.counts.delivered) == (AcknowledgeType.ACCEPT, 1)
    assert (found.breaker, types(found)) == (Breaker(), ["webhook.breaker_closed"])


@pytest.mark.parametrize("is_probe", [False, True])
def test_retry_after_holds_the_webhook_also_after_a_probe(is_probe: bool) -> None:
    found = verdicts(OPEN if is_probe else Breaker())

    settle(webhook(), answer(503, 10 * 60_000), found, is_probe=is_probe)
    assert found.held_until_ms == NOW_MS + 10 * 60_000
    settle(webhook(), answer(503, 1_000), found, is_probe=is_probe)
    assert found.held_until_ms == NOW_MS + 10 * 60_000
    settle(webhook(), answer(429, DAY_MS), found, is_probe=is_probe)
    assert found.held_until_ms == NOW_MS + HOUR_MS


@pytest.mark.parametrize(
    ("on_exhausted", "kind", "attempts", "counted"),
    [
        ("drop", AcknowledgeType.ACCEPT, None, "dropped"),
        ("dead_letter", AcknowledgeType.REJECT, -1, "dead_lettered"),
        ("pause", AcknowledgeType.RELEASE, None, None),
    ],
)
def test_an_exhausted_record_ends_as_the_webhook_says(
    on_exhausted: str, kind: AcknowledgeType, attempts: int | None, counted: str | None
) -> None:
    found = verdicts()

    (fate,) = settle(webhook(on_exhausted=on_exhausted, retry_delays_ms=(5,)), answer(500), found, 1)
    assert (fate.acknowledge_type, fate.attempts, fate.is_exhausted) == (kind, attempts, True)
    assert sum(found.counts) == (0 if counted is None else 1)
    assert counted is None or getattr(found.counts, counted) == 1
    assert found.pause is (on_exhausted == "pause")


def test_several_exhausted_records_pause_the_webhook_once() -> None:
    found = verdicts()

    settle(webhook(on_exhausted="pause", retry_delays_ms=()), answer(500), found, 0, 0, 0)
    assert types(found) == ["webhook.paused"]


def test_what_could_not_be_stored_is_stored_with_what_follows() -> None:
    found = verdicts()
    settle(webhook(), answer(200), found)
    taken = found.take()
    settle(webhook(), answer(410), found)
    found.give_back(taken)

    outcome = found.take()
    assert outcome is not None
    assert (outcome.counts.delivered, outcome.disable) == (1, "the receiver answered 410 Gone")
    assert found.take() is None
