"""The route that passes over what waits for a webhook."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.http.authorization import require_all
from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.webhooks.replays.skips import SkipRequest
from app.domain.access.permission import on
from app.domain.log.offset_spec import parse_offset_spec
from app.errors.log import UnknownTopicOrPartition
from app.errors.webhooks import InvalidWebhookConfig, UnknownWebhook

router = APIRouter(prefix="/v1/webhooks/{webhook}", tags=["webhooks"], route_class=OperationRoute)


class SkipBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Up to where to pass over what waits."""

    topic: Annotated[str, Meta(max_length=249)]
    to: Annotated[str, Meta(max_length=64, description="Exclusive: `latest`, an offset, `-N`, or `@` and a time.")] = (
        "latest"
    )
    partition: Annotated[int, Meta(ge=0)] | None = None
    dry_run: Annotated[bool, Meta(description="Only return the plan.")] = True


class SkippedPartition(msgspec.Struct):
    """The records of a partition that wait below an offset."""

    partition: int
    to_offset: int
    records: int


class SkippedRecords(msgspec.Struct):
    """What is passed over, or with `dry_run` would be."""

    dry_run: bool
    topic: str
    records: int
    partitions: list[SkippedPartition]


@router.post("/skip")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={200: SkippedRecords},
        errors=(UnknownWebhook, UnknownTopicOrPartition, InvalidWebhookConfig),
        examples={"webhook": "billing", "body": {"topic": "orders", "to": "latest", "dry_run": True}},
    )
)
async def skip_records(call: Call, webhook: str, body: SkipBody) -> Reply:
    """Pass over the records that wait for this webhook, and end those that are retried.

    With `dry_run`, which is the default, return the plan. What is being sent now still arrives.
    """
    require_all(call, "read", "topic", [body.topic])
    skips = call.services.skips
    request = SkipRequest(body.topic, parse_offset_spec(body.to, "to"), body.partition)
    found = await (skips.plan(webhook, request) if body.dry_run else skips.skip(webhook, request))
    partitions = [SkippedPartition(each.partition, each.to_offset, each.records) for each in found]
    return Reply.of(SkippedRecords(body.dry_run, body.topic, sum(each.records for each in found), partitions))
