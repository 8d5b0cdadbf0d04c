"""Routes of the attempts of webhooks: list them, and send a test."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.http.call import Call, Reply
from app.api.http.cursors import cursor_after, id_before
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.webhooks.deliveries.sender import AttemptOutcome
from app.domain.access.permission import on
from app.errors.log import InvalidCursor
from app.errors.webhooks import UnknownWebhook
from app.storage.webhooks.attempts import Attempt, AttemptQuery

router = APIRouter(prefix="/v1/webhooks/{webhook}", tags=["webhooks"], route_class=OperationRoute)

_MAX_INT = 2**53 - 1


class AttemptListQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which attempts to list."""

    outcome: Annotated[
        Literal["delivered", "failed", "timed_out", "blocked", "not_sent"] | None,
        Meta(description="Only attempts with this outcome.", examples=["failed"]),
    ] = None
    topic: Annotated[
        Annotated[str, Meta(max_length=249)] | None,
        Meta(description="Only attempts for records of this topic.", examples=["orders"]),
    ] = None
    partition: Annotated[
        Annotated[int, Meta(ge=0, le=_MAX_INT)] | None,
        Meta(description="Only those of this partition.", examples=[0]),
    ] = None
    offset: Annotated[
        Annotated[int, Meta(ge=0, le=_MAX_INT)] | None,
        Meta(description="Only those of the record at this offset.", examples=[0]),
    ] = None
    limit: Annotated[int, Meta(ge=1, le=1_000, description="Number of items on a page.")] = 100
    cursor: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="next_cursor of the previous page.", examples=["Nw=="]),
    ] = None


class AttemptAnswer(msgspec.Struct):
    """One attempt for one record; a test has no record. `response_body` is text, or `base64:` and base64."""

    attempt_id: int
    message_id: str
    topic: str | None
    partition: int | None
    offset: int | None
    attempt: int
    at_ms: int
    duration_ms: int
    outcome: AttemptOutcome
    status: int | None
    error: str | None
    response_headers: list[tuple[str, str]]
    response_body: str | None
    next_attempt_at_ms: int | None


class AttemptList(msgspec.Struct):
    """A page of attempts, the last one first; `next_cursor` is null on the last page."""

    items: list[AttemptAnswer]
    next_cursor: str | None


class TestedWebhook(msgspec.Struct):
    """The attempt of a test."""

    attempt: AttemptAnswer


@router.post("/test")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={200: TestedWebhook},
        errors=(UnknownWebhook,),
        examples={"webhook": "billing"},
    )
)
async def test_webhook(call: Call, webhook: str) -> Reply:
    """Send a signed ping now, also if the webhook is paused.

    The status is 200 whatever the receiver answers.
    """
    attempt = await call.services.dispatcher.test(await call.services.webhooks.get(webhook))
    return Reply.of(TestedWebhook(_answer(attempt, shows_response=True)))


@router.get("/attempts")
@describe(
    Description(
        permission=on("webhook", "describe"),
        answers={200: AttemptList},
        errors=(UnknownWebhook, InvalidCursor),
        examples={"webhook": "billing", "limit": 10},
    )
)
async def list_webhook_attempts(call: Call, webhook: str, query: AttemptListQuery) -> Reply:
    """List the attempts of a webhook, the last one first.

    Delivered attempts and others are kept apart, up to 10,000 of each and for 14 days.
    """
    shows_response = call.access is None or call.access.allows("alter", "webhook", webhook)
    before = id_before(query.cursor)
    wanted = AttemptQuery(query.outcome, query.topic, query.partition, query.offset)
    found = await call.services.webhooks.attempts(webhook, wanted, before, query.limit + 1)
    page = found[: query.limit]
    next_cursor = cursor_after(str(page[-1].attempt_id)) if len(found) > query.limit else None
    return Reply.of(AttemptList([_answer(each, shows_response=shows_response) for each in page], next_cursor))


def _answer(attempt: Attempt, *, shows_response: bool) -> AttemptAnswer:
    """Return an attempt; what the receiver answered may have secrets, and is for those who may alter the webhook."""
    outcome: AttemptOutcome = attempt.outcome  # type: ignore[assignment] # stored as text
    return AttemptAnswer(
        attempt.attempt_id,
        attempt.message_id,
        attempt.topic,
        attempt.partition,
        attempt.offset,
        attempt.attempt,
        attempt.at_ms,
        attempt.duration_ms,
        outcome,
        attempt.status,
        attempt.error,
        list(attempt.response_headers) if shows_response else [],
        _text(attempt.response_body) if shows_response and attempt.response_body is not None else None,
        attempt.next_attempt_at_ms,
    )


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "base64:" + b64encode(body).decode()
