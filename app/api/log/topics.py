"""Topics and their partitions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.authorization import confirming, refuse_hidden
from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery, cursor_after, name_after
from app.api.http.lists import visible_page
from app.api.http.operations import MAX_INT64, Description, OperationRoute, describe
from app.api.log.warnings import FieldWarning, duration_warning
from app.broker.log.topics import TopicRequest, partition_id_of
from app.domain.access.permission import ANY_PRINCIPAL, on
from app.domain.log.topic import (
    MAX_MESSAGE_BYTES,
    MAX_PARTITIONS,
    CleanupPolicy,
    TimestampType,
    TopicConfig,
    TopicInfo,
)
from app.errors.http import InvalidRequest
from app.errors.limits import PolicyViolation
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

router = APIRouter(prefix="/v1/topics", tags=["topics"], route_class=OperationRoute)

_PartitionCount = Annotated[
    int,
    Meta(description="From 1 to 1,000; cannot decrease.", extra_json_schema={"minimum": 1, "maximum": MAX_PARTITIONS}),
]

_MessageBytes = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": MAX_MESSAGE_BYTES})]
_Retention = Annotated[int, Meta(extra_json_schema={"minimum": -1, "format": "int64"})]
_LongMs = Annotated[int, Meta(extra_json_schema={"minimum": 0, "format": "int64"})]


class ConfigChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Configuration values to set; `null` resets a field to its default.

    Milliseconds and bytes; a retention of -1 has no limit. `delete_retention_ms` and `min_compaction_lag_ms` are for
    compaction.
    """

    cleanup_policy: CleanupPolicy | UnsetType | None = UNSET
    retention_ms: _Retention | UnsetType | None = UNSET
    retention_bytes: _Retention | UnsetType | None = UNSET
    max_message_bytes: _MessageBytes | UnsetType | None = UNSET
    message_timestamp_type: TimestampType | UnsetType | None = UNSET
    delete_retention_ms: _LongMs | UnsetType | None = UNSET
    min_compaction_lag_ms: _LongMs | UnsetType | None = UNSET


class TopicChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The settings of a topic; an omitted field keeps its value, or has its default in a new topic."""

    partitions: _PartitionCount | None = None
    config: ConfigChange = msgspec.field(default_factory=ConfigChange)


class TopicAnswer(msgspec.Struct):
    """A topic and its full configuration.

    The answer to a request that sets a field to what is very likely a mistake has `warnings`, such as for a
    `retention_ms` in seconds.
    """

    name: str
    partitions: int
    config: TopicConfig
    created_at_ms: int
    warnings: list[FieldWarning] | UnsetType = UNSET


class TopicList(msgspec.Struct):
    """A page of topics in order of name; `next_cursor` is null on the last page."""

    items: list[TopicAnswer]
    next_cursor: str | None


class PartitionAnswer(msgspec.Struct):
    """Offsets and size of a partition; the size counts the bytes of keys, values and headers."""

    partition: int
    log_start_offset: int
    log_end_offset: int
    size_bytes: int


class PartitionList(msgspec.Struct):
    """A page of a topic's partitions; `next_cursor` is null on the last page."""

    items: list[PartitionAnswer]
    next_cursor: str | None


class LogStart(msgspec.Struct):
    """The first offset of the partition."""

    log_start_offset: int


class PartitionListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """One page of the partitions; all partitions by default."""

    limit: Annotated[int, Meta(ge=1, le=1_000, description="Number of partitions on a page.")] = 1_000
    cursor: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="next_cursor of the previous page.", examples=["MQ=="]),
    ] = None


class DeleteRecordsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The end of the records to delete."""

    before_offset: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_INT64)] | None, Meta(description="First offset to keep; required.")
    ] = None


@router.put("/{topic}")
@describe(
    Description(
        permission=on("topic", "create"),
        answers={201: TopicAnswer, 200: TopicAnswer},
        errors=(
            TopicAlreadyExists,
            PolicyViolation,
            InvalidTopicName,
            InvalidPartitions,
            InvalidConfig,
        ),
        examples={"topic": "orders", "body": {"partitions": 4, "config": {"retention_ms": 604800000}}},
    )
)
async def create_topic(call: Call, topic: str, body: TopicChange) -> Reply:
    """Create a topic, or confirm that it exists.

    201 if the topic is new, 200 if it exists and no field of the body differs, otherwise 409. The body is optional.
    """
    request = _request(body)
    with confirming(call, "topic", topic):
        info, created = await call.services.topics.create(topic, request)
    if not created:
        refuse_hidden(call, "topic", topic)
    return Reply.of(_answer(info, _warnings(request)), 201 if created else 200)


@router.get("/{topic}")
@describe(
    Description(
        permission=on("topic", "describe"),
        answers={200: TopicAnswer},
        errors=(UnknownTopicOrPartition,),
        examples={"topic": "orders"},
    )
)
async def get_topic(call: Call, topic: str) -> Reply:
    """Describe a topic: its number of partitions and its whole configuration.

    Offsets and sizes are at `GET /v1/topics/{topic}/partitions`.
    """
    return Reply.of(_answer(await call.services.topics.refresh(topic)))


@router.patch("/{topic}")
@describe(
    Description(
        permission=on("topic", "alter"),
        answers={200: TopicAnswer},
        errors=(UnknownTopicOrPartition, TopicInUse, InvalidPartitions, InvalidConfig),
        examples={"topic": "orders", "body": {"partitions": 8, "config": {"retention_ms": 86400000}}},
    )
)
async def alter_topic(call: Call, topic: str, body: TopicChange) -> Reply:
    """Change a topic's configuration, or add partitions.

    `null` resets a field to its default. After partitions are added, keys map to other partitions.
    """
    request = _request(body)
    return Reply.of(_answer(await call.services.topics.change(topic, request), _warnings(request)))


@router.delete("/{topic}")
@describe(
    Description(
        permission=on("topic", "delete"),
        answers={204: None},
        errors=(UnknownTopicOrPartition, TopicInUse),
        examples={"topic": "orders"},
    )
)
async def delete_topic(call: Call, topic: str) -> Reply:
    """Delete a topic and its records.

    The topic and its queues are deleted at once; their rows are removed in the background. A new topic with the same
    name starts empty. While a queue uses the topic as its dead-letter topic, the answer is 409.
    """
    await call.services.topics.delete(topic)
    return Reply(b"", 204)


@router.get("")
@describe(Description(permission=ANY_PRINCIPAL, answers={200: TopicList}, errors=(InvalidCursor,)))
async def list_topics(call: Call, query: ListQuery) -> Reply:
    """List the topics in order of name.

    Each has its number of partitions and its whole configuration.
    """
    page, cursor = await visible_page(call, "topic", call.services.topics.list_, query)
    return Reply.of(TopicList([_answer(info) for info in page], cursor))


def _partition_after(cursor: str) -> int:
    """Return the number of the first partition of a page.

    Raises:
        InvalidCursor: The cursor does not belong to a list of partitions.
    """
    number = name_after(cursor)
    if not number.isdecimal() or len(number) > 4:
        raise InvalidCursor("the cursor does not belong to this list; send next_cursor unchanged")
    return int(number)


def _request(body: TopicChange) -> TopicRequest:
    config = {name: value for name, value in msgspec.structs.asdict(body.config).items() if value is not UNSET}
    overrides = {name: value for name, value in config.items() if value is not None}
    return TopicRequest(body.partitions, overrides, frozenset(config) - frozenset(overrides))


def _answer(info: TopicInfo, warnings: list[FieldWarning] | UnsetType = UNSET) -> TopicAnswer:
    return TopicAnswer(info.name, info.partitions, info.config, info.created_at_ms, warnings)


def _warnings(request: TopicRequest) -> list[FieldWarning] | UnsetType:
    """Return warnings of the durations in a request; UNSET if there are none."""
    found = [
        warning
        for name, value in request.given.items()
        if name.endswith("_ms")
        for warning in duration_warning(f"config.{name}", value)
    ]
    retention_ms = request.given.get("retention_ms")
    if retention_ms == 0:
        detail = "config.retention_ms is 0, which deletes records at once; -1 keeps them for ever"
        found.append(FieldWarning("RETENTION_IS_ZERO", detail, "config.retention_ms"))
    return found or UNSET


partitions = APIRouter(prefix="/v1/topics/{topic}/partitions", tags=["partitions"], route_class=OperationRoute)


@partitions.get("")
@describe(
    Description(
        permission=on("topic", "describe"),
        answers={200: PartitionList},
        errors=(UnknownTopicOrPartition,),
        examples={"topic": "orders"},
    )
)
async def list_partitions(call: Call, topic: str, query: PartitionListQuery) -> Reply:
    """List the partitions of a topic with their offsets and sizes.

    `log_start_offset` is the first offset that can be read, and `log_end_offset` that of the next record.
    """
    info = await call.services.topics.refresh(topic)
    first = 0 if query.cursor is None else _partition_after(query.cursor)
    end = first + query.limit
    items = await _partitions(call, info, info.partition_ids[first:end])
    if not items and first < info.partitions:
        raise UnknownTopicOrPartition("the topic was deleted")
    return Reply.of(PartitionList(items, cursor_after(str(end)) if end < info.partitions else None))


@partitions.get("/{partition}")
@describe(
    Description(
        permission=on("topic", "describe"),
        answers={200: PartitionAnswer},
        errors=(UnknownTopicOrPartition,),
        examples={"topic": "orders", "partition": 0},
    )
)
async def get_partition(call: Call, topic: str, partition: int) -> Reply:
    """Describe a partition: its first offset, the offset of the next record, and its size.

    `log_start_offset` is the first offset that can be read. `size_bytes` counts keys, values and headers.
    """
    info = await call.services.topics.refresh(topic)
    items = await _partitions(call, info, (partition_id_of(info, partition),))
    if not items:
        raise UnknownTopicOrPartition("the topic was deleted")
    return Reply.of(items[0])


@partitions.delete("/{partition}/records")
@describe(
    Description(
        permission=on("topic", "delete"),
        answers={200: LogStart},
        errors=(UnknownTopicOrPartition, OffsetAboveLogEnd),
        examples={"topic": "orders", "partition": 0, "before_offset": 0},
    )
)
async def delete_records(call: Call, topic: str, partition: int, query: DeleteRecordsQuery) -> Reply:
    """Delete the records of a partition before an offset.

    `before_offset` is then the `log_start_offset`, and reads below it are 410. The rows are removed in the background.
    An offset above `log_end_offset` is 416, and one below `log_start_offset` changes nothing.
    """
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
