"""The delivery path of sources: deliveries, and the challenges of senders."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.sources.receiver import Received
from app.domain.access.permission import PUBLIC
from app.domain.sources.delivery import Delivery
from app.errors.http import BadRequest, BodyTooLarge
from app.errors.webhooks import InvalidSignature, TooManyRefusals, UnknownSource

router = APIRouter(prefix="/v1/sources/{source}/events", tags=["sources"], route_class=OperationRoute)

_TEXT = b"text/plain; charset=utf-8"
_ERRORS = (UnknownSource, InvalidSignature, BadRequest, BodyTooLarge, TooManyRefusals)
_ANY_BODY = {"text/plain": {"schema": {"type": "string"}, "example": "Hello, World!"}}
_SIGNATURE = {
    "schema": {"type": "string"},
    "description": "Each scheme has its own headers; this one is of GitHub.",
    "example": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
}
"""GitHub's own example, with the secret of the example of `create_source`."""
_ORIGIN = {
    "schema": {"type": "string"},
    "description": "The origin that asks to deliver.",
    "example": "eventgrid.azure.net",
}


class DeliveredEvent(msgspec.Struct, omit_defaults=True):
    """Where the delivery is; `duplicate` is true if it had been appended before."""

    partition: int
    offset: int
    duplicate: bool | UnsetType = UNSET


class ChallengeQuery(msgspec.Struct, kw_only=True):
    """The challenge that Meta sends when its webhook is set up."""

    mode: Annotated[str, Meta(max_length=64, description="`subscribe`, from Meta.")] = msgspec.field(
        default="", name="hub.mode"
    )
    verify_token: Annotated[str, Meta(max_length=256, description="The verify_token of the source.")] = msgspec.field(
        default="", name="hub.verify_token"
    )
    challenge: Annotated[str, Meta(max_length=1024, description="The text that the answer repeats.")] = msgspec.field(
        default="", name="hub.challenge"
    )


@router.post("")
@describe(
    Description(
        permission=PUBLIC,
        answers={200: DeliveredEvent},
        errors=_ERRORS,
        examples={"source": "github"},
        bodies=_ANY_BODY,
        headers={"X-Hub-Signature-256": _SIGNATURE},
        media=("text/plain",),
        any_query=True,
        quota="produce",
        hot=True,
    )
)
async def deliver_to_source(call: Call, source: str) -> Reply:
    """Deliver an event to a source, as its sender does.

    With the scheme `none`, a colon and the token follow the name: `/v1/sources/{source}:{token}/events`.

    The body is stored byte for byte, after its signature is verified. The answer comes after the commit; a delivery
    that is repeated with the same id is not stored again.
    """
    receiver, address = call.services.receiver, _address(call)
    name, colon, token = source.partition(":")
    max_bytes = await receiver.admit(name, address)
    try:
        body = await call.decode(bytes, for_append=True, max_bytes=max_bytes)
    except BodyTooLarge:
        raise await receiver.refuse_large(name, max_bytes, address) from None
    query = call.scope["query_string"].decode("latin-1")
    url = f"{call.services.public_url}{call.scope['path']}{'?' if query else ''}{query}"
    content_type = call.header(b"content-type") or b""
    media_type = content_type.partition(b";")[0].strip().lower()
    delivery = Delivery(body, call.headers, url, media_type)
    return _reply(await receiver.receive(name, token if colon else None, delivery, address))


@router.get("")
@describe(
    Description(
        permission=PUBLIC,
        answers={200: None},
        errors=(UnknownSource, InvalidSignature),
        examples={"source": "github"},
        media=("text/plain",),
    )
)
async def answer_source_challenge(call: Call, source: str, query: ChallengeQuery) -> Reply:
    """Answer the challenge that Meta sends when its webhook is set up; without one, say what this path is for.

    Meta asks before its first delivery. The answer is 401 unless the source has this `verify_token`.
    """
    services = call.services
    source, _, _ = source.partition(":")
    if not query.mode:
        await services.sources.open(source)
        return Reply(b"Post deliveries to this path.\n", 200, _TEXT)
    address = _address(call)
    text = await services.receiver.answer_meta(source, query.mode, query.verify_token, query.challenge, address)
    return Reply(text.encode(), 200, _TEXT)


@router.options("")
@describe(
    Description(
        permission=PUBLIC,
        answers={200: None},
        errors=(UnknownSource, InvalidSignature, BadRequest),
        examples={"source": "github"},
        headers={"WebHook-Request-Origin": _ORIGIN},
        media=("text/plain",),
        any_query=True,
    )
)
async def answer_source_handshake(call: Call, source: str) -> Reply:
    """Answer the handshake of CloudEvents webhooks: an origin of `allowed_origins` may deliver.

    Any other origin gets an answer without the header that grants it.
    """
    origin = call.header(b"webhook-request-origin")
    if origin is None:
        raise BadRequest("the header WebHook-Request-Origin is missing")
    name, colon, token = source.partition(":")
    if not await call.services.receiver.allows_origin(name, token if colon else None, origin.decode("latin-1")):
        return Reply(b"", 200, _TEXT, [(b"allow", b"POST, OPTIONS")])
    granted = [(b"webhook-allowed-origin", origin), (b"allow", b"POST, OPTIONS")]
    if call.header(b"webhook-request-rate") is not None:
        granted.append((b"webhook-allowed-rate", b"*"))
    return Reply(b"", 200, _TEXT, granted)


def _reply(received: Received) -> Reply:
    if received.accepted is None:
        return Reply((received.challenge or "").encode(), 200, _TEXT)
    appended = received.accepted.appended
    duplicate = True if received.accepted.duplicate else UNSET
    return Reply.of(DeliveredEvent(appended.partitions[0], appended.offsets[0], duplicate))


def _address(call: Call) -> str:
    client = call.scope.get("client")
    return client[0] if client else ""
