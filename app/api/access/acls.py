"""Routes of access control lists."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.http.call import Call, Reply
from app.api.http.cursors import ListQuery, cursor_after, name_after
from app.api.http.operations import Description, OperationRoute, describe
from app.domain.access.acl import Acl, Operation, Resource
from app.domain.access.permission import ADMIN
from app.errors.access import AccessLimit, ClusterAuthorizationFailed, InvalidAcl, UnknownAcl
from app.errors.log import InvalidCursor
from app.storage.access.acls import StoredAcl

router = APIRouter(prefix="/v1/acls", tags=["access"], route_class=OperationRoute)

_ID_DIGITS = 18


class AclBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An entry to create."""

    principal: Annotated[str, Meta(max_length=249, description="Name of the principal; `*` stands for all.")]
    permission: Literal["allow", "deny"] = "allow"
    operation: Operation
    resource: Resource
    host: Annotated[str, Meta(max_length=64, description="IP address of the client; `*` stands for all.")] = "*"


class AclAnswer(msgspec.Struct, kw_only=True):
    """An entry of the access control lists."""

    acl_id: str
    principal: str
    permission: Literal["allow", "deny"]
    operation: Operation
    resource: Resource
    host: str
    created_at_ms: int


class AclList(msgspec.Struct):
    """A page of entries in the order of their creation; `next_cursor` is null on the last page."""

    items: list[AclAnswer]
    next_cursor: str | None


@router.post("")
@describe(
    Description(
        permission=ADMIN,
        answers={201: AclAnswer, 200: AclAnswer},
        errors=(InvalidAcl, AccessLimit, ClusterAuthorizationFailed),
        examples={
            "body": {
                "principal": "billing-service",
                "permission": "allow",
                "operation": "read",
                "resource": {"type": "topic", "name": "orders", "pattern": "literal"},
            }
        },
    )
)
async def create_acl(call: Call, body: AclBody) -> Reply:
    """Allow or deny a principal an operation on a resource, as Kafka's ACLs do.

    A deny wins over every allow; without a matching allow the answer is no. `read`, `write`, `delete` and `alter` allow
    `describe` too. 201 if the entry is new, 200 if it exists.
    """
    acl = Acl(body.principal, body.permission, body.operation, body.resource, body.host)
    stored, is_new = await call.services.acls.create(acl)
    return Reply.of(_answer(stored), 201 if is_new else 200)


@router.get("")
@describe(Description(permission=ADMIN, answers={200: AclList}, errors=(InvalidCursor, ClusterAuthorizationFailed)))
async def list_acls(call: Call, query: ListQuery) -> Reply:
    """List the entries in the order of their creation.

    Changes take effect within five seconds on every node.
    """
    after = name_after(query.cursor)
    if after and not _is_id(after):
        raise InvalidCursor("the cursor does not belong to this list; send next_cursor unchanged")
    found = await call.services.acls.list_(int(after or 0), query.limit + 1)
    page = found[: query.limit]
    cursor = cursor_after(str(page[-1].acl_id)) if len(found) > query.limit else None
    return Reply.of(AclList([_answer(stored) for stored in page], cursor))


@router.delete("/{acl_id}")
@describe(
    Description(
        permission=ADMIN,
        answers={204: None},
        errors=(UnknownAcl, ClusterAuthorizationFailed),
        examples={"acl_id": "1"},
    )
)
async def delete_acl(call: Call, acl_id: str) -> Reply:
    """Delete an entry.

    It takes effect within five seconds on every node; streams and waiting reads that it allowed end.
    """
    await call.services.acls.delete(int(acl_id) if _is_id(acl_id) else 0)
    return Reply(b"", 204)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _ID_DIGITS


def _answer(stored: StoredAcl) -> AclAnswer:
    acl = stored.acl
    return AclAnswer(
        acl_id=str(stored.acl_id),
        principal=acl.principal,
        permission=acl.permission,
        operation=acl.operation,
        resource=acl.resource,
        host=acl.host,
        created_at_ms=stored.created_at_ms,
    )
