"""A second node on the same database, whose announcements do not arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.broker.log.appender import Appender
from app.broker.log.producer import Producer
from app.broker.log.topics import TopicRequest, Topics
from app.broker.waiting.signals import Signals
from app.domain.log.topic import TopicConfig

if TYPE_CHECKING:
    from app.api.services import Services
    from app.broker.log.producer import ProduceRequest


class SilentNode:
    """Changes topics and produces, unnoticed by the caches and the waiting reads of the other node."""

    def __init__(self, services: Services) -> None:
        storage, signals, clock = services.storage, Signals(), services.clock
        self.topics = Topics(storage, signals, defaults=TopicConfig(), default_partitions=2, clock=clock)
        appender = Appender(storage, signals, clock=clock, max_pending_bytes=1_000_000)
        self._producer = Producer(storage, self.topics, appender, auto_create_topics=False, clock=clock)

    async def produce(self, request: ProduceRequest) -> None:
        await self._producer.produce(request)

    async def replace_topic(self, name: str, partitions: int) -> None:
        """Delete a topic, and create another one of the same name."""
        await self.topics.delete(name)
        await self.topics.create(name, TopicRequest(partitions, {}))
