"""Routes that create, describe, change and delete sources, and list what they refused."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.authorization import confirming, refuse_hidden, require_all, require_created
from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery, cursor_after, id_before
from app.api.http.lists import visible_page
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.sources.sources import SourceSecrets
from app.domain.access.permission import ANY_PRINCIPAL, on
from app.domain.sources.source import SourceConfig, SourceInfo
from app.domain.sources.verification import Algorithm, Encoding, Scheme, Verify
from app.errors.limits import PolicyViolation
from app.errors.log import InvalidCursor, InvalidTopicName
from app.errors.webhooks import InvalidSourceConfig, SecretKeyMissing, SourceAlreadyExists, UnknownSource

router = APIRouter(prefix="/v1/sources", tags=["sources"], route_class=OperationRoute)
admin = APIRouter(prefix="/v1/sources", tags=["sources"], route_class=OperationRoute)
"""Operations after the deliveries in the OpenAPI document."""

_Secret = Annotated[
    Annotated[str, Meta(max_length=1024)] | None,
    Meta(description="Shared with the sender; encrypted at rest and never returned. `user:password` for `basic`."),
]
_Place = Annotated[str, Meta(max_length=512)]
_KeyFrom = Annotated[
    _Place | None,
    Meta(description="JSON pointer into the body, or `header:` and a name; nothing there is no key."),
]
_DedupeFrom = Annotated[
    _Place | None,
    Meta(
        description="Where the id of a delivery is, for schemes that name none: a JSON pointer or `header:` and a name."
    ),
]


class VerifyIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How deliveries are verified. From `header` on, the fields are for the scheme `hmac`."""

    scheme: Scheme
    secret: _Secret = None
    verify_token: Annotated[
        Annotated[str, Meta(max_length=256)] | None, Meta(description="With `meta`: the token of its challenge.")
    ] = None
    allowed_origins: Annotated[
        list[str], Meta(max_length=20, description="Origins whose CloudEvents handshake is granted.")
    ] = []
    header: Annotated[str, Meta(max_length=128, description="The header with the signature.")] = ""
    prefix: Annotated[str, Meta(max_length=64, description="What is before the signature, such as `sha256=`.")] = ""
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    template: Annotated[str, Meta(max_length=256, description="The signed text, such as `{timestamp}.{body}`.")] = (
        "{body}"
    )
    timestamp_header: Annotated[str | None, Meta(description="The header with the time in seconds since 1970.")] = None
    tolerance_ms: Annotated[int, Meta(description="How far that time may differ, from 1,000 to 3,600,000.")] = 300_000


class SourceSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The settings of a source."""

    topic: Annotated[str, Meta(max_length=249, description="Deliveries become records of this topic.")]
    verify: VerifyIn
    key_from: _KeyFrom | UnsetType = UNSET
    headers: Annotated[list[str] | UnsetType, Meta(description="Request headers that become record headers.")] = UNSET
    dedupe_ms: Annotated[
        int | UnsetType, Meta(description="How long a repeat is recognized, by default 604,800,000; 0 for never.")
    ] = UNSET
    dedupe_from: _DedupeFrom | UnsetType = UNSET
    max_body_bytes: Annotated[
        int | UnsetType, Meta(description="Longest body, by default 1,048,576, up to 33,554,432.")
    ] = UNSET
    description: Annotated[str, Meta(max_length=1024)] | UnsetType = UNSET


class SourceChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields to change; `null` resets a field to its default. `verify` is replaced as a whole."""

    topic: Annotated[str, Meta(max_length=249)] | UnsetType = UNSET
    verify: VerifyIn | UnsetType = UNSET
    key_from: _Place | UnsetType | None = UNSET
    headers: list[str] | UnsetType | None = UNSET
    dedupe_ms: int | UnsetType | None = UNSET
    dedupe_from: _Place | UnsetType | None = UNSET
    max_body_bytes: int | UnsetType | None = UNSET
    description: Annotated[str, Meta(max_length=1024)] | UnsetType | None = UNSET


class VerifyOut(msgspec.Struct, omit_defaults=True):
    """How deliveries are verified, without secrets; the fields from `header` on are of the scheme `hmac`."""

    scheme: Scheme
    allowed_origins: list[str] = []
    header: str | UnsetType = UNSET
    prefix: str | UnsetType = UNSET
    algorithm: Algorithm | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET
    template: str | UnsetType = UNSET
    timestamp_header: str | UnsetType | None = UNSET
    tolerance_ms: int | UnsetType = UNSET


