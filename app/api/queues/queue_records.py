"""Routes for all records of a queue at once: browse, purge and redrive them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.http.call import Call, Reply
from app.api.http.cursors import cursor_after, name_after
from app.api.http.operations import Description, OperationRoute, check_bound, describe
from app.api.queues.queue_access import check_redrive, check_source
from app.broker.queues.browse import BrowsedRecord, browse
from app.domain.access.permission import on
from app.domain.log import record_json
from app.domain.log.record_json import FetchedRecord
from app.errors.database import DiskFull
from app.errors.log import InvalidCursor, InvalidRecord, MessageTooLarge, UnknownTopicOrPartition
from app.errors.queues import UnknownQueue

router = APIRouter(prefix="/v1/queues", tags=["queues"], route_class=OperationRoute)


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


@router.get("/{queue}/records")
@describe(
    Description(
        permission=on("queue", "read"),
        answers={200: QueueRecords},
        errors=(UnknownQueue, InvalidCursor),
        examples=_JOBS,
    )
)
async def list_queue_records(call: Call, queue: str, query: BrowseQuery) -> Reply:
    """List records of a queue without acquiring them.

    They are in order of partition and offset. `archived` lists the last thousand of each partition that the topic still
    has.
    """
    await check_source(call, queue)
    start = (0, 0) if query.cursor is None else _start(query.cursor)
    info = await call.services.queues.get(queue)
    page = await call.services.storage.read(browse, info, query.state, start, query.limit)
    cursor = None if page.next_start is None else cursor_after("{}.{}".format(*page.next_start))
    return Reply.of(QueueRecords([_record(each) for each in page.records], cursor))


@router.post("/{queue}/purge")
@describe(Description(permission=on("queue", "delete"), answers={200: Purged}, errors=(UnknownQueue,), examples=_JOBS))
async def purge_queue(call: Call, queue: str) -> Reply:
    """Archive all available and delayed records, without dead letters.

    Acquired records can still be acknowledged. The topic keeps its records.
    """
    return Reply.of(Purged(await call.services.queues.purge(queue)))


@router.post("/{queue}/redrive")
@describe(
    Description(
        permission=on("queue", "alter"),
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
    await check_redrive(call, queue, body.dead_letter_topic)
    done = await call.services.redriver.redrive(queue, body.dead_letter_topic, body.max_records, dry_run=body.dry_run)
    topic = (await call.services.queues.get(queue)).topic
    plan = [RedriveMove(topic, partition, number) for partition, number in done.partitions.items()]
    return Reply.of(
        RedriveAnswer(body.dry_run, done.dead_letter_topic, sum(done.partitions.values()), done.remaining, plan)
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
