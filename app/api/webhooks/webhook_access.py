"""What a client needs on the topics of a webhook, beside its right on the webhook."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from app.api.http.authorization import confirming, refuse_hidden, require_all, require_created
from app.api.http.call import Call
from app.broker.webhooks.webhooks import CreatedWebhook, OwnerRights, WebhookSecrets
from app.storage.webhooks.webhooks import StoredWebhook

_LEADS_ELSEWHERE = frozenset({"url", "topics", "topic_pattern", "dead_letter_topic", "on_exhausted"})
"""Fields that decide which records go where."""


async def create(call: Call, webhook: str, given: Mapping[str, Any], secrets: WebhookSecrets) -> CreatedWebhook:
    """Create a webhook that acts with the rights of its maker, or confirm it.

    Raises:
        TopicAuthorizationFailed: The client may not read its topics, or not write its dead letters.
    """
    await _check_topics(call, given)
    with confirming(call, "webhook", webhook):
        made = await call.services.webhooks.create(webhook, given, secrets, _rights(call))
    if made.secret is None:
        refuse_hidden(call, "webhook", webhook)
    return made


async def change(
    call: Call, webhook: str, given: Mapping[str, Any], headers: Mapping[str, str] | None
) -> tuple[StoredWebhook, tuple[str, ...]]:
    """Change a webhook. Who lets it send other records, or elsewhere, needs to read them, and becomes its owner.

    An admin may do so and leaves the owner.

    Raises:
        TopicAuthorizationFailed: The client may not read what the webhook covers, or not write its dead letters.
    """
    await _check_topics(call, given)
    leads_elsewhere = not _LEADS_ELSEWHERE.isdisjoint(given)
    rights = _rights(call)
    if leads_elsewhere and rights is not None and not call.principal.is_admin:
        state = await call.services.webhooks.describe(webhook)
        require_all(call, "read", "topic", sorted({*state.topics, *state.stored.info.config.topics}))
        return await call.services.webhooks.change(webhook, given, headers, rights, takes_over=True)
    return await call.services.webhooks.change(webhook, given, headers, rights)


def _rights(call: Call) -> OwnerRights | None:
    if call.access is None:
        return None
    return OwnerRights(call.principal, partial(call.access.allows, "read", "topic"))


async def _check_topics(call: Call, given: Mapping[str, Any]) -> None:
    if call.access is None:
        return
    topics = list(given.get("topics") or ())
    require_all(call, "read", "topic", topics)
    if (letters := given.get("dead_letter_topic")) is not None:
        require_all(call, "write", "topic", [letters])
        topics.append(letters)
    await require_created(call, topics)
