"""Attempts are stored in batches, by several callers at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.broker.webhooks.attempt_log import AttemptLog
from app.storage.webhooks.attempts import Attempt

if TYPE_CHECKING:
    from app.storage.db.engine import Storage

pytestmark = pytest.mark.anyio

ATTEMPT = Attempt(0, "msg_a", None, None, None, 1, 1_000, 5, "delivered", 200, None, (), None, None)


async def test_attempts_that_are_stored_at_the_same_time_are_trimmed_once(storage: Storage) -> None:
    log = AttemptLog(storage, kept=1, retention_ms=60_000, wall_ms=lambda: 1_000)
    stores = []
    for _ in range(20):
        log.add(1, ATTEMPT)
        stores.append(asyncio.ensure_future(log.store()))
        await asyncio.sleep(0)

    assert await asyncio.gather(*stores) == [False] * 20
