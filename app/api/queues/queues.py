"""Routes that create, describe, change, delete, browse, purge and redrive queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery, cursor_after, name_after, page_of
from app.api.http.operations import Description, OperationRoute, check_bound, describe
from app.api.log.warnings import FieldWarning, duration_warning
from app.broker.queues.browse import BrowsedRecord, browse
from app.broker.queues.counts import QueueState
from app.broker.queues.queues import QueueRequest
from app.domain.log import record_json
from app.domain.log.record_json import FetchedRecord
from app.domain.queues.queue import BOUNDS, Ordering, QueueInfo
from app.errors.database import DiskFull
from app.errors.log import InvalidCursor, InvalidRecord, InvalidTopicName, MessageTooLarge, UnknownTopicOrPartition
from app.errors.queues import InvalidQueueConfig, QueueAlreadyExists, UnknownQueue

router = APIRouter(prefix="/v1/queues", tags=["queues"], route_class=OperationRoute)


def _bounds(name: str) -> dict[str, object]:
    """Return the bounds of a setting for the document; the domain checks them."""
    low, high = BOUNDS[name]
    return {"minimum": low, "maximum": high}


_LockDuration = Annotated[
    int,
    Meta(description="From 1,000 to 3,600,000; 30,000 if not given.", extra_json_schema=_bounds("lock_duration_ms")),
]
_DeliveryCount = Annotated[
    int, Meta(description="From 1 to 100; 5 if not given.", extra_json_schema=_bounds("max_delivery_count"))
]
_DeadLetterTopic = Annotated[
    Annotated[str, Meta(max_length=249)], Meta(description="Topic that archived records are copied to; null for none.")
]


class QueueSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The settings of a queue; a field that is not given keeps its value or its default."""

    topic: Annotated[str | None, Meta(description="Topic whose records it delivers; required for a new queue.")] = None
    lock_duration_ms: _LockDuration | UnsetType = UNSET
    max_delivery_count: _DeliveryCount | UnsetType = UNSET
    dead_letter_topic: _DeadLetterTopic | UnsetType | None = UNSET
    start: Annotated[
        Annotated[str, Meta(max_length=64)] | UnsetType,
        Meta(description="Where the queue starts: `earliest`, `latest`, `-N`, `@` and a time, or an offset."),
    ] = UNSET
    ordering: Ordering | UnsetType = UNSET


class QueueChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields to change; `null` resets a field to its default."""

    lock_duration_ms: _LockDuration | UnsetType | None = UNSET
    max_delivery_count: _DeliveryCount | UnsetType | None = UNSET
    dead_letter_topic: _DeadLetterTopic | UnsetType | None = UNSET
    paused: bool | UnsetType | None = UNSET


class QueueAnswer(msgspec.Struct):
    """A queue with its whole configuration."""

    name: str
    topic: str
    lock_duration_ms: int
    max_delivery_count: int
    dead_letter_topic: str | None
    start: str
    ordering: Ordering
    paused: bool
    created_at_ms: int


class ChangedQueueAnswer(QueueAnswer):
    """A queue after a change.

    `created_topics` names the topic and the dead-letter topic if they did not exist and were created. `warnings` has
    the fields of the request that are very likely a mistake, such as a duration in seconds. Both are omitted if empty.
    """

    created_topics: list[str] | UnsetType = UNSET
    warnings: list[FieldWarning] | UnsetType = UNSET


class QueueCounts(msgspec.Struct):
    """Number of records by state; `accepted`, `archived` and `expired` count from the creation of the queue."""

    available: int
    acquired: int
    delayed: int
    accepted: int
    archived: int
    expired: int


class QueueDescription(QueueAnswer):
    """A queue and the state of its records.

    `blocked` is true if records are available and the order of their keys allows none to be acquired.
    """

    counts: QueueCounts
    oldest_age_ms: int | None
    blocked: bool
    dead_letter_error: str | None
    delayed_limit_reached: bool


class QueueList(msgspec.Struct):
    """A page of queues in order of their names; `next_cursor` is null on the last page."""

    items: list[QueueAnswer]
    next_cursor: str | None


class Purged(msgspec.Struct):
    """How many records were archived."""

    purged: int


class RedriveRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters to redrive."""

    dry_run: Annotated[bool, Meta(description="Only return the plan.")] = True
    dead_letter_topic: Annotated[
        str | None, Meta(description="Topic of the dead letters; if not given, that of the queue.")
    ] = None
    max_records: Annotated[int, Meta(ge=1, le=10_000)] = 10_000


class RedriveMove(msgspec.Struct):
    """The number of records that are redriven to a partition."""

    topic: str
    partition: int
    records: int


