"""uvicorn's httptools protocol with an account of the memory that a connection holds.

Bytes are counted as they arrive: heads that are not complete, bodies until their requests end, and answers until the
client has read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.domain.memory.ledger import TINY_BYTES, Holding, MemoryLedger, full
from app.domain.metrics.node_metrics import DoorCounts
from app.errors.broker_error import BrokerError
from app.server.connections import ConnectionRefused, Connections
from app.server.limits import ProtocolLimits

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from uvicorn._types import HTTPScope
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

_HOLDING = "millrace.holding"
_HEAD_FACTOR = 2
"""How many times its bytes a parsed head takes."""
_BUDGET_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class ServerMemory:
    """What connections may hold.

    Attributes:
        ledger: Counts the bytes of all requests.
        client_of: Returns the address of a request's client behind a proxy; None without proxies.
        connections: Counts the open connections.
        door: Counts connections, and the requests that they refuse by themselves.
    """

    ledger: MemoryLedger = field(default_factory=lambda: MemoryLedger(_BUDGET_BYTES))
    client_of: Callable[[dict[str, Any]], str] | None = None
    connections: Connections = field(default_factory=Connections)
    door: DoorCounts = field(default_factory=DoorCounts)


class MeteredProtocol(HttpToolsProtocol):
    """One connection; its heads, bodies and answers are counted in a ledger."""

    limits: ClassVar[ProtocolLimits] = ProtocolLimits()
    memory: ClassVar[ServerMemory] = ServerMemory()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._task: asyncio.Task[None] | None = None
        self._tiny_bytes = 0
        self._is_counted = False
        self._is_refused = False
        self._head: Holding | None = None
        self._unsent: Holding | None = None
        self._unsent_before = 0
        self._checked_once = False
        self._progress_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # narrowed, as in uvicorn
        super().connection_made(transport)
        self.memory.door.connections += 1
        self.memory.door.accepted += 1

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.memory.door.connections -= 1
        super().connection_lost(exc)

    def _count_connection(self) -> BrokerError | None:
        """Count the connection. Return the error of a limit that forbids it; abort it if it gets no answer."""
        try:
            self.memory.connections.enter(self._peer(), self.memory.ledger)
        except ConnectionRefused:
            self.transport.abort()
        except BrokerError as error:
            self._is_refused = True
            return error
        else:
            self._is_counted = True
        return None

    def _hold_body(self, cycle: RequestResponseCycle, size_bytes: int) -> None:
        """Count bytes of a body. A tiny one is only added to the sum: it needs no holding of its own.

        Raises:
            ServiceUnavailable: The budget has no room for them.
        """
        ledger = self.memory.ledger
        if self._tiny_bytes + size_bytes <= TINY_BYTES and not self.pipeline and _HOLDING not in cycle.scope:
            if not ledger.grow(0, size_bytes, ""):
                raise full()
            self._tiny_bytes += size_bytes
            return
        self._hold(cycle, size_bytes)

    def _hold(self, cycle: RequestResponseCycle, size_bytes: int) -> None:
        """Count bytes of a request.

        Raises:
            ServiceUnavailable: The budget has no room for them.
        """
        scope = cast("dict[str, Holding]", cycle.scope)
        if (holding := scope.get(_HOLDING)) is None:
            holding = scope[_HOLDING] = Holding(self.memory.ledger, self._client_of(cycle.scope))
        holding.admit(size_bytes)

    def _begin_request(self, read_bytes: int) -> None:
        """Begin a request whose head is complete. Count the head if it is large or waits behind another request.

        The head is counted first: a request that is refused must not begin.

        Args:
            read_bytes: What was read since the head began.

        Raises:
            ServiceUnavailable: The budget has no room for the head.
        """
        earlier = cast("RequestResponseCycle | None", self.cycle)
        waits = earlier is not None and not earlier.response_complete
        size = len(self.url)
        if waits or read_bytes > TINY_BYTES:
            size += sum(len(name) + len(value) for name, value in self.headers)
        if not waits and size <= TINY_BYTES:
            super().on_headers_complete()
            return
        holding = Holding(self.memory.ledger, self._client_of(self.scope))
        holding.admit(_HEAD_FACTOR * size)
        try:
            super().on_headers_complete()
        except BaseException:
            holding.release()
            raise
        cast("dict[str, Holding]", self.cycle.scope)[_HOLDING] = holding

    def _release(self, cycle: RequestResponseCycle, _: asyncio.Task[None] | None = None) -> None:
        """Give back what the request that ran holds."""
        # Break the cycle of references between scope and request; only a garbage collection would free it.
        cycle.scope.pop("millrace.answer", None)  # type: ignore[typeddict-item] # not a key of ASGI
        cycle.scope.pop("millrace.chunk", None)  # type: ignore[typeddict-item] # not a key of ASGI
        if self._tiny_bytes:
            self.memory.ledger.release(self._tiny_bytes, "")
            self._tiny_bytes = 0
        self._release_holding(cycle)

    def _release_holding(self, cycle: RequestResponseCycle) -> None:
        holding = cast("dict[str, Holding]", cycle.scope).pop(_HOLDING, None)
        if holding is not None:
            holding.release()

    def _hold_head(self, size_bytes: int) -> None:
        """Count bytes of a head that is not complete.

        Raises:
            ServiceUnavailable: The budget has no room for them.
        """
        if self._head is None:
            self._head = Holding(self.memory.ledger, self._peer())
        self._head.admit(size_bytes)

    def _release_head(self) -> None:
        """Give back the bytes of a head that is complete now."""
        if self._head is not None:
            self._head.release()
            self._head = None

    def _release_all(self) -> None:
        """Give back what the connection holds, except for the request that still runs."""
        if self._is_counted:
            self.memory.connections.leave(self._peer(), self.memory.ledger)
        elif self._is_refused:
            self.memory.connections.end_answer()
        self._is_counted = self._is_refused = False
        for cycle, _ in self.pipeline:
            self._release_holding(cycle)
        self._release_head()
        self._release_unsent()
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        size = self.transport.get_write_buffer_size()
        answered = cast("RequestResponseCycle | None", self.cycle)
        client = self._peer() if answered is None else self._client_of(answered.scope)
        self._unsent = Holding(self.memory.ledger, client)
        self._unsent.hold(size)
        self._unsent_before = size
        self._checked_once = False
        if self._progress_timer is None:
            self._progress_timer = self.loop.call_later(self.limits.write_timeout_ms / 1000, self._check_progress)

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._release_unsent()

    def _release_unsent(self) -> None:
        if self._unsent is not None:
            self._unsent.release()
            self._unsent = None

    def _check_progress(self) -> None:
        """Abort the connection if its client has read nothing in a whole `write_timeout_ms`."""
        self._progress_timer = None
        if self._unsent is None:
            return
        unsent = self.transport.get_write_buffer_size()
        if self._checked_once and unsent >= self._unsent_before:
            self.transport.abort()
            return
        self._checked_once = True
        self._unsent_before = unsent
        self._progress_timer = self.loop.call_later(self.limits.write_timeout_ms / 1000, self._check_progress)

    def _client_of(self, scope: HTTPScope) -> str:
        if (principal := cast("dict[str, str]", scope).get("millrace.principal")) is not None:
            return principal
        client_of = self.memory.client_of
        return self._peer() if client_of is None else client_of(cast("dict[str, Any]", scope))

    def _peer(self) -> str:
        return self.client[0] if self.client else ""
