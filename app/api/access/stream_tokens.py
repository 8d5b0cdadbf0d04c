"""The route that makes tokens for the streams of browsers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.http.authorization import stream_target
from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.access.identities import Identity
from app.domain.access.permission import ANY_PRINCIPAL
from app.errors.http import InvalidRequest

router = APIRouter(prefix="/v1/stream_tokens", tags=["access"], route_class=OperationRoute)


class StreamTokenBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The stream to open."""

    path: Annotated[
        str, Meta(max_length=2_048, description="Path and query of the GET request, from `/v1/`, without the token.")
    ]


class StreamToken(msgspec.Struct):
    """A token for one request; append `stream_token` to its query."""

    stream_token: str
    path: str
    expires_at_ms: int


@router.post("")
@describe(
    Description(
        permission=ANY_PRINCIPAL,
        answers={201: StreamToken},
        examples={"body": {"path": "/v1/topics/orders/records?offset=earliest&follow=true"}},
    )
)
async def create_stream_token(call: Call, body: StreamTokenBody) -> Reply:
    """Make a token with which a browser opens one stream, because `EventSource` cannot send a key.

    It is valid once, for a minute, for a GET of exactly this path and query, with the rights of the caller. Open
    `path`, which has the token in its query.
    """
    path, _, query = body.path.partition("?")
    if not path.startswith("/v1/") or not body.path.isascii() or not body.path.isprintable() or "#" in body.path:
        message = "path must be a path of this API with its query, such as /v1/topics/orders/records?follow=true"
        raise InvalidRequest.at(None, "path", "must begin with /v1/", message=message)
    target = stream_target(path, query)
    identity = Identity(call.principal) if call.access is None else call.access.identity
    token, expires_at_ms = await call.services.stream_tokens.create(target, identity)
    return Reply.of(StreamToken(token, f"{target}{'&' if query else '?'}stream_token={token}", expires_at_ms), 201)
