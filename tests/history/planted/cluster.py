"""Nodes in this process for the scenarios, with points at which a scenario and a planted fault meet."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.domain.groups import group
from app.storage.db.sqlite import dialect
from tests.history.recorder import Recorder, calls_of
from tests.serving import running
from tests.waiting import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from app.main import Application
    from app.storage.db.transaction import Tx
    from tests.history.recorder import Call

SETTINGS: dict[str, Any] = {"rebalance_interval_ms": 10, "poll_interval_ms": 60_000, "notify_interval_ms": 1}
POINT_S = 10.0


class LostCommit(Exception):
    """The connection to the database breaks before COMMIT arrives."""


@dataclass
class Cluster:
    """One node on SQLite, or two nodes on one PostgreSQL.

    Attributes:
        calls: Sends a request to the first or the second node; on SQLite both are the same.
        points: Events that a scenario sets when it has done something; a fault may wait for them.
        partial_commit: What a fault writes of a transaction whose commit is lost.
        patience_s: How long a client waits for a record that was acknowledged.
        clock_shift_ms: How far the clock of SQLite is ahead.
    """

    recorder: Recorder = field(default_factory=Recorder)
    applications: list[Application] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    points: defaultdict[str, threading.Event] = field(default_factory=lambda: defaultdict(threading.Event))
    partial_commit: Callable[[Tx], None] | None = None
    patience_s: float = 10.0
    clock_shift_ms: int = 0

    def reach(self, point: str) -> None:
        """Let a fault go on that waits for a point."""
        self.points[point].set()

    def await_point(self, point: str) -> None:
        """Wait in a worker thread until the scenario has reached a point."""
        self.points[point].wait(POINT_S)

    async def pass_time(self, ms: int) -> None:
        """Let time pass: by the clock of SQLite at once, with PostgreSQL by waiting."""
        if self.applications[0].services.storage.dialect.shared:
            await pause(ms / 1000)
        else:
            self.clock_shift_ms += ms

    def lose_next_commit(self) -> None:
        """Break the connection of the first node before the COMMIT of the next append."""
        database: Any = self.applications[0].services.storage.dialect
        commit = database.commit

        def lose(tx: Tx) -> None:
            if not appends_records(tx):
                commit(tx)
                return
            del database.commit
            if self.partial_commit is not None:
                self.partial_commit(tx)
            raise database.driver_error(LostCommit())

        database.commit = lose


def appends_records(tx: Tx) -> bool:
    """Return whether a transaction that commits now appends records."""
    return any("INTO records" in statement.sql for statement in tx.deferred)


@asynccontextmanager
async def serving(cluster: Cluster, url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run the nodes of a cluster."""
    real_now_ms = dialect._now_ms
    monkeypatch.setattr(dialect, "_now_ms", lambda: real_now_ms() + cluster.clock_shift_ms)
    monkeypatch.setattr(group, "ASSIGNMENT_INTERVAL_MS", 0)
    async with AsyncExitStack() as stack:
        for _ in range(1 if url.startswith("sqlite") else 2):
            application, client = await stack.enter_async_context(running(SETTINGS | {"database_url": url}))
            cluster.applications.append(application)
            cluster.calls.append(calls_of(client))
        cluster.calls = [cluster.calls[0], cluster.calls[-1]]
        yield
