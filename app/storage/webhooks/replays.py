"""Replays of webhooks: create, find, list the running ones, save their progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select, update

from app.domain.webhooks.replay import ReplayInfo, ReplayPlan, ReplayProgress, ReplayStatus
from app.storage.db.transaction import Tx
from app.storage.webhooks.tables import webhook_replays

_columns = webhook_replays.c
_SELECT = select(
    _columns.replay_id,
    _columns.webhook_id,
    _columns.plan,
    _columns.progress,
    _columns.state,
    _columns.created_at_ms,
    _columns.ended_at_ms,
)
_FIND = _SELECT.where(_columns.webhook_id == bindparam("webhook"), _columns.replay_id == bindparam("id"))
_RUNNING = (
    select(_columns.replay_id)
    .where(_columns.webhook_id == bindparam("webhook"), _columns.state == "running")
    .order_by(_columns.replay_id)
)
_COUNT_RUNNING = select(func.count()).where(_columns.webhook_id == bindparam("webhook"), _columns.state == "running")
_IS_RUNNING = select(_columns.replay_id).where(_columns.replay_id == bindparam("id"), _columns.state == "running")
_SAVE = (
    update(webhook_replays)
    .where(_columns.replay_id == bindparam("id"), _columns.state == "running")
    .values(progress=bindparam("new_progress"), state=bindparam("new_state"), ended_at_ms=bindparam("new_ended_at_ms"))
)
_DELETE_ENDED = delete(webhook_replays).where(
    _columns.webhook_id == bindparam("webhook"), _columns.ended_at_ms < bindparam("before_ms")
)

_plans = msgspec.msgpack.Decoder(ReplayPlan)
_progresses = msgspec.msgpack.Decoder(ReplayProgress)
_encode = msgspec.msgpack.Encoder().encode


def create(tx: Tx, webhook_id: int, plan: ReplayPlan, progress: ReplayProgress, now_ms: int) -> int:
    """Create a replay, and return its id."""
    result = tx.connection.execute(
        insert(webhook_replays).returning(_columns.replay_id),
        {
            "webhook_id": webhook_id,
            "plan": _encode(plan),
            "progress": _encode(progress),
            "state": "running",
            "created_at_ms": now_ms,
        },
    )
    return int(result.scalar_one())


def find(tx: Tx, webhook_id: int, replay_id: int) -> ReplayInfo | None:
    """Return a replay of a webhook, or None."""
    row = tx.connection.execute(_FIND, {"webhook": webhook_id, "id": replay_id}).one_or_none()
    return None if row is None else _info(row)


def running(tx: Tx, webhook_id: int) -> list[int]:
    """Return the ids of the running replays of a webhook, oldest first."""
    return list(tx.connection.scalars(_RUNNING, {"webhook": webhook_id}))


def count_running(tx: Tx, webhook_id: int) -> int:
    """Return the number of running replays of a webhook."""
    return int(tx.connection.execute(_COUNT_RUNNING, {"webhook": webhook_id}).scalar_one())


def is_running(tx: Tx, replay_id: int) -> bool:
    """Return whether a replay has neither ended nor was cancelled."""
    return tx.connection.execute(_IS_RUNNING, {"id": replay_id}).one_or_none() is not None


def save(tx: Tx, replay_id: int, progress: ReplayProgress, status: ReplayStatus, ended_at_ms: int | None) -> None:
    """Store the progress of a replay, unless it has ended or was cancelled."""
    tx.connection.execute(
        _SAVE,
        {
            "id": replay_id,
            "new_progress": _encode(progress),
            "new_state": status,
            "new_ended_at_ms": ended_at_ms,
        },
    )


def delete_ended(tx: Tx, webhook_id: int, before_ms: int) -> None:
    """Delete the replays of a webhook that ended before a time."""
    tx.connection.execute(_DELETE_ENDED, {"webhook": webhook_id, "before_ms": before_ms})


def _info(row: Sequence[Any]) -> ReplayInfo:
    replay_id, webhook_id, plan, progress, status, created_at_ms, ended_at_ms = row
    return ReplayInfo(
        replay_id, webhook_id, _plans.decode(plan), _progresses.decode(progress), status, created_at_ms, ended_at_ms
    )
