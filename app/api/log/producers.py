"""Idempotent producers."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter

from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.log.producer import UNKNOWN_PRODUCER
from app.domain.access.permission import on
from app.domain.log.topic import check_name
from app.errors.log import InvalidTopicName, UnknownProducerId
from app.storage.log import producers

router = APIRouter(prefix="/v1/producers", tags=["producers"], route_class=OperationRoute)


class ProducerEpoch(msgspec.Struct):
    """The epoch to send as Producer-Epoch; sequences start at 0 in a new epoch."""

    producer_epoch: int


class TopicSequence(msgspec.Struct):
    """The next sequence of a producer on a topic."""

    topic: str
    expected_sequence: int


class ProducerAnswer(msgspec.Struct):
    """The epoch of a producer, and the next sequence of each topic in that epoch."""

    producer_id: str
    producer_epoch: int
    topics: list[TopicSequence]


@router.post("/{producer_id}")
@describe(
    Description(
        permission=on("producer", "write", "producer_id"),
        audited=True,
        answers={200: ProducerEpoch},
        errors=(InvalidTopicName,),
        examples={"producer_id": "checkout-1"},
    )
)
async def register_producer(call: Call, producer_id: str) -> Reply:
    """Increase a producer's epoch by one and fence its older instances.

    Call it once when a producer starts. A produce with an older epoch is refused with `INVALID_PRODUCER_EPOCH`, so of
    two instances with the same id only the newer one can append.
    """
    check_name(producer_id, "producer")
    return Reply.of(ProducerEpoch(await call.services.producer.raise_epoch(producer_id)))


@router.get("/{producer_id}")
@describe(
    Description(
        permission=on("producer", "describe", "producer_id"),
        answers={200: ProducerAnswer},
        errors=(UnknownProducerId,),
        examples={"producer_id": "checkout-1"},
    )
)
async def get_producer(call: Call, producer_id: str) -> Reply:
    """Show a producer's epoch and the next sequence of each topic.

    A topic to which the producer has not appended in this epoch is missing: its next sequence is 0.
    """
    check_name(producer_id, "producer")
    producer = await call.services.storage.read(producers.find, producer_id)
    if producer is None:
        raise UnknownProducerId(UNKNOWN_PRODUCER)
    epoch, topics = producer
    return Reply.of(ProducerAnswer(producer_id, epoch, [TopicSequence(*topic) for topic in topics]))
