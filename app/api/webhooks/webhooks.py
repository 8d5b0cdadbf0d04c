"""Routes that create, describe, change and delete webhooks, and rotate their secrets."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery
from app.api.http.lists import visible_page
from app.api.http.operations import Description, OperationRoute, describe
from app.api.webhooks import webhook_access
from app.broker.webhooks.webhook_states import WebhookState
from app.broker.webhooks.webhooks import WebhookSecrets
from app.domain.access.permission import ANY_PRINCIPAL, on
from app.domain.webhooks.breaker import BreakerState
from app.domain.webhooks.webhook import Mode, OnExhausted, Ordering, SignatureScheme, Status, WebhookInfo
from app.errors.limits import PolicyViolation
from app.errors.log import InvalidCursor, InvalidTopicName
from app.errors.webhooks import InvalidWebhookConfig, SecretKeyMissing, UnknownWebhook, WebhookAlreadyExists

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=OperationRoute)

_Topics = Annotated[list[str], Meta(description="Topics whose records are sent; missing ones are created.")]
_Pattern = Annotated[
    Annotated[str, Meta(max_length=249)], Meta(description="Instead of topics: a glob such as `orders.*`.")
]
_Start = Annotated[
    Annotated[str, Meta(max_length=64)],
    Meta(description="Where it starts: `latest` (default), `earliest`, `-N`, `@` and a time, or an offset."),
]
_Filter = Annotated[
    dict[str, Any],
    Meta(description='Which records are sent, such as `{"value": "/type", "equals": "paid"}`; see the guide.'),
]
_Headers = Annotated[
    dict[str, str], Meta(description="Static headers; encrypted at rest and never returned.", max_length=20)
]
_InFlight = Annotated[int, Meta(description="Attempts at once, 1 to 64; 4 if not given.")]
_Batch = Annotated[int, Meta(description="Records of an attempt in batch modes, 1 to 100; 100 if not given.")]
_Timeout = Annotated[int, Meta(description="Limit of an attempt, 1,000 to 30,000; 15,000 if not given.")]
_Rate = Annotated[int, Meta(description="Attempts per second at most; null for no limit.")]
_Delays = Annotated[list[int], Meta(description="Delay after each failed attempt; 5 s to 24 h, ten attempts in all.")]
_Url = Annotated[str, Meta(max_length=2048)]
_Secret = Annotated[
    str,
    Meta(max_length=128, description="`whsec_` and the base64 of 24 to 64 bytes, of 32 with ed25519; made if missing."),
]
_DeadLetters = Annotated[Annotated[str, Meta(max_length=249)], Meta(description="With on_exhausted dead_letter.")]
_Text = Annotated[str, Meta(max_length=1024)]


class WebhookSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The settings of a webhook; a field that is not given keeps its value or its default."""

    url: Annotated[_Url | UnsetType, Meta(description="Where records are posted; required for a new one.")] = UNSET
    topics: _Topics | UnsetType = UNSET
    topic_pattern: _Pattern | UnsetType | None = UNSET
    start: _Start | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET
    ordering: Ordering | UnsetType = UNSET
    max_in_flight: _InFlight | UnsetType = UNSET
    max_batch_records: _Batch | UnsetType = UNSET
    filter: _Filter | UnsetType | None = UNSET
    headers: _Headers | UnsetType | None = UNSET
    secret: _Secret | UnsetType = UNSET
    signature: SignatureScheme | UnsetType = UNSET
    timeout_ms: _Timeout | UnsetType = UNSET
    rate_limit_per_s: _Rate | UnsetType | None = UNSET
    retry_delays_ms: _Delays | UnsetType = UNSET
    on_exhausted: OnExhausted | UnsetType = UNSET
    dead_letter_topic: _DeadLetters | UnsetType | None = UNSET
    description: _Text | UnsetType = UNSET
    paused: bool | UnsetType = UNSET


class WebhookChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields to change; `null` resets a field to its default. `paused` false also enables a disabled webhook."""

    url: _Url | UnsetType = UNSET
    topics: _Topics | UnsetType | None = UNSET
    topic_pattern: _Pattern | UnsetType | None = UNSET
    start: _Start | UnsetType | None = UNSET
    mode: Mode | UnsetType | None = UNSET
    ordering: Ordering | UnsetType | None = UNSET
    max_in_flight: _InFlight | UnsetType | None = UNSET
    max_batch_records: _Batch | UnsetType | None = UNSET
    filter: _Filter | UnsetType | None = UNSET
    headers: _Headers | UnsetType | None = UNSET
    secret: _Secret | UnsetType | None = UNSET
    signature: SignatureScheme | UnsetType | None = UNSET
    timeout_ms: _Timeout | UnsetType | None = UNSET
    rate_limit_per_s: _Rate | UnsetType | None = UNSET
    retry_delays_ms: _Delays | UnsetType | None = UNSET
    on_exhausted: OnExhausted | UnsetType | None = UNSET
    dead_letter_topic: _DeadLetters | UnsetType | None = UNSET
    description: _Text | UnsetType | None = UNSET
    paused: bool | UnsetType | None = UNSET


class WebhookAnswer(msgspec.Struct):
    """A webhook. `status` is `disabled` with its reason, `paused`, or `active`."""

    name: str
    url: str
    topics: list[str]
    topic_pattern: str | None
    start: str
    mode: Mode
    ordering: Ordering
    max_in_flight: int
    max_batch_records: int
    filter: dict[str, Any] | None
    signature: SignatureScheme
    timeout_ms: int
    rate_limit_per_s: int | None
    retry_delays_ms: list[int]
    on_exhausted: OnExhausted
    dead_letter_topic: str | None
    description: str
    paused: bool
    status: Status
    disabled_reason: str | None
    disabled_at_ms: int | None
    created_at_ms: int


class ChangedWebhook(WebhookAnswer):
    """A webhook that was changed.

    `created_topics` names its topics and its dead-letter topic as far as they did not exist and were created.
    """

    created_topics: list[str] | UnsetType = UNSET


class CreatedWebhook(WebhookAnswer):
    """A webhook with its secret, which only this answer has; with ed25519 it is the public key, `whpk_…`.

    `created_topics` names its topics and its dead-letter topic as far as they did not exist and were created.
    """

    secret: str | None
    created_topics: list[str] | UnsetType = UNSET


class WebhookCounts(msgspec.Struct):
    """Number of records by state; from `delivered` on they count from the creation of the webhook."""

    waiting: int
    in_flight: int
    retrying: int
    delivered: int
    filtered: int
    dead_lettered: int
    dropped: int
    expired: int


class WebhookDescription(WebhookAnswer):
    """A webhook, what it has delivered, and what waits. `dead_letter_error` says why dead letters are refused.

    A webhook has the rights of its `owner`, who made it; null for all rights, on a server that needed no keys.
    `authorization_error` names the topics that the owner may not read now: their records wait.
    """

    breaker: BreakerState
    counts: WebhookCounts
    public_key: str | None
    oldest_age_ms: int | None
    dead_letter_error: str | None
    owner: str | None
    authorization_error: str | None
    last_delivered_at_ms: int | None
    last_failed_at_ms: int | None


class WebhookList(msgspec.Struct):
    """A page of webhooks in order of their names; `next_cursor` is null on the last page."""

    items: list[WebhookAnswer]
    next_cursor: str | None


class RotateWebhookSecret(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The new secret, and how long the one before it signs too."""

    secret: _Secret | None = None
    overlap_ms: Annotated[int, Meta(description="From 0 to 2,592,000,000.")] = 86_400_000


class RotatedSecret(msgspec.Struct):
    """The new secret, which only this answer has; with ed25519 it is the public key."""

    secret: str


_RECEIVER = {"webhook": "billing"}
_ERRORS = (InvalidWebhookConfig, InvalidTopicName)


@router.put("/{webhook}")
@describe(
    Description(
        permission=on("webhook", "create"),
        answers={201: CreatedWebhook, 200: WebhookAnswer},
        errors=(WebhookAlreadyExists, SecretKeyMissing, PolicyViolation, *_ERRORS),
        examples=_RECEIVER
        | {
            "body": {
                "url": "https://10.1.0.7/hooks",
                "topics": ["orders"],
                "on_exhausted": "dead_letter",
                "dead_letter_topic": "orders.undelivered",
                "paused": True,
            }
        },
    )
)
async def create_webhook(call: Call, webhook: str, body: WebhookSettings) -> Reply:
    """Create a webhook, which posts the records of topics to a URL, or confirm it.

    The status is 201 with the `secret`, once, if the webhook is new, 200 if it exists and no given field differs, else
    409. Each attempt is signed as Standard Webhooks describe. Failed records are repeated by `retry_delays_ms`.
    """
    given, headers = _split(body)
    secrets = WebhookSecrets(given.pop("secret", None), headers)
    stored, secret, created_topics = await webhook_access.create(call, webhook, given, secrets)
    answer = _answer(stored.info)
    if secret is None:
        return Reply.of(answer)
    fields = msgspec.structs.asdict(answer)
    return Reply.of(CreatedWebhook(**fields, secret=secret, created_topics=list(created_topics) or UNSET), 201)


@router.get("")
@describe(Description(permission=ANY_PRINCIPAL, answers={200: WebhookList}, errors=(InvalidCursor,)))
async def list_webhooks(call: Call, query: ListQuery) -> Reply:
    """List the webhooks in order of their names.

    Secrets and static headers are never a part of an answer.
    """
    webhooks = call.services.webhooks

    async def read(after: str, limit: int) -> list[WebhookInfo]:
        return [stored.info for stored in await webhooks.list_(after, limit)]

    page, next_cursor = await visible_page(call, "webhook", read, query)
    return Reply.of(WebhookList([_answer(info) for info in page], next_cursor))