class SourceAnswer(msgspec.Struct):
    """A source. `delivery_url` is where its sender posts; it has no host unless `MILLRACE_PUBLIC_URL` is set."""

    name: str
    topic: str
    verify: VerifyOut
    key_from: str | None
    headers: list[str]
    dedupe_ms: int
    dedupe_from: str | None
    max_body_bytes: int
    description: str
    delivery_url: str
    previous_secret_until_ms: int | None
    created_at_ms: int


class ChangedSource(SourceAnswer):
    """A source that was changed. `created_topics` names the topic if it did not exist and was created."""

    created_topics: list[str] | UnsetType = UNSET


class CreatedSource(SourceAnswer):
    """A source. `token` is a part of the delivery path of the scheme `none`, and only this answer has it.

    `created_topics` names the topic if it did not exist and was created.
    """

    token: str | None
    created_topics: list[str] | UnsetType = UNSET


class SourceList(msgspec.Struct):
    """A page of sources in order of their names; `next_cursor` is null on the last page."""

    items: list[SourceAnswer]
    next_cursor: str | None


class RotateSourceSecret(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The new secret, and how long the one before it is accepted too."""

    secret: Annotated[str, Meta(max_length=1024)]
    overlap_ms: Annotated[int, Meta(description="From 0 to 2,592,000,000.")] = 86_400_000


class RefusedDelivery(msgspec.Struct):
    """A delivery that was refused."""

    refused_at_ms: int
    reason: str
    address: str
    size_bytes: int


class RefusalList(msgspec.Struct):
    """The last refused deliveries, the last one first; `next_cursor` is null on the last page."""

    items: list[RefusedDelivery]
    next_cursor: str | None


_SOURCE = {"source": "github"}
_BODY = {
    "topic": "github-events",
    "verify": {"scheme": "github", "secret": "It's a Secret to Everybody"},
    "key_from": "/repository/full_name",
    "headers": ["X-GitHub-Event"],
}
_ERRORS = (InvalidSourceConfig, InvalidTopicName)


@router.put("/{source}")
@describe(
    Description(
        permission=on("source", "create"),
        answers={201: CreatedSource, 200: SourceAnswer},
        errors=(SourceAlreadyExists, SecretKeyMissing, PolicyViolation, *_ERRORS),
        examples=_SOURCE | {"body": _BODY},
    )
)
async def create_source(call: Call, source: str, body: SourceSettings) -> Reply:
    """Create a source, a URL at which another service posts its webhooks, or confirm it.

    Deliveries go to `POST /v1/sources/{source}/events` and are verified by the scheme of the sender. The topic is
    created if it is missing. With the scheme `none` the answer has a `token`, once, which is part of the delivery path.
    """
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    given["verify"] = _verify_of(body.verify)
    if "headers" in given:
        given["headers"] = tuple(given["headers"])
    secrets = SourceSecrets(body.verify.secret, body.verify.verify_token)
    require_all(call, "write", "topic", [body.topic])
    await require_created(call, [body.topic])
    with confirming(call, "source", source):
        info, is_new, token, created_topics = await call.services.sources.create(source, given, secrets)
    if not is_new:
        refuse_hidden(call, "source", source)
    answer = _answer(call, info)
    if not is_new:
        return Reply.of(answer)
    fields = msgspec.structs.asdict(answer)
    if token is not None:
        fields["delivery_url"] = _delivery_url(call, f"{info.name}:{token}")
    return Reply.of(CreatedSource(**fields, token=token, created_topics=list(created_topics) or UNSET), 201)


@router.get("")
@describe(Description(permission=ANY_PRINCIPAL, answers={200: SourceList}, errors=(InvalidCursor,)))
async def list_sources(call: Call, query: ListQuery) -> Reply:
    """List the sources in order of their names.

    Secrets are never a part of an answer.
    """
    page, next_cursor = await visible_page(call, "source", call.services.sources.list_, query)
    return Reply.of(SourceList([_answer(call, info) for info in page], next_cursor))


@router.get("/{source}")
@describe(
    Description(
        permission=on("source", "describe"), answers={200: SourceAnswer}, errors=(UnknownSource,), examples=_SOURCE
    )
)
async def describe_source(call: Call, source: str) -> Reply:
    """Describe a source.

    `delivery_url` is where the sender posts. Secrets are never a part of an answer.
    """
    return Reply.of(_answer(call, await call.services.sources.get(source)))


@router.patch("/{source}")
@describe(
    Description(
        permission=on("source", "alter"),
        answers={200: ChangedSource},
        errors=(UnknownSource, *_ERRORS),
        examples=_SOURCE | {"body": {"headers": ["X-GitHub-Event", "X-GitHub-Delivery"]}},
    )
)
async def change_source(call: Call, source: str, body: SourceChange) -> Reply:
    """Change a source. Its scheme stays, and its secret is changed with `rotate_secret`.

    A field that is not given keeps its value; `null` restores its default. The scheme stays, and the secret has
    `rotate_secret`.
    """
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    secrets = SourceSecrets()
    if isinstance(body.verify, VerifyIn):
        secrets = SourceSecrets(body.verify.secret, body.verify.verify_token)
        given["verify"] = _verify_of(body.verify)
    if given.get("headers") is not None:
        given["headers"] = tuple(given["headers"])

    if isinstance(topic := given.get("topic"), str):
        require_all(call, "write", "topic", [topic])
        await require_created(call, [topic])

    def change(config: SourceConfig) -> SourceConfig:
        defaults = SourceConfig(topic=config.topic, verify=config.verify)
        fields = {name: getattr(defaults, name) if value is None else value for name, value in given.items()}
        return msgspec.structs.replace(config, **fields)

    info, created_topics = await call.services.sources.change(source, change, secrets)
    fields = msgspec.structs.asdict(_answer(call, info))
    return Reply.of(ChangedSource(**fields, created_topics=list(created_topics) or UNSET))


@admin.post("/{source}/rotate_secret")
@describe(
    Description(
        permission=on("source", "alter"),
        answers={200: SourceAnswer},
        errors=(UnknownSource, InvalidSourceConfig, SecretKeyMissing),
        examples=_SOURCE | {"body": {"secret": "the next secret of the sender", "overlap_ms": 86400000}},
    )
)
async def rotate_source_secret(call: Call, source: str, body: RotateSourceSecret) -> Reply:
    """Replace the secret of a source. During the overlap the secret before it is accepted too.

    Senders change their secret at another time: during `overlap_ms` both are accepted.
    """
    return Reply.of(_answer(call, await call.services.sources.rotate(source, body.secret, body.overlap_ms)))


@admin.get("/{source}/refusals")
@describe(
    Description(
        permission=on("source", "describe"),
        answers={200: RefusalList},
        errors=(UnknownSource, InvalidCursor),
        examples=_SOURCE,
    )
)
async def list_source_refusals(call: Call, source: str, query: ListQuery) -> Reply:
    """List the last 1,000 refused deliveries of a source: when, why and from where, without their bodies.

    Each has its time, reason, address and size, and no body. The sender gets one and the same answer to all.
    """
    before = id_before(query.cursor)
    found = await call.services.sources.refusals(source, before, query.limit + 1)
    page = found[: query.limit]
    items = [RefusedDelivery(each.refused_at_ms, each.reason, each.address, each.size_bytes) for each in page]
    return Reply.of(RefusalList(items, cursor_after(str(page[-1].refusal_id)) if len(found) > query.limit else None))


@admin.delete("/{source}")
@describe(
    Description(permission=on("source", "delete"), answers={204: None}, errors=(UnknownSource,), examples=_SOURCE)
)
async def delete_source(call: Call, source: str) -> Reply:
    """Delete a source. Its topic stays.

    Deliveries get 404 from then on.
    """
    await call.services.sources.delete(source)
    return Reply(b"", 204)


def _verify_of(given: VerifyIn) -> Verify:
    fields = msgspec.structs.asdict(given)
    del fields["secret"], fields["verify_token"]
    return Verify(**(fields | {"allowed_origins": tuple(given.allowed_origins)}))


def _answer(call: Call, info: SourceInfo) -> SourceAnswer:
    config = info.config
    verify = msgspec.structs.asdict(config.verify) | {"allowed_origins": list(config.verify.allowed_origins)}
    if config.verify.scheme != "hmac":
        verify = {name: verify[name] for name in ("scheme", "allowed_origins")}
    return SourceAnswer(
        info.name,
        config.topic,
        VerifyOut(**verify),
        config.key_from,
        list(config.headers),
        config.dedupe_ms,
        config.dedupe_from,
        config.max_body_bytes,
        config.description,
        _delivery_url(call, info.name),
        info.previous_until_ms if info.previous_secret is not None else None,
        info.created_at_ms,
    )


def _delivery_url(call: Call, name: str) -> str:
    return f"{call.services.public_url}/v1/sources/{name}/events"
