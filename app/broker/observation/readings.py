"""What the metrics read from the database at a scrape: bounded in rows and in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.broker.webhooks.dispatcher import Dispatcher
from app.errors.broker_error import BrokerError
from app.storage.db.dialect import Gauge
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.groups import group_lags
from app.storage.groups.group_lags import PartitionLag
from app.storage.queues import depths
from app.storage.queues.depths import QueueDepth
from app.storage.webhooks.lags import HIDDEN_QUEUES

MOST_ROWS = 10_000
"""Committed offsets, and share partitions of queues, that one scrape reads."""
_PART_S = 0.5
"""How long groups, and then queues, are read."""
_ALL_S = 2.0
"""After this time the metrics are answered without the database."""


class Readings(NamedTuple):
    """What a scrape found in the database.

    Attributes:
        gauges: Metrics of this kind of database.
        lags: Of all consumer groups, or of the first ones.
        members: Number of members by group.
        depths: Of all queues, or of the first ones.
        complete: Whether nothing was left out for lack of time or rows.
        webhooks: Records that have not ended, by webhook of this node.
    """

    gauges: Sequence[Gauge]
    lags: Sequence[PartitionLag]
    members: Sequence[tuple[str, int]]
    depths: Sequence[QueueDepth]
    complete: bool
    webhooks: dict[str, int]


class DatabaseReader:
    """Reads the database for scrapes. Those that come while one reads share its result.

    Args:
        storage: The database.
        dispatcher: Knows the webhooks of this node.
    """

    def __init__(self, storage: Storage, dispatcher: Dispatcher) -> None:
        self._storage = storage
        self._dispatcher = dispatcher
        self._reading: asyncio.Task[Readings] | None = None

    async def read(self) -> Readings | None:
        """Read the database, or return None if it does not answer in time."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="metrics")
            self._reading.add_done_callback(self._end)
        try:
            async with asyncio.timeout(_ALL_S):
                return await asyncio.shield(self._reading)
        except (BrokerError, TimeoutError):
            return None

    async def _read(self) -> Readings:
        gauges, lags, members, found, complete = await self._storage.read(_read)
        return Readings(gauges, lags, members, found, complete, await self._dispatcher.lags())

    def _end(self, reading: asyncio.Task[Readings]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # else asyncio would log it if no scrape waits any more


def _read(
    tx: Tx,
) -> tuple[Sequence[Gauge], Sequence[PartitionLag], Sequence[tuple[str, int]], Sequence[QueueDepth], bool]:
    lags, all_groups = group_lags.read_lags(tx, MOST_ROWS, _within(_PART_S))
    members = group_lags.members(tx, MOST_ROWS)
    found, all_queues = depths.read_depths(tx, HIDDEN_QUEUES, MOST_ROWS, _within(_PART_S))
    return tx.dialect.gauges(tx), lags, members, found, all_groups and all_queues


def _within(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
