"""Idempotent producers."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter

from app.api.http.call import Call, Reply
from app.api.http.wire import Description, WireRoute, describe
from app.domain.log.topic import check_name
from app.errors.log import InvalidTopicName, UnknownProducerId
from app.storage.log import producers

router = APIRouter(prefix="/v1/producers", tags=["producers"], route_class=WireRoute)


class ProducerEpoch(msgspec.Struct):
    """The epoch to send as Producer-Epoch, with sequences from 0."""

    producer_epoch: int


class TopicSequence(msgspec.Struct):
    """The next sequence of a producer on a topic."""

    topic: str
    expected_sequence: int


class ProducerAnswer(msgspec.Struct):
    """A producer's epoch, and the next sequence per topic in that epoch."""

    producer_id: str
    producer_epoch: int
    topics: list[TopicSequence]


@router.post("/{producer_id}")
@describe(
    Description(answers={200: ProducerEpoch}, refusals=(InvalidTopicName,), examples={"producer_id": "checkout-1"})
)
async def register_producer(call: Call, producer_id: str) -> Reply:
    """Raise a producer's epoch by one: older instances of it are fenced."""
    check_name(producer_id, "producer")
    return Reply.of(ProducerEpoch(await call.services.producer.raise_epoch(producer_id)))


@router.get("/{producer_id}")
@describe(
    Description(
        answers={200: ProducerAnswer},
        refusals=(UnknownProducerId,),
        examples={"producer_id": "checkout-1"},
    )
)
async def get_producer(call: Call, producer_id: str) -> Reply:
    """Describe a producer: its epoch and the next sequence per topic."""
    check_name(producer_id, "producer")
    found = await call.services.storage.read(producers.find, producer_id)
    if found is None:
        raise UnknownProducerId("no producer of this id is known; POST to this path registers it")
    epoch, topics = found
    return Reply.of(ProducerAnswer(producer_id, epoch, [TopicSequence(*topic) for topic in topics]))