class RedriveAnswer(msgspec.Struct):
    """The redriven records, or with `dry_run` the plan; `more` is true if another request may redrive more."""

    dry_run: bool
    dead_letter_topic: str | None
    records: int
    more: bool
    plan: list[RedriveMove]


class BrowseQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which records to list."""

    state: Annotated[
        Literal["available", "acquired", "delayed", "archived"],
        Meta(description="`archived` lists those archived last."),
    ] = "available"
    limit: Annotated[int, Meta(ge=1, le=1_000, description="Number of records on a page.")] = 100
    cursor: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="next_cursor of the previous page.", examples=["MC4xMA=="]),
    ] = None


class QueueRecord(msgspec.Struct, omit_defaults=True):
    """A record with its state; `until_ms` is the end of its lock or delay, or the time at which it was archived."""

    state: Literal["available", "acquired", "delayed", "archived"]
    delivery_count: int
    record: FetchedRecord
    until_ms: int | None = None
    delivery_id: str | None = None
    reason: str | None = None


class QueueRecords(msgspec.Struct):
    """A page of records in order of partition and offset; `next_cursor` is null on the last page."""

    items: list[QueueRecord]
    next_cursor: str | None


_JOBS = {"queue": "jobs"}
_ERRORS = (InvalidQueueConfig, InvalidTopicName)


@router.put("/{queue}")
@describe(
    Description(
        answers={201: ChangedQueueAnswer, 200: ChangedQueueAnswer},
        errors=(QueueAlreadyExists, *_ERRORS),
        examples=_JOBS
        | {
            "body": {
                "topic": "orders",
                "lock_duration_ms": 30000,
                "max_delivery_count": 5,
                "dead_letter_topic": "orders-dead",
                "start": "earliest",
                "ordering": "none",
            }
        },
    )
)
async def create_queue(call: Call, queue: str, body: QueueSettings) -> Reply:
    """Create a queue over a topic, or confirm it.

    The status is 201 if the queue is new, 200 if it exists and no given field differs, else 409. The topic and the
    dead-letter topic are created if they are missing; `created_topics` names them. A topic may have any number of
    queues, each with its own state.
    """
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    topic, dead_letter_topic = given.pop("topic"), given.pop("dead_letter_topic", UNSET)
    request = QueueRequest(topic, given, frozenset(), dead_letter_topic)
    made = await call.services.queues.create(queue, request)
    return Reply.of(_changed(made.info, made.created_topics, request), 201 if made.is_new else 200)


@router.get("/{queue}")
@describe(Description(answers={200: QueueDescription}, errors=(UnknownQueue,), examples=_JOBS))
async def get_queue(call: Call, queue: str) -> Reply:
    """Describe a queue and count its records.

    `available` is an upper bound if compaction has made gaps. `oldest_age_ms` is the age of the first record
    by offset that has not ended, in the partition where it is oldest. A queue is deleted with its topic.
    """
    info, state = await call.services.queues.describe(queue)
    return Reply.of(_description(info, state))


@router.patch("/{queue}")
@describe(
    Description(
        answers={200: ChangedQueueAnswer},
        errors=(UnknownQueue, *_ERRORS),
        examples=_JOBS | {"body": {"lock_duration_ms": 60000, "paused": False}},
    )
)
async def alter_queue(call: Call, queue: str, body: QueueChange) -> Reply:
    """Change a queue, pause or resume it.

    `null` resets a field to its default. While a queue is paused, no records are acquired, and acquired records can
    still be acknowledged.
    """
    fields = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    dead_letter_topic = fields.pop("dead_letter_topic", UNSET)
    given = {name: value for name, value in fields.items() if value is not None}
    request = QueueRequest(None, given, frozenset(fields) - frozenset(given), dead_letter_topic)
    info, created_topics = await call.services.queues.change(queue, request)
    return Reply.of(_changed(info, created_topics, request))


@router.delete("/{queue}")
@describe(Description(answers={204: None}, errors=(UnknownQueue,), examples=_JOBS))
async def delete_queue(call: Call, queue: str) -> Reply:
    """Delete a queue with its state; its topics stay.

    Deliveries that are acquired can no longer be acknowledged. A new queue with this name starts again at its `start`.
    """
    await call.services.queues.delete(queue)
    return Reply(b"", 204)


@router.get("")
@describe(Description(answers={200: QueueList}, errors=(InvalidCursor,)))
async def list_queues(call: Call, query: ListQuery) -> Reply:
    """List the queues in order of their names.

    Each has its whole configuration; the counts of its records are at `GET /v1/queues/{queue}`.
    """
    found = await call.services.queues.list_(name_after(query.cursor), query.limit + 1)
    page, cursor = page_of(found, query.limit)
    return Reply.of(QueueList([_answer(info) for info in page], cursor))


admin = APIRouter(prefix="/v1/queues", tags=["queues"], route_class=OperationRoute)


@admin.get("/{queue}/records")
@describe(Description(answers={200: QueueRecords}, errors=(UnknownQueue, InvalidCursor), examples=_JOBS))
async def list_queue_records(call: Call, queue: str, query: BrowseQuery) -> Reply:
    """List records of a queue without acquiring them.

    They are in order of partition and offset. `archived` lists the last thousand of each partition that the topic still
    has.
    """
    start = (0, 0) if query.cursor is None else _start(query.cursor)
    info = await call.services.queues.get(queue)
    page = await call.services.storage.read(browse, info, query.state, start, query.limit)
    cursor = None if page.next_start is None else cursor_after("{}.{}".format(*page.next_start))
    return Reply.of(QueueRecords([_record(each) for each in page.records], cursor))


@admin.post("/{queue}/purge")
@describe(Description(answers={200: Purged}, errors=(UnknownQueue,), examples=_JOBS))
async def purge_queue(call: Call, queue: str) -> Reply:
    """Archive all available and delayed records, without dead letters.

    Acquired records can still be acknowledged. The topic keeps its records.
    """
    return Reply.of(Purged(await call.services.queues.purge(queue)))


@admin.post("/{queue}/redrive")
@describe(
    Description(
        answers={200: RedriveAnswer},
        errors=(UnknownQueue, UnknownTopicOrPartition, MessageTooLarge, InvalidRecord, DiskFull),
        examples=_JOBS | {"body": {"dry_run": True}},
    )
)
async def redrive_queue(call: Call, queue: str, body: RedriveRequest) -> Reply:
    """Append the dead letters of a queue to the partitions that they came from.

    Without `"dry_run": false` the response is only a plan. Each dead letter of this queue is appended once, without the
    headers of its origin, to the topic and partition that it came from, so other readers of the topic get it again,
    too. The dead letters stay in their topic.
    """
    check_bound("max_records", body.max_records, call.services.max_records)
    done = await call.services.redriver.redrive(queue, body.dead_letter_topic, body.max_records, dry_run=body.dry_run)
    topic = (await call.services.queues.get(queue)).topic
    plan = [RedriveMove(topic, partition, number) for partition, number in done.partitions.items()]
    return Reply.of(
        RedriveAnswer(body.dry_run, done.dead_letter_topic, sum(done.partitions.values()), done.remaining, plan)
    )


def _answer(info: QueueInfo) -> QueueAnswer:
    config = info.config
    return QueueAnswer(
        info.name,
        info.topic,
        config.lock_duration_ms,
        config.max_delivery_count,
        info.dead_letter_topic,
        config.start,
        config.ordering,
        config.paused,
        info.created_at_ms,
    )


def _changed(info: QueueInfo, created_topics: Sequence[str], request: QueueRequest) -> ChangedQueueAnswer:
    lock_duration_ms = request.given.get("lock_duration_ms")
    warnings = duration_warning("lock_duration_ms", lock_duration_ms, BOUNDS["lock_duration_ms"][1])
    return ChangedQueueAnswer(
        **msgspec.structs.asdict(_answer(info)),
        created_topics=list(created_topics) or UNSET,
        warnings=warnings or UNSET,
    )


def _description(info: QueueInfo, state: QueueState) -> QueueDescription:
    counts = QueueCounts(state.available, state.acquired, state.delayed, state.accepted, state.archived, state.expired)
    return QueueDescription(
        **msgspec.structs.asdict(_answer(info)),
        counts=counts,
        oldest_age_ms=state.oldest_age_ms,
        blocked=state.blocked,
        dead_letter_error=state.dead_letter_error,
        delayed_limit_reached=state.delayed_limit_reached,
    )


def _record(browsed: BrowsedRecord) -> QueueRecord:
    return QueueRecord(
        browsed.state,
        browsed.delivery_count,
        record_json.record_out(browsed.partition, browsed.record),
        browsed.until_ms or None,
        None if browsed.delivery_id is None else str(browsed.delivery_id),
        browsed.reason,
    )


def _start(cursor: str) -> tuple[int, int]:
    """Return the partition and offset of a cursor."""
    partition, _, offset = name_after(cursor).partition(".")
    if not (partition.isdecimal() and offset.isdecimal() and len(partition) <= 4 and len(offset) <= 15):
        raise InvalidCursor("the cursor is not one of this list; use next_cursor as it was given")
    return int(partition), int(offset)
