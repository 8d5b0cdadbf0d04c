"""Routes of API keys."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery, cursor_after, name_after
from app.api.http.operations import MAX_INT64, Description, OperationRoute, describe
from app.broker.access.keys import KeyRequest
from app.domain.access.permission import ADMIN
from app.errors.access import AccessLimit, ClusterAuthorizationFailed, InvalidKeyRequest, UnknownKey
from app.errors.log import InvalidCursor
from app.storage.access.keys import StoredKey

router = APIRouter(prefix="/v1/keys", tags=["access"], route_class=OperationRoute)


class NewKeyBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A key to create."""

    name: Annotated[str, Meta(max_length=100, description="What people call the key.")]
    principal: Annotated[str, Meta(max_length=249, description="The principal for which it speaks in ACLs.")]
    admin: Annotated[bool, Meta(description="Whether no ACL restricts it. The first key must be an admin's.")] = False
    expires_at_ms: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_INT64)] | None, Meta(description="When it expires; null for never.")
    ] = None
    key_id: Annotated[
        Annotated[str, Meta(max_length=12)] | None,
        Meta(description="An id of 12 letters and digits that was never used; made by the server if not given."),
    ] = None


class KeyAnswer(msgspec.Struct, kw_only=True):
    """A key, without its secret. `last_used_at_ms` is exact to the minute."""

    key_id: str
    name: str
    principal: str
    admin: bool
    created_at_ms: int
    expires_at_ms: int | None
    last_used_at_ms: int | None


class CreatedKey(KeyAnswer, kw_only=True):
    """A new key. `key` is in this answer only."""

    key: str


class KeyList(msgspec.Struct):
    """A page of keys in order of their ids; `next_cursor` is null on the last page."""

    items: list[KeyAnswer]
    next_cursor: str | None


_ID = "examplekey01"


@router.post("")
@describe(
    Description(
        permission=ADMIN,
        answers={201: CreatedKey},
        errors=(InvalidKeyRequest, AccessLimit, ClusterAuthorizationFailed),
        examples={"body": {"name": "laptop of Alice", "principal": "alice", "admin": True, "key_id": _ID}},
    )
)
async def create_key(call: Call, body: NewKeyBody) -> Reply:
    """Create an API key. The answer has it, once: only its hash is stored.

    Once there is a key, every request needs one. To rotate a key, create a second one for the same principal, let the
    clients use it, and revoke the first.
    """
    request = KeyRequest(body.name, body.principal, body.admin, body.expires_at_ms, body.key_id)
    created = await call.services.keys.create(request)
    fields = msgspec.structs.asdict(_answer(created.stored))
    return Reply.of(CreatedKey(**fields, key=created.text), 201)


@router.get("")
@describe(Description(permission=ADMIN, answers={200: KeyList}, errors=(InvalidCursor, ClusterAuthorizationFailed)))
async def list_keys(call: Call, query: ListQuery) -> Reply:
    """List the keys that were not revoked, in order of their ids.

    Secrets are never a part of an answer.
    """
    found = await call.services.keys.list_(name_after(query.cursor), query.limit + 1)
    page = found[: query.limit]
    cursor = cursor_after(page[-1].key_id) if len(found) > query.limit else None
    return Reply.of(KeyList([_answer(key) for key in page], cursor))


@router.delete("/{key_id}")
@describe(
    Description(
        permission=ADMIN,
        answers={204: None},
        errors=(UnknownKey, ClusterAuthorizationFailed),
        examples={"key_id": _ID},
    )
)
async def revoke_key(call: Call, key_id: str) -> Reply:
    """Revoke a key. Within five seconds no node accepts it, and its streams and waiting reads have ended.

    A revoked key stays revoked, and the server goes on to need keys.
    """
    await call.services.keys.revoke(key_id)
    return Reply(b"", 204)


def _answer(key: StoredKey) -> KeyAnswer:
    return KeyAnswer(
        key_id=key.key_id,
        name=key.name,
        principal=key.principal,
        admin=key.is_admin,
        created_at_ms=key.created_at_ms,
        expires_at_ms=key.expires_at_ms,
        last_used_at_ms=key.last_used_at_ms,
    )
