"""The threads that run transactions, each with connections of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from app.errors.database import STOPPING, ServiceUnavailable
from app.storage.db.dialect import Dialect
from app.storage.db.faults import ERRORS, Fault

_RECONNECT_AFTER_S = 1.0
_SLOT_WAIT_S = 4.0
"""How long a thread waits for a connection slot or for a parked connection."""
_SCARCE_S = 1.0
"""How long after the server had no free slot threads park their connections after each transaction."""
_RETRY_S = 0.02


class _Parked(NamedTuple):
    server_epoch: int
    connection: Connection


class _Thread:
    """What one worker thread does; only that thread changes it."""

    __slots__ = ("busy", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.busy = False


class Workers:
    """Worker threads for reads and for writes.

    A thread keeps its connections: to take one from the pool costs as much as a read. While the server has no free
    connection slot, the threads of a kind share the connections that they have, and each kind has at least one.

    Attributes:
        closing: Whether the threads end, and nothing new begins.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._threads: list[_Thread] = []
        self.readers = ThreadPoolExecutor(dialect.readers, "millrace-read", self._begin, ("read",))
        self.writers = ThreadPoolExecutor(dialect.writers, "millrace-write", self._begin, ("write",))
        self._dialect = dialect
        self._errors = (DBAPIError, dialect.driver_error)
        self._local = threading.local()
        self._parking = threading.Condition()
        self._parked: dict[Engine, list[_Parked]] = {dialect.read_engine: [], dialect.write_engine: []}
        self._without_slot: dict[Engine, tuple[float, float]] = {}
        """When the attempts to get the first slot of a kind began to fail, and when the last one failed."""
        self._connections: list[Connection] = []
        self._server_epoch = 0
        self._reconnect_at = 0.0
        self._scarce_until = 0.0
        self.closing = False

    def busy(self, kind: str) -> int:
        """Return how many threads run a transaction now. `kind`: read or write."""
        return sum(thread.busy and thread.kind == kind for thread in self._threads)

    def is_current(self) -> bool:
        """Return whether the calling thread is one of these."""
        return hasattr(self._local, "connections")

    def connection(self, engine: Engine) -> Connection:
        """Return the connection of the calling thread.

        Raises:
            ServiceUnavailable: The node stops, or the server was silent just now.
        """
        connections: dict[Engine, Connection] = self._local.connections
        if self._local.server_epoch != self._server_epoch:
            self._local.server_epoch = self._server_epoch
            for old in connections.values():
                old.invalidate()
        connection = connections.get(engine)
        if connection is None or connection.invalidated:
            connection = connections[engine] = self._connect(engine)
        self._local.thread.busy = True
        return connection

    def release(self, connection: Connection) -> None:
        """Roll the transaction back if it is open, and invalidate a connection whose rollback fails."""
        self._local.thread.busy = False
        try:
            if (transaction := connection.get_transaction()) is not None:
                transaction.rollback()
        except self._errors:
            connection.invalidate()
        if self._scarce_until:
            self._park(connection)

    def leave_silent_server(self) -> None:
        """Close all connections before their next use, and connect again only after a while.

        Each attempt to connect to a silent server takes seconds. Without the pause, waiting requests would make their
        attempts one after the other.
        """
        self._reconnect_at = time.monotonic() + _RECONNECT_AFTER_S
        self._server_epoch += 1

    def leave_server(self, *, everywhere: bool) -> None:
        """Close the connections of this thread, or of all threads before their next use."""
        for connection in self._local.connections.values():
            connection.invalidate()
        self._server_epoch += everywhere

    def renew(self) -> None:
        """Close the connections of all threads before their next use."""
        self._server_epoch += 1

    def close(self) -> bool:
        """Cancel running statements and close all connections. Return False if that was done before."""
        if self.closing:
            return False
        self.closing = True
        self.readers.shutdown(wait=False, cancel_futures=True)
        self.writers.shutdown(wait=False, cancel_futures=True)
        self._dialect.cancel([*filter(_is_open, self._connections)])
        self.readers.shutdown()
        self.writers.shutdown()
        for connection in self._connections:
            connection.close()
        return True

    def _begin(self, kind: str) -> None:
        self._local.thread = _Thread(kind)
        self._threads.append(self._local.thread)
        self._local.connections = {}
        self._local.server_epoch = self._server_epoch

    def _check_reachable(self) -> None:
        if self.closing:
            raise ServiceUnavailable(STOPPING)
        if time.monotonic() < self._reconnect_at:
            raise ServiceUnavailable(ERRORS[Fault.SILENT][1])

    def _connect(self, engine: Engine) -> Connection:
        """Connect. While the server has no free slot, wait for a connection that another thread has parked."""
        deadline = time.monotonic() + _SLOT_WAIT_S
        while True:
            self._check_reachable()
            if (parked := self._take_parked(engine)) is not None:
                return parked
            if time.monotonic() >= self._scarce_until or not self._has_open(engine):
                try:
                    return self._opened(engine)
                except self._errors as error:
                    if self._dialect.fault(error) is not Fault.NO_SLOT:
                        raise
                    self._make_room(engine)
                    if time.monotonic() > self._slot_deadline(engine, deadline):
                        raise
            with self._parking:
                self._parking.wait(_RETRY_S)

    def _take_parked(self, engine: Engine) -> Connection | None:
        """Return a parked connection, and close those that lead to a server which was left since."""
        with self._parking:
            while self._parked[engine]:
                server_epoch, connection = self._parked[engine].pop()
                if server_epoch == self._server_epoch:
                    return connection
                connection.invalidate()
        return None

    def _slot_deadline(self, engine: Engine, deadline: float) -> float:
        """Return the end of a wait for a slot.

        While a kind has no connection at all, its threads have one wait for all calls: with a wait each, the calls that
        wait for a thread would wait for all waits before them.
        """
        if self._has_open(engine):
            return deadline
        now = time.monotonic()
        with self._parking:
            since, last = self._without_slot.get(engine, (now, now))
            if now - last > _SCARCE_S:
                since = now
            self._without_slot[engine] = since, now
        return min(deadline, since + _SLOT_WAIT_S)

    def _opened(self, engine: Engine) -> Connection:
        connection = engine.connect()
        with self._parking:
            self._without_slot.pop(engine, None)
            self._connections = [*filter(_is_open, self._connections), connection]
        return connection

    def _make_room(self, engine: Engine) -> None:
        """Let all threads park their connections. If this kind has none, close one of the other kind."""
        now = time.monotonic()
        with self._parking:
            if begins := now >= self._scarce_until:
                self._scarce_until = now + _SCARCE_S
            other = self._dialect.write_engine if engine is self._dialect.read_engine else self._dialect.read_engine
            if not self._has_open(engine) and self._parked[other]:
                _, spare = self._parked[other].pop()
                spare.invalidate()
                spare.close()
        if begins:
            with contextlib.suppress(RuntimeError):  # of threads that end
                for threads, idle in ((self.readers, self._dialect.readers), (self.writers, self._dialect.writers)):
                    for _ in range(idle):
                        threads.submit(self._park_all)

    def _park_all(self) -> None:
        """Park the connections of this thread, which has no other work now."""
        for connection in [*self._local.connections.values()]:
            self._park(connection)

    def _park(self, connection: Connection) -> None:
        """Leave the connection of this thread to any thread."""
        if time.monotonic() < self._scarce_until:
            self._local.connections.pop(connection.engine, None)
            if _is_open(connection):
                with self._parking:
                    self._parked[connection.engine].append(_Parked(self._local.server_epoch, connection))
                    self._parking.notify_all()

    def _has_open(self, engine: Engine) -> bool:
        return any(each.engine is engine and _is_open(each) for each in self._connections)


def _is_open(connection: Connection) -> bool:
    return not connection.closed and not connection.invalidated
