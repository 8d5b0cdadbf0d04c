"""Queues: create, describe, change, delete, look, purge, redrive."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery, cursor_after, name_after, page_of
from app.api.http.wire import Description, WireRoute, check_bound, describe
from app.api.log import record_encoding
from app.api.log.record_encoding import FetchedRecord
from app.broker.queues.browse import BrowsedRecord, browse
from app.broker.queues.counts import QueueState
from app.broker.queues.queues import QueueRequest
from app.domain.queues.queue import Ordering, QueueInfo
from app.errors.database import DiskFull
from app.errors.log import InvalidCursor, InvalidTopicName, MessageTooLarge, UnknownTopicOrPartition
from app.errors.queues import InvalidQueueConfig, QueueAlreadyExists, UnknownQueue

router = APIRouter(prefix="/v1/queues", tags=["queues"], route_class=WireRoute)

_LockDuration = Annotated[int, Meta(description="From 1,000 to 3,600,000; 30,000 if not given.")]
_DeliveryCount = Annotated[int, Meta(description="From 1 to 100; 5 if not given.")]
_DeadLetters = Annotated[
    Annotated[str, Meta(max_length=249)], Meta(description="Where archived records are copied to; null for nowhere.")
]


class QueueSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a queue is to be; what is left out keeps its value or default."""

    topic: Annotated[
        str | None, Meta(description="The topic whose records it hands out; required for a new queue.")
    ] = None
    lock_duration_ms: _LockDuration | UnsetType = UNSET
    max_delivery_count: _DeliveryCount | UnsetType = UNSET
    dead_letter_topic: _DeadLetters | UnsetType | None = UNSET
    start: Annotated[
        Annotated[str, Meta(max_length=64)] | UnsetType,
        Meta(description="`earliest`, `latest`, `-N`, `@` and a time, or an offset; where the queue begins."),
    ] = UNSET
    ordering: Ordering | UnsetType = UNSET


class QueueChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to change; `null` gives a field its default."""

    lock_duration_ms: _LockDuration | UnsetType | None = UNSET
    max_delivery_count: _DeliveryCount | UnsetType | None = UNSET
    dead_letter_topic: _DeadLetters | UnsetType | None = UNSET
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


class QueueCounts(msgspec.Struct):
    """Records by state; `accepted`, `archived` and `expired` since the queue was created."""

    available: int
    acquired: int
    delayed: int
    accepted: int
    archived: int
    expired: int


class QueueDescription(QueueAnswer):
    """A queue and the state of its records.

    `blocked` tells that records wait and none may be acquired because of the order of their keys.
    """

    counts: QueueCounts
    oldest_age_ms: int | None
    blocked: bool
    dead_letter_error: str | None
    delayed_limit_reached: bool


class QueueList(msgspec.Struct):
    """A page of queues in order of their names; `next_cursor` is null at the end."""

    items: list[QueueAnswer]
    next_cursor: str | None


class Purged(msgspec.Struct):
    """How many records were archived."""

    purged: int


class RedriveRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters to send back."""

    dry_run: Annotated[bool, Meta(description="Only say what would be sent back.")] = True
    dead_letter_topic: Annotated[str | None, Meta(description="Where to look; the queue's own if not given.")] = None
    max_records: Annotated[int, Meta(ge=1, le=10_000)] = 10_000


class RedriveMove(msgspec.Struct):
    """Records that go back to a partition."""

    topic: str
    partition: int
    records: int


class RedriveAnswer(msgspec.Struct):
    """What goes back, or with `dry_run` would; `more` tells that another request has something to do."""

    dry_run: bool
    dead_letter_topic: str | None
    records: int
    more: bool
    plan: list[RedriveMove]


class LookQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which records to look at."""

    state: Annotated[
        Literal["available", "acquired", "delayed", "archived"], Meta(description="Archived: those archived last.")
    ] = "available"
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    cursor: Annotated[Annotated[str, Meta(max_length=512)] | None, Meta(description="next_cursor of a page.")] = None


class QueueRecord(msgspec.Struct, omit_defaults=True):
    """A record, and what the queue knows of it; `until_ms` ends its lock or delay, or is when it was archived."""

    state: Literal["available", "acquired", "delayed", "archived"]
    delivery_count: int
    record: FetchedRecord
    until_ms: int | None = None
    delivery_id: str | None = None
    reason: str | None = None


class QueueRecords(msgspec.Struct):
    """A page of records by partition and offset; `next_cursor` is null at the end."""

    items: list[QueueRecord]
    next_cursor: str | None


_JOBS = {"queue": "jobs"}
_REFUSALS = (InvalidQueueConfig, InvalidTopicName)


@router.put("/{queue}")
@describe(
    Description(
        answers={201: QueueAnswer, 200: QueueAnswer},
        refusals=(QueueAlreadyExists, *_REFUSALS),
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

    201 if it is new, 200 if it is there and no given field differs, else 409. The topic and the dead-letter topic are
    created if they are missing. Any number of queues may be over one topic, each with a state of its own.
    """
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    topic, dead_letter_topic = given.pop("topic"), given.pop("dead_letter_topic", UNSET)
    request = QueueRequest(topic, given, frozenset(), dead_letter_topic)
    info, made = await call.services.queues.create(queue, request)
    return Reply.of(_answer(info), 201 if made else 200)


