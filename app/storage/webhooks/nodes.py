"""The nodes of a PostgreSQL database."""

from __future__ import annotations

import msgspec
from sqlalchemy import bindparam, delete, func, select

from app.domain.node import Node, NodeDetails
from app.storage.db import clock
from app.storage.db.tables import nodes
from app.storage.db.transaction import Tx
from app.storage.webhooks.tables import webhooks

_LIST = (
    select(
        nodes.c.node_id,
        nodes.c.details,
        nodes.c.started_at_ms,
        nodes.c.seen_at_ms,
        select(func.count())
        .select_from(webhooks)
        .where(webhooks.c.holder == nodes.c.node_id)
        .correlate(nodes)
        .scalar_subquery(),
    )
    .order_by(nodes.c.started_at_ms, nodes.c.node_id)
    .limit(bindparam("at_most"))
)
_FORGET = delete(nodes).where(
    nodes.c.node_id.in_(
        select(nodes.c.node_id).where(nodes.c.seen_at_ms < bindparam("before_ms")).with_for_update(skip_locked=True)
    )
)
_LEAVE = delete(nodes).where(nodes.c.node_id == bindparam("id"))


def note(tx: Tx, node_id: str, details: NodeDetails, kept_ms: int) -> None:
    """Note that a node runs, and forget those that were not seen for `kept_ms`."""
    now_ms = clock.read(tx)
    encoded = msgspec.json.encode(details).decode()
    statement = tx.dialect.insert(nodes).values(
        node_id=node_id, details=encoded, started_at_ms=now_ms, seen_at_ms=now_ms
    )
    changed = {"details": statement.excluded.details, "seen_at_ms": statement.excluded.seen_at_ms}
    tx.connection.execute(statement.on_conflict_do_update(index_elements=["node_id"], set_=changed))
    tx.connection.execute(_FORGET, {"before_ms": now_ms - kept_ms})


def leave(tx: Tx, node_id: str) -> None:
    """Forget a node that stops."""
    tx.connection.execute(_LEAVE, {"id": node_id})


def list_(tx: Tx, limit: int) -> list[Node]:
    """Return up to `limit` nodes, the longest running one first."""
    now_ms = clock.read(tx)
    return [
        Node(node_id, msgspec.json.decode(details, type=NodeDetails), started_at_ms, max(0, now_ms - seen_at_ms), held)
        for node_id, details, started_at_ms, seen_at_ms, held in tx.connection.execute(_LIST, {"at_most": limit})
    ]
