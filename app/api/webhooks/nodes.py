"""Routes of the nodes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.webhooks.nodes import ALIVE_MS
from app.domain.access.permission import on

router = APIRouter(prefix="/v1/nodes", tags=["operations"], route_class=OperationRoute)


class NodeAnswer(msgspec.Struct):
    """A node, and what it serves."""

    node_id: str
    host: Annotated[str, Meta(description="Name of its machine.")]
    address: Annotated[str, Meta(description="Address and port as configured.")]
    version: str
    started_at_ms: int
    last_seen_at_ms: Annotated[int, Meta(description="When it last wrote to the database; its own answer: now.")]
    alive: Annotated[bool, Meta(description="Whether it was seen within 15 seconds.")]
    tasks: Annotated[list[str], Meta(description="Background tasks that it runs.")]
    tasks_down: Annotated[list[str], Meta(description="Those of them that fail repeatedly or have stopped.")]
    webhooks: Annotated[int, Meta(description="Number of webhooks that it works.")]


class NodeList(msgspec.Struct):
    """All nodes, the longest running one first; `next_cursor` is always null."""

    items: list[NodeAnswer]
    next_cursor: str | None


@router.get("")
@describe(Description(permission=on("cluster", "describe"), answers={200: NodeList}))
async def list_nodes(call: Call) -> Reply:
    """List the nodes that serve the database.

    With PostgreSQL, a node that stops leaves the list. One that is lost stays for an hour with `alive` false.
    """
    now_ms = call.services.clock()
    items = [
        NodeAnswer(
            each.node_id,
            each.details.host,
            each.details.address,
            each.details.version,
            each.started_at_ms,
            now_ms - each.age_ms,
            each.age_ms <= ALIVE_MS,
            list(each.details.tasks),
            list(each.details.tasks_down),
            each.webhooks,
        )
        for each in await call.services.nodes.list_()
    ]
    return Reply.of(NodeList(items, None))