@router.get("/{queue}")
@describe(Description(answers={200: QueueDescription}, refusals=(UnknownQueue,), examples=_JOBS))
async def get_queue(call: Call, queue: str) -> Reply:
    """Describe a queue and count its records.

    `available` is an upper bound where compaction made gaps. `oldest_age_ms` is the age of the first record
    by offset that has not ended, in the partition where it is oldest. A queue is deleted with its topic.
    """
    info, state = await call.services.queues.describe(queue)
    return Reply.of(_description(info, state))


@router.patch("/{queue}")
@describe(
    Description(
        answers={200: QueueAnswer},
        refusals=(UnknownQueue, *_REFUSALS),
        examples=_JOBS | {"body": {"lock_duration_ms": 60000, "paused": False}},
    )
)
async def alter_queue(call: Call, queue: str, body: QueueChange) -> Reply:
    """Change a queue, pause or resume it.

    `null` gives a field its default. While `paused`, nothing is acquired; what is acquired may be acknowledged.
    """
    said = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    dead_letter_topic = said.pop("dead_letter_topic", UNSET)
    given = {name: value for name, value in said.items() if value is not None}
    request = QueueRequest(None, given, frozenset(said) - frozenset(given), dead_letter_topic)
    return Reply.of(_answer(await call.services.queues.change(queue, request)))


@router.delete("/{queue}")
@describe(Description(answers={204: None}, refusals=(UnknownQueue,), examples=_JOBS))
async def delete_queue(call: Call, queue: str) -> Reply:
    """Delete a queue and all it knows; its topics stay."""
    await call.services.queues.delete(queue)
    return Reply(b"", 204)


@router.get("")
@describe(Description(answers={200: QueueList}, refusals=(InvalidCursor,)))
async def list_queues(call: Call, query: ListQuery) -> Reply:
    """List the queues in order of their names."""
    found = await call.services.queues.list_(name_after(query.cursor), query.limit + 1)
    page, cursor = page_of(found, query.limit)
    return Reply.of(QueueList([_answer(info) for info in page], cursor))


admin = APIRouter(prefix="/v1/queues", tags=["queues"], route_class=WireRoute)


@admin.get("/{queue}/records")
@describe(Description(answers={200: QueueRecords}, refusals=(UnknownQueue, InvalidCursor), examples=_JOBS))
async def list_queue_records(call: Call, queue: str, query: LookQuery) -> Reply:
    """Look at records of a queue without taking them.

    By partition and offset. `archived` are the last thousand of each partition, as far as the topic still has them.
    """
    place = (0, 0) if query.cursor is None else _place(query.cursor)
    info = await call.services.queues.get(queue)
    page = await call.services.storage.read(browse, info, query.state, place, query.limit)
    cursor = None if page.next_start is None else cursor_after("{}.{}".format(*page.next_start))
    return Reply.of(QueueRecords([_seen(each) for each in page.records], cursor))


@admin.post("/{queue}/purge")
@describe(Description(answers={200: Purged}, refusals=(UnknownQueue,), examples=_JOBS))
async def purge_queue(call: Call, queue: str) -> Reply:
    """Archive all records that wait, without dead letters.

    Delayed ones too. Records that somebody holds may still be acknowledged. The topic keeps its records.
    """
    return Reply.of(Purged(await call.services.queues.purge(queue)))


@admin.post("/{queue}/redrive")
@describe(
    Description(
        answers={200: RedriveAnswer},
        refusals=(UnknownQueue, UnknownTopicOrPartition, MessageTooLarge, DiskFull),
        examples=_JOBS | {"body": {"dry_run": True}},
    )
)
async def redrive_queue(call: Call, queue: str, body: RedriveRequest) -> Reply:
    """Send a queue's dead letters back to where they came from.

    Without `"dry_run": false` only the plan is made. Each dead letter of this queue is appended once, without the
    headers that told where it came from, to the topic and partition it came from: other readers of the topic see it
    again, too. The dead letters stay in their topic.
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


def _description(info: QueueInfo, state: QueueState) -> QueueDescription:
    whole: dict[str, object] = msgspec.structs.asdict(_answer(info))
    whole["counts"] = QueueCounts(*state[:6])
    whole |= {name: getattr(state, name) for name in state._fields[6:]}
    return msgspec.convert(whole, QueueDescription)


def _seen(seen: BrowsedRecord) -> QueueRecord:
    return QueueRecord(
        seen.state,
        seen.delivery_count,
        record_encoding.record_out(seen.partition, seen.record),
        seen.until_ms or None,
        None if seen.delivery_id is None else str(seen.delivery_id),
        seen.reason,
    )


def _place(cursor: str) -> tuple[int, int]:
    partition, _, offset = name_after(cursor).partition(".")
    if not (partition.isdecimal() and offset.isdecimal() and len(partition) <= 4 and len(offset) <= 15):
        raise InvalidCursor("the cursor is not one of this list; use next_cursor as it was given")
    return int(partition), int(offset)
