"""What a client needs on the topics of a queue, beside its right on the queue."""

from __future__ import annotations

from app.api.http.authorization import require_created
from app.api.http.call import Call
from app.broker.queues.queues import QueueRequest
from app.errors.queues import UnknownQueue


async def check_topics(call: Call, request: QueueRequest) -> None:
    """Refuse a queue over a topic that the client may not read, or with dead letters that it may not write.

    Raises:
        TopicAuthorizationFailed
    """
    if call.access is None:
        return
    named = []
    if request.topic is not None:
        call.access.require("read", "topic", request.topic)
        named.append(request.topic)
    if isinstance(request.dead_letter_topic, str):
        call.access.require("write", "topic", request.dead_letter_topic)
        named.append(request.dead_letter_topic)
    await require_created(call, named)


async def check_creation(call: Call, queue: str, request: QueueRequest) -> None:
    """Refuse to create a queue on the way, unless the client may create it and read its topic.

    Raises:
        QueueAuthorizationFailed, TopicAuthorizationFailed
    """
    if call.access is None or call.principal.is_admin:
        return
    try:
        await call.services.queues.get(queue)
    except UnknownQueue:
        call.access.require("create", "queue", queue)
        await check_topics(call, request)


async def check_source(call: Call, queue: str) -> None:
    """Refuse a client that may not read the topic of a queue.

    Raises:
        UnknownQueue: There is no queue of this name.
        TopicAuthorizationFailed
    """
    if call.access is not None and not call.principal.is_admin:
        info, _ = await call.services.queues.route(queue, refresh=False)
        call.access.require("read", "topic", info.topic)


async def check_redrive(call: Call, queue: str, dead_letter_topic: str | None) -> None:
    """Refuse a redrive by a client that may not read the dead letters, or not write to the topic of the queue.

    Raises:
        UnknownQueue: There is no queue of this name.
        TopicAuthorizationFailed
    """
    if call.access is None or call.principal.is_admin:
        return
    info, _ = await call.services.queues.route(queue, refresh=True)
    call.access.require("write", "topic", info.topic)
    if (letters := dead_letter_topic or info.dead_letter_topic) is not None:
        call.access.require("read", "topic", letters)


async def check_change(call: Call, queue: str, request: QueueRequest) -> None:
    """Refuse to send the dead letters of a queue somewhere, unless the client may read what they are copies of.

    Raises:
        UnknownQueue: There is no queue of this name.
        TopicAuthorizationFailed
    """
    await check_topics(call, request)
    if isinstance(request.dead_letter_topic, str):
        await check_source(call, queue)
