"""Changes of webhooks that run at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from app.broker.encryption.secret_box import SecretBox
from app.broker.webhooks.webhooks import Webhooks, WebhookSecrets
from app.errors.log import TopicInUse
from app.errors.webhooks import InvalidWebhookConfig, UnknownWebhook
from app.storage.queues import queues
from app.storage.webhooks.webhooks import queue_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.storage.db.engine import Storage
    from tests.broker.node import Node

pytestmark = pytest.mark.anyio

KEY = bytes(32)
NONE = WebhookSecrets()
LETTERS = {"on_exhausted": "dead_letter", "dead_letter_topic": "undelivered"}


class InterruptedStorage:
    """A storage on which something else happens before the next write."""

    def __init__(self, storage: Storage, before_write: Callable[[], Awaitable[object]]) -> None:
        self._storage = storage
        self._before_write: Callable[[], Awaitable[object]] | None = before_write
        self.read = storage.read

    async def write(self, function: Callable[..., Any], *args: object, **others: object) -> object:
        if (before_write := self._before_write) is not None:
            self._before_write = None
            await before_write()
        return await self._storage.write(function, *args, **others)


def interrupted(node: Node, before_write: Callable[[], Awaitable[object]]) -> Webhooks:
    """Return webhooks whose next change reads before something else happens, and writes after it."""
    storage = cast("Storage", InterruptedStorage(node.storage, before_write))
    return webhooks_on(node, storage)


def webhooks_on(node: Node, storage: Storage | None = None) -> Webhooks:
    """Return the webhooks of a node with a key of secrets."""
    return Webhooks(storage or node.storage, node.services.topics, node.services.signals, SecretBox(lambda: [KEY]))


async def create(node: Node, **settings: Any) -> None:
    given = {"url": "https://example.com", "topics": ["orders"], "paused": True} | settings
    await webhooks_on(node).create("billing", given, NONE)


async def dead_letters_of(node: Node, topic: str = "orders") -> str | None:
    """Return the dead-letter topic of the queue of the webhook over a topic."""
    found = await node.storage.read(queues.find, queue_name("billing", topic))
    assert found is not None
    return found.dead_letter_topic


async def test_a_change_keeps_the_dead_letter_topic_that_another_one_sets_meanwhile(node: Node) -> None:
    await create(node)
    webhooks = webhooks_on(node)

    await interrupted(node, lambda: webhooks.change("billing", LETTERS, None)).change(
        "billing", {"description": "of the shop"}, None
    )

    config = (await webhooks.get("billing")).info.config
    assert (config.description, config.dead_letters) == ("of the shop", "undelivered")
    assert await dead_letters_of(node) == "undelivered"
    with pytest.raises(TopicInUse):
        await node.services.topics.delete("undelivered")


async def test_a_change_restores_no_dead_letter_topic_that_another_one_removes_meanwhile(node: Node) -> None:
    await create(node, **LETTERS)
    webhooks = webhooks_on(node)

    await interrupted(node, lambda: webhooks.change("billing", {"on_exhausted": "drop"}, None)).change(
        "billing", {"description": "of the shop"}, None
    )

    assert (await webhooks.get("billing")).info.config.dead_letters is None
    assert await dead_letters_of(node) is None


async def test_two_changes_cannot_make_a_topic_of_the_webhook_its_dead_letter_topic(node: Node) -> None:
    await create(node)
    webhooks = webhooks_on(node)

    with pytest.raises(InvalidWebhookConfig):
        await interrupted(node, lambda: webhooks.change("billing", LETTERS, None)).change(
            "billing", {"topics": ["orders", "undelivered"]}, None
        )

    config = (await webhooks.get("billing")).info.config
    assert (config.topics, config.dead_letters) == (("orders",), "undelivered")


async def test_a_change_of_a_webhook_that_is_deleted_meanwhile_is_refused(node: Node) -> None:
    await create(node)

    with pytest.raises(UnknownWebhook):
        await interrupted(node, lambda: webhooks_on(node).delete("billing")).change(
            "billing", {"description": "of the shop"}, None
        )
