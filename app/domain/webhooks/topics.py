"""Which topics a webhook covers. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from app.domain.webhooks.webhook import WebhookConfig


def is_covered(config: WebhookConfig, topic: str) -> bool:
    """Return whether a webhook covers a topic; a pattern matches no internal topic."""
    if config.topic_pattern is None:
        return topic in config.topics
    return not topic.startswith("__") and fnmatchcase(topic, config.topic_pattern)