@router.get("/{webhook}")
@describe(
    Description(
        permission=on("webhook", "describe"),
        answers={200: WebhookDescription},
        errors=(UnknownWebhook,),
        examples=_RECEIVER,
    )
)
async def describe_webhook(call: Call, webhook: str) -> Reply:
    """Describe a webhook: its settings, its breaker, what it has delivered and what waits.

    `counts` has the records by state, `breaker` says whether attempts are held back, and `oldest_age_ms` is the age
    of the oldest record that has not ended.
    """
    state = await call.services.webhooks.describe(webhook)
    denied = await call.services.access.unreadable(state.stored.owner, state.topics)
    return Reply.of(_described(state, denied))


@router.patch("/{webhook}")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={200: ChangedWebhook},
        errors=(UnknownWebhook, *_ERRORS),
        examples=_RECEIVER | {"body": {"max_in_flight": 8, "timeout_ms": 10000}},
    )
)
async def change_webhook(call: Call, webhook: str, body: WebhookChange) -> Reply:
    """Change, pause or resume a webhook.

    What is being sent goes on with the settings before. Topics that are missing are created; `created_topics` names
    them.
    """
    given, headers = _split(body)
    stored, created_topics = await webhook_access.change(call, webhook, given, headers)
    fields = msgspec.structs.asdict(_answer(stored.info))
    return Reply.of(ChangedWebhook(**fields, created_topics=list(created_topics) or UNSET))


@router.post("/{webhook}/rotate_secret")
@describe(
    Description(
        permission=on("webhook", "alter"),
        answers={200: RotatedSecret},
        errors=(UnknownWebhook, InvalidWebhookConfig, SecretKeyMissing),
        examples=_RECEIVER | {"body": {"overlap_ms": 86400000}},
    )
)
async def rotate_webhook_secret(call: Call, webhook: str, body: RotateWebhookSecret) -> Reply:
    """Replace the secret. During the overlap each attempt has the signatures of both.

    The new secret is in this answer only.
    """
    _, secret = await call.services.webhooks.rotate(webhook, body.secret, body.overlap_ms)
    return Reply.of(RotatedSecret(secret))


@router.delete("/{webhook}")
@describe(
    Description(permission=on("webhook", "delete"), answers={204: None}, errors=(UnknownWebhook,), examples=_RECEIVER)
)
async def delete_webhook(call: Call, webhook: str) -> Reply:
    """Delete a webhook with its attempts.

    Its topics stay.
    """
    await call.services.webhooks.delete(webhook)
    return Reply(b"", 204)


def _split(body: WebhookSettings | WebhookChange) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Return the given fields, and apart from them the static headers; None if they are not given.

    Who names a dead-letter topic wants dead letters.
    """
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    if given.get("dead_letter_topic") is not None and "on_exhausted" not in given:
        given["on_exhausted"] = "dead_letter"
    headers = given.pop("headers", UNSET)
    return given, None if headers is UNSET else headers or {}


def _answer(info: WebhookInfo) -> WebhookAnswer:
    config = info.config
    return WebhookAnswer(
        info.name,
        config.url,
        list(config.topics),
        config.topic_pattern,
        config.start,
        config.mode,
        config.ordering,
        config.max_in_flight,
        config.max_batch_records,
        config.filter,
        config.signature,
        config.timeout_ms,
        config.rate_limit_per_s,
        list(config.retry_delays_ms),
        config.on_exhausted,
        config.dead_letter_topic,
        config.description,
        config.paused,
        info.status,
        info.disabled_reason,
        info.disabled_at_ms,
        info.created_at_ms,
    )


def _described(state: WebhookState, denied: Collection[str]) -> WebhookDescription:
    stored, owner = state.stored, state.stored.owner
    error = None if owner is None or not denied else f"the owner {owner.name} may not read: {', '.join(sorted(denied))}"
    counts = WebhookCounts(
        state.waiting,
        state.in_flight,
        state.retrying,
        stored.delivered,
        stored.filtered,
        stored.dead_lettered,
        stored.dropped,
        state.expired,
    )
    return WebhookDescription(
        **msgspec.structs.asdict(_answer(stored.info)),
        breaker=state.breaker,
        counts=counts,
        public_key=state.public_key,
        oldest_age_ms=state.oldest_age_ms,
        dead_letter_error=state.dead_letter_error,
        owner=None if owner is None else owner.name,
        authorization_error=error,
        last_delivered_at_ms=stored.last_delivered_at_ms,
        last_failed_at_ms=stored.last_failed_at_ms,
    )
