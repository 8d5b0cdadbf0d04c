"""Routes that create, describe, change, list and delete queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.authorization import confirming, refuse_hidden
from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery
from app.api.http.lists import visible_page
from app.api.http.operations import Description, OperationRoute, describe
from app.api.log.warnings import FieldWarning, duration_warning
from app.api.queues.queue_access import check_change, check_topics
from app.broker.queues.counts import QueueState
from app.broker.queues.queues import QueueRequest
from app.domain.access.permission import ANY_PRINCIPAL, on
from app.domain.queues.queue import BOUNDS, Ordering, QueueInfo
from app.errors.limits import PolicyViolation
from app.errors.log import InvalidCursor, InvalidTopicName
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


_JOBS = {"queue": "jobs"}
_ERRORS = (InvalidQueueConfig, InvalidTopicName)


@router.put("/{queue}")
@describe(
    Description(
        permission=on("queue", "create"),
        answers={201: ChangedQueueAnswer, 200: ChangedQueueAnswer},
        errors=(QueueAlreadyExists, PolicyViolation, *_ERRORS),
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
    await check_topics(call, request)
    with confirming(call, "queue", queue):
        made = await call.services.queues.create(queue, request)
    if not made.is_new:
        refuse_hidden(call, "queue", queue)
    return Reply.of(_changed(made.info, made.created_topics, request), 201 if made.is_new else 200)


@router.get("/{queue}")
@describe(
    Description(
        permission=on("queue", "describe"), answers={200: QueueDescription}, errors=(UnknownQueue,), examples=_JOBS
    )
)
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
        permission=on("queue", "alter"),
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
    await check_change(call, queue, request)
    info, created_topics = await call.services.queues.change(queue, request)
    return Reply.of(_changed(info, created_topics, request))


@router.delete("/{queue}")
@describe(Description(permission=on("queue", "delete"), answers={204: None}, errors=(UnknownQueue,), examples=_JOBS))
async def delete_queue(call: Call, queue: str) -> Reply:
    """Delete a queue with its state; its topics stay.

    Deliveries that are acquired can no longer be acknowledged. A new queue with this name starts again at its `start`.
    """
    await call.services.queues.delete(queue)
    return Reply(b"", 204)


@router.get("")
@describe(Description(permission=ANY_PRINCIPAL, answers={200: QueueList}, errors=(InvalidCursor,)))
async def list_queues(call: Call, query: ListQuery) -> Reply:
    """List the queues in order of their names.

    Each has its whole configuration; the counts of its records are at `GET /v1/queues/{queue}`.
    """
    page, cursor = await visible_page(call, "queue", call.services.queues.list_, query)
    return Reply.of(QueueList([_answer(info) for info in page], cursor))


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
