"""Routes that send records again to one webhook: a record, a range, its dead letters."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.authorization import require_all
from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.webhooks.replays.replays import ReplayRequest
from app.domain.access.permission import on
from app.domain.log.offset_spec import parse_offset_spec
from app.domain.webhooks.replay import Only, ReplayInfo, ReplayPlan, ReplayStatus
from app.errors.log import UnknownTopicOrPartition
from app.errors.webhooks import InvalidWebhookConfig, ReplaysLimit, UnknownReplay, UnknownWebhook

router = APIRouter(prefix="/v1/webhooks/{webhook}", tags=["webhooks"], route_class=OperationRoute)

_Spec = Annotated[str, Meta(max_length=64)]


class RedeliverRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The record to send again."""

    topic: Annotated[str, Meta(max_length=249)]
    partition: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The range to send again; `from` and `to` are offset specifications, `to` is exclusive."""

    topic: Annotated[str, Meta(max_length=249)]
    start: Annotated[_Spec, Meta(description="An offset, `earliest`, `-N`, or `@` and a time.")] = msgspec.field(
        default="earliest", name="from"
    )
    to: Annotated[_Spec | None, Meta(description="Exclusive; the end of the log if it is not given.")] = None
    partition: Annotated[int, Meta(ge=0)] | None = None
    only: Annotated[Only, Meta(description="`failed`: records with attempts, none of which delivered them.")] = "all"
    dry_run: Annotated[bool, Meta(description="Only return the plan.")] = True


class RedriveBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Whether to only return the plan."""

    dry_run: bool = True


class PlannedRange(msgspec.Struct):
    """The records of a partition from an offset to another, which is exclusive."""

    partition: int
    from_offset: int
    to_offset: int


class ReplayPlanned(msgspec.Struct, omit_defaults=True):
    """The plan, or the replay that has begun; compaction and filter may leave fewer records."""

    dry_run: bool
    topic: str
    records: int
    ranges: list[PlannedRange]
    replay_id: int | UnsetType = UNSET


class ReplayAnswer(msgspec.Struct):
    """A replay and its progress."""

    replay_id: int
    status: ReplayStatus
    topic: str
    records: int
    delivered: int
    filtered: int
    failed: int
    created_at_ms: int
    ended_at_ms: int | None


_RECEIVER = {"webhook": "billing"}
_ERRORS = (UnknownWebhook, UnknownTopicOrPartition, InvalidWebhookConfig, ReplaysLimit)


@router.post("/redeliver")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={202: ReplayPlanned},
        errors=_ERRORS,
        examples=_RECEIVER | {"body": {"topic": "orders", "partition": 0, "offset": 0}},
    )
)
async def redeliver(call: Call, webhook: str, body: RedeliverRequest) -> Reply:
    """Send one record again to this webhook, whatever became of it, with the same `webhook-id`.

    The answer is 202 at once; `GET …/replays/{replay_id}` tells what became of it.
    """
    require_all(call, "read", "topic", [body.topic])
    replays = call.services.replays
    webhook_id, plan = await replays.plan_record(webhook, body.topic, body.partition, body.offset)
    return Reply.of(_planned(plan, await replays.begin(webhook_id, plan)), 202)


@router.post("/replay")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={200: ReplayPlanned, 202: ReplayPlanned},
        errors=_ERRORS,
        examples=_RECEIVER | {"body": {"topic": "orders", "from": "earliest", "dry_run": True}},
    )
)
async def replay_webhook(call: Call, webhook: str, body: ReplayBody) -> Reply:
    """Send a range of records again to this webhook only; with `dry_run`, which is the default, return the plan.

    The range is resolved once. The filter applies. Records keep their `webhook-id` and their order within a partition,
    and go beside the new records.
    """
    require_all(call, "read", "topic", [body.topic])
    to = None if body.to is None else parse_offset_spec(body.to, "to")
    request = ReplayRequest(body.topic, parse_offset_spec(body.start, "from"), to, body.partition, body.only)
    webhook_id, plan = await call.services.replays.plan(webhook, request)
    return await _reply(call, webhook_id, plan, dry_run=body.dry_run)


@router.post("/redrive")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={200: ReplayPlanned, 202: ReplayPlanned},
        errors=_ERRORS,
        examples=_RECEIVER | {"body": {"dry_run": True}},
    )
)
async def redrive_webhook(call: Call, webhook: str, body: RedriveBody) -> Reply:
    """Send the dead letters of this webhook again, to this webhook only; with `dry_run` return the plan.

    Each is sent as its original record. Those that were delivered since are passed over.
    """
    if call.access is not None:
        letters = (await call.services.webhooks.get(webhook)).info.config.dead_letters
        require_all(call, "read", "topic", [] if letters is None else [letters])
    webhook_id, plan = await call.services.replays.plan_letters(webhook)
    return await _reply(call, webhook_id, plan, dry_run=body.dry_run)


@router.get("/replays/{replay_id}")
@describe(
    Description(
        permission=on("webhook", "describe"),
        answers={200: ReplayAnswer},
        errors=(UnknownWebhook, UnknownReplay),
        examples=_RECEIVER | {"replay_id": 1},
    )
)
async def describe_replay(call: Call, webhook: str, replay_id: int) -> Reply:
    """Describe a replay and its progress.

    It is kept for a day after its end.
    """
    return Reply.of(_answer(await call.services.replays.get(webhook, replay_id)))


@router.delete("/replays/{replay_id}")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={204: None},
        errors=(UnknownWebhook, UnknownReplay),
        examples=_RECEIVER | {"replay_id": 1},
    )
)
async def cancel_replay(call: Call, webhook: str, replay_id: int) -> Reply:
    """End a replay.

    A record that is being sent still ends.
    """
    await call.services.replays.cancel(webhook, replay_id)
    return Reply(b"", 204)


async def _reply(call: Call, webhook_id: int, plan: ReplayPlan, *, dry_run: bool) -> Reply:
    if dry_run:
        return Reply.of(_planned(plan, None))
    return Reply.of(_planned(plan, await call.services.replays.begin(webhook_id, plan)), 202)


def _planned(plan: ReplayPlan, replay_id: int | None) -> ReplayPlanned:
    ranges = [PlannedRange(each.partition, each.from_offset, each.to_offset) for each in plan.ranges[:1_000]]
    return ReplayPlanned(replay_id is None, plan.topic, plan.records, ranges, UNSET if replay_id is None else replay_id)


def _answer(info: ReplayInfo) -> ReplayAnswer:
    progress = info.progress
    return ReplayAnswer(
        info.replay_id,
        info.status,
        info.plan.topic,
        info.plan.records,
        progress.delivered,
        progress.filtered,
        progress.failed,
        info.created_at_ms,
        info.ended_at_ms,
    )
