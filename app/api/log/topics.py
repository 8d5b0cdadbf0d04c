"""Topics and their partitions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery, cursor_after, name_after, page_of
from app.api.http.wire import MAX_INT64, Description, WireRoute, describe
from app.broker.log.topics import TopicRequest, partition_id_of
from app.domain.log.topic import CleanupPolicy, TimestampType, TopicConfig, TopicInfo
from app.errors.http import InvalidRequest
from app.errors.log import (
    InvalidConfig,
    InvalidCursor,
    InvalidPartitions,
    InvalidTopicName,
    OffsetAboveLogEnd,
    TopicAlreadyExists,
    TopicInUse,
    UnknownTopicOrPartition,
)
from app.storage.log import offset_lookup

router = APIRouter(prefix="/v1/topics", tags=["topics"], route_class=WireRoute)

_Count = Annotated[int, Meta(description="From 1 to 1,000; can only grow.")]


class ConfigChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Configuration values to set; `null` gives a field its default."""

    cleanup_policy: CleanupPolicy | UnsetType | None = UNSET
    retention_ms: int | UnsetType | None = UNSET
    retention_bytes: int | UnsetType | None = UNSET
    max_message_bytes: int | UnsetType | None = UNSET
    message_timestamp_type: TimestampType | UnsetType | None = UNSET
    delete_retention_ms: int | UnsetType | None = UNSET
    min_compaction_lag_ms: int | UnsetType | None = UNSET


class TopicChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a topic is to be; what is left out keeps its value or default."""

    partitions: _Count | None = None
    config: ConfigChange = msgspec.field(default_factory=ConfigChange)


class TopicAnswer(msgspec.Struct):
    """A topic with its whole configuration."""

    name: str
    partitions: int
    config: TopicConfig
    created_at_ms: int


class TopicList(msgspec.Struct):
    """A page of topics in order of their names; `next_cursor` is null at the end."""

    items: list[TopicAnswer]
    next_cursor: str | None


class PartitionAnswer(msgspec.Struct):
    """Bounds and size of a partition: bytes of keys, values and headers."""

    partition: int
    log_start_offset: int
    log_end_offset: int
    size_bytes: int


class PartitionList(msgspec.Struct):
    """A page of the partitions of a topic; `next_cursor` is null at the end."""

    items: list[PartitionAnswer]
    next_cursor: str | None


class LogStart(msgspec.Struct):
    """The first offset that is kept."""

    log_start_offset: int


class PartitionListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """A page of the partitions; all of them if not told otherwise."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 1_000
    cursor: Annotated[Annotated[str, Meta(max_length=512)] | None, Meta(description="next_cursor of a page.")] = None


class DeleteRecordsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Up to where to delete."""

    before_offset: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_INT64)] | None, Meta(description="First offset to keep; required.")
    ] = None


@router.put("/{topic}")
@describe(
    Description(
        answers={201: TopicAnswer, 200: TopicAnswer},
        refusals=(
            TopicAlreadyExists,
            InvalidTopicName,
            InvalidPartitions,
            InvalidConfig,
        ),
        examples={"topic": "orders", "body": {"partitions": 4, "config": {"retention_ms": 604800000}}},
    )
)
async def create_topic(call: Call, topic: str, body: TopicChange) -> Reply:
    """Create a topic, or confirm it.

    201 if it is new, 200 if it is there and no given field differs, else 409. The body may be left out.
    """
    info, made = await call.services.topics.create(topic, _request(body))
    return Reply.of(_topic(info), 201 if made else 200)


@router.get("/{topic}")
@describe(Description(answers={200: TopicAnswer}, refusals=(UnknownTopicOrPartition,), examples={"topic": "orders"}))
async def get_topic(call: Call, topic: str) -> Reply:
    """Describe a topic."""
    return Reply.of(_topic(await call.services.topics.refresh(topic)))


@router.patch("/{topic}")
@describe(
    Description(
        answers={200: TopicAnswer},
        refusals=(UnknownTopicOrPartition, InvalidPartitions, InvalidConfig),
        examples={"topic": "orders", "body": {"partitions": 8, "config": {"retention_ms": 86400000}}},
    )
)
async def alter_topic(call: Call, topic: str, body: TopicChange) -> Reply:
    """Change a topic's configuration, or let it grow.

    `null` gives a field its default. Partitions can only be added; keys map to other partitions afterwards.
    """
    return Reply.of(_topic(await call.services.topics.change(topic, _request(body))))


@router.delete("/{topic}")
@describe(
    Description(
        answers={204: None},
        refusals=(UnknownTopicOrPartition, TopicInUse),
        examples={"topic": "orders"},
    )
)
async def delete_topic(call: Call, topic: str) -> Reply:
    """Delete a topic and its records.

    It is gone at once, and the queues over it; the rows go in the background. One created again under the name inherits
    nothing. A dead-letter topic is refused with 409 while a queue names it.
    """
    await call.services.topics.delete(topic)
    return Reply(b"", 204)


@router.get("")
@describe(Description(answers={200: TopicList}, refusals=(InvalidCursor,)))
async def list_topics(call: Call, query: ListQuery) -> Reply:
    """List the topics in order of their names."""
    found = await call.services.topics.list_(name_after(query.cursor), query.limit + 1)
    page, cursor = page_of(found, query.limit)
    return Reply.of(TopicList([_topic(info) for info in page], cursor))


def _number_of(cursor: str) -> int:
    number = name_after(cursor)
    if not number.isdecimal() or len(number) > 4:
        raise InvalidCursor("the cursor is not one of this list; use next_cursor as it was given")
    return int(number)


def _request(body: TopicChange) -> TopicRequest:
    config = {name: value for name, value in msgspec.structs.asdict(body.config).items() if value is not UNSET}
    given = {name: value for name, value in config.items() if value is not None}
    return TopicRequest(body.partitions, given, frozenset(config) - frozenset(given))


def _topic(info: TopicInfo) -> TopicAnswer:
    return TopicAnswer(info.name, info.partitions, info.config, info.created_at_ms)


partitions = APIRouter(prefix="/v1/topics/{topic}/partitions", tags=["partitions"], route_class=WireRoute)


@partitions.get("")
@describe(Description(answers={200: PartitionList}, refusals=(UnknownTopicOrPartition,), examples={"topic": "orders"}))
async def list_partitions(call: Call, topic: str, query: PartitionListQuery) -> Reply:
    """List the partitions of a topic with their offsets and sizes."""
    info = await call.services.topics.refresh(topic)
    first = 0 if query.cursor is None else _number_of(query.cursor)
    after = first + query.limit
    found = await _partitions(call, info, info.partition_ids[first:after])
    if not found and first < info.partitions:
        raise UnknownTopicOrPartition("the topic was deleted")
    return Reply.of(PartitionList(found, cursor_after(str(after)) if after < info.partitions else None))


@partitions.get("/{partition}")
@describe(
    Description(
        answers={200: PartitionAnswer},
        refusals=(UnknownTopicOrPartition,),
        examples={"topic": "orders", "partition": 0},
    )
)
async def get_partition(call: Call, topic: str, partition: int) -> Reply:
    """Describe a partition: first offset kept, next to be written, and size."""
    info = await call.services.topics.refresh(topic)
    found = await _partitions(call, info, (partition_id_of(info, partition),))
    if not found:
        raise UnknownTopicOrPartition("the topic was deleted")
    return Reply.of(found[0])


@partitions.delete("/{partition}/records")
@describe(
    Description(
        answers={200: LogStart},
        refusals=(UnknownTopicOrPartition, OffsetAboveLogEnd),
        examples={"topic": "orders", "partition": 0, "before_offset": 0},
    )
)
async def delete_records(call: Call, topic: str, partition: int, query: DeleteRecordsQuery) -> Reply:
    """Delete the records of a partition before an offset."""
    if query.before_offset is None:
        message = "before_offset is required: the first offset to keep"
        raise InvalidRequest.at(None, "before_offset", "is required", message=message)
    return Reply.of(LogStart(await call.services.topics.delete_before(topic, partition, query.before_offset)))


async def _partitions(call: Call, info: TopicInfo, ids: tuple[int, ...]) -> list[PartitionAnswer]:
    extents = await call.services.storage.read(offset_lookup.extents, ids)
    numbers = {partition_id: number for number, partition_id in enumerate(info.partition_ids)}
    return [
        PartitionAnswer(numbers[extent.partition_id], *extent[1:])
        for extent in sorted(extents, key=lambda extent: numbers[extent.partition_id])
    ]
