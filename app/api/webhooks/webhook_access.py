"""What a client needs on the topics of a webhook, beside its right on the webhook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.api.http.authorization import require_all, require_created
from app.api.http.call import Call


async def check_topics(call: Call, given: Mapping[str, Any]) -> None:
    """Refuse topics that the client may not read, and dead letters that it may not write.

    Raises:
        TopicAuthorizationFailed
    """
    if call.access is None:
        return
    topics = list(given.get("topics") or ())
    require_all(call, "read", "topic", topics)
    if (letters := given.get("dead_letter_topic")) is not None:
        require_all(call, "write", "topic", [letters])
        topics.append(letters)
    await require_created(call, topics)
