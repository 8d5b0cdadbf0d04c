"""Leases of nodes, and which node works which webhook. With SQLite there is one node and no lease."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, or_, select, update

from app.storage.db import clock
from app.storage.db.transaction import Tx
from app.storage.webhooks.tables import node_leases, webhooks

_DELETE_ENDED = delete(node_leases).where(
    node_leases.c.node_id.in_(
        select(node_leases.c.node_id)
        .where(node_leases.c.until_ms < bindparam("before_ms"))
        .with_for_update(skip_locked=True)
    )
)
_LIVE = (
    select(node_leases.c.node_id).where(node_leases.c.until_ms > bindparam("now_ms")).order_by(node_leases.c.node_id)
)
_FREE = (
    select(webhooks.c.webhook_id)
    .where(or_(webhooks.c.holder.is_(None), webhooks.c.holder.not_in(bindparam("live", expanding=True))))
    .order_by(webhooks.c.webhook_id)
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)
)
_TAKE = (
    update(webhooks)
    .where(webhooks.c.webhook_id == bindparam("id"))
    .values(holder=bindparam("new_holder"), epoch=webhooks.c.epoch + 1)
)
_RELEASE = update(webhooks).where(webhooks.c.holder == bindparam("node")).values(holder=None)
_RELEASE_SOME = (
    update(webhooks)
    .where(webhooks.c.webhook_id == bindparam("id"), webhooks.c.holder == bindparam("node"))
    .values(holder=None)
)


class LeaseLost(Exception):
    """Another node works the webhook, or it was deleted."""


def renew(tx: Tx, node_id: str, lease_ms: int) -> list[str]:
    """Extend the lease of a node, and return the ids of all nodes with a lease, in order."""
    now_ms = clock.read(tx)
    statement = tx.dialect.insert(node_leases).values(node_id=node_id, until_ms=now_ms + lease_ms)
    tx.connection.execute(
        statement.on_conflict_do_update(index_elements=["node_id"], set_={"until_ms": statement.excluded.until_ms})
    )
    tx.connection.execute(_DELETE_ENDED, {"before_ms": now_ms - 10 * lease_ms})
    return list(tx.connection.scalars(_LIVE, {"now_ms": now_ms}))


def take_free(tx: Tx, node_id: str, live: Sequence[str], limit: int) -> list[int]:
    """Take up to `limit` webhooks that no live node works, and return their ids."""
    taken = list(tx.connection.scalars(_FREE, {"live": list(live), "at_most": limit}))
    if taken:
        tx.connection.execute(_TAKE, [{"id": webhook_id, "new_holder": node_id} for webhook_id in taken])
    return taken


def release(tx: Tx, node_id: str, webhook_ids: Sequence[int] | None = None) -> None:
    """Give up webhooks, or all of a node that stops, with its lease."""
    if webhook_ids is not None:
        rows = [{"id": each, "node": node_id} for each in sorted(webhook_ids)]
        tx.connection.execute(_RELEASE_SOME, rows)
        return
    tx.connection.execute(_RELEASE, {"node": node_id})
    tx.connection.execute(delete(node_leases).where(node_leases.c.node_id == node_id))
