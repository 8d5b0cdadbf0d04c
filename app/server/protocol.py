"""uvicorn's httptools protocol with limits and deadlines for each connection.

ASGI middleware cannot enforce them, because it runs after the request is parsed.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast
from uuid import uuid4

import httptools
from typing_extensions import override
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from app.api.http.problems import STATUS
from app.api.http.request_ids import request_id
from app.errors.broker_error import BrokerError
from app.errors.database import STOPPING, ServiceUnavailable
from app.errors.http import RequestTimedOut
from app.server.access_log import log_rejection
from app.server.direct_write import write_answer, write_chunk
from app.server.error_responses import error_of, problem_response
from app.server.head_checks import check_fields, check_head, check_target, head_without_upgrade
from app.server.http_1_0 import without_chunks
from app.server.limits import ProtocolLimits
from app.server.metered_protocol import MeteredProtocol, ServerMemory

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application, HTTPScope
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

_MAX_READ_BYTES = 256 * 1024
"""The most bytes that the event loop passes in one call."""
_CLOCK_RESOLUTION_S = 0.001
"""The resolution of uvloop's clock."""


class LimitedProtocol(MeteredProtocol):
    """One connection that enforces `limits`.

    The connection has one timer. When it fires before the deadline, it is set again. A request that arrives in one
    read sets no timer. The timer also replaces uvicorn's keep-alive timer for each response.
    """

    logs_rejections: ClassVar[bool] = False

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._deadline = math.inf
        self._newest: RequestResponseCycle | None = None
        self._running: RequestResponseCycle | None = None
        self._error: BrokerError | None = None
        self._rejected: HTTPScope | None = None
        self._read_bytes = 0
        self._unsent_bytes = math.inf
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_start = 0.0
        self._bytes_since_body = 0

    # ── the connection ───────────────────────────────────────────────────────────────────────

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # narrowed, as in uvicorn
        super().connection_made(transport)
        if (error := self._count_connection()) is not None:
            self._reject(error)
        else:
            self._expect_within(self.limits.header_timeout_ms)

    @override
    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        self._read_bytes = len(data)
        rest = None
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(data)[upgrade.args[0] :]
            if rest is not None:
                self._ignore_upgrade(rest)
        except httptools.HttpParserError as error:
            self._reject(error_of(error, in_head=self._current() is None))
            return
        newest = self._newest
        if newest is None or newest.scope is not self.scope or newest.more_body:
            self._await_rest()
        elif not newest.response_complete:
            self._deadline = math.inf

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # uvicorn sends the disconnect only to the newest of pipelined requests, not to the running one.
        if self._running is not None and not self._running.response_complete:
            self._disconnect(self._running)
        self._release_all()
        self.pipeline.clear()
        super().connection_lost(exc)

    @override
    def shutdown(self) -> None:
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is None or last.response_complete:
            self.transport.close()
        else:
            last.keep_alive = False

    def refuse_incomplete(self) -> None:
        """Refuse a request whose body has not arrived completely, because the server is stopping."""
        current = self._current()
        if current is not None and current.more_body and not current.response_started and self._error is None:
            self._reject(ServiceUnavailable(STOPPING))

    def running_request(self) -> str | None:
        """Return the method and the path of the request that the application answers, or None."""
        running = self._running
        if running is None or running.response_complete:
            return None
        return f"{running.scope['method']} {running.scope['raw_path'].decode('latin-1')}"

    # ── callbacks of the parser ──────────────────────────────────────────────────────────────

    @override
    def on_headers_complete(self) -> None:
        limits = self.limits
        names = [name for name, _ in self.headers]
        upgrade = self.parser.should_upgrade()
        if (
            upgrade
            or names.count(b"host") != 1
            or b"transfer-encoding" in names
            or len(names) > limits.header_count
            or len(self.url) > limits.url_bytes
            or self._head_bytes + self._read_bytes > limits.header_bytes
            or len(self.pipeline) >= limits.pipelined_requests
            or not self.url.startswith(b"/")
        ):
            check_head(self.parser, self.url, self.headers, len(self.pipeline), limits)
        if upgrade:
            return
        self._release_head()
        self._begin_request(self._head_bytes + self._read_bytes)
        if self.pipeline:
            # uvicorn pauses reading here and would not detect a disconnect; `pipelined_requests` bounds the pipeline.
            self.flow.resume_reading()
        self._newest = self.cycle
        self._head_bytes = self._body_bytes = self._bytes_since_body = 0
        # on_header also receives the trailers, which must not change the headers of the application.
        self.headers = []

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._start_next()

    @override
    def on_body(self, body: bytes) -> None:
        self._bytes_since_body = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        self._hold_body(cycle, len(body))
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    @override
    def on_message_complete(self) -> None:
        newest = self._newest
        if newest is not None and newest.scope is self.scope:
            newest.more_body = False
            newest.message_event.set()

    @override
    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._running is not None:
            self._release(self._running)
        self._unsent_bytes = math.inf
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            if self.transport.get_write_buffer_size() > HIGH_WATER_LIMIT:
                self.loop.call_soon(self._start_next)  # after the event loop has written what the socket takes
            else:
                self._start_asgi_task(*self.pipeline.pop())
        elif self._error is not None:
            self._answer(self._error)
        elif (current := self._current()) is not None:
            # After an answer before the end of the body, such as a 413, the rest of the body is discarded.
            limits = self.limits
            self._expect_within(limits.body_timeout_ms if current.more_body else limits.keep_alive_ms)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.scope["millrace.answer"] = partial(write_answer, cycle)  # type: ignore[typeddict-unknown-key] # not a key of ASGI
        cycle.scope["millrace.chunk"] = partial(write_chunk, cycle)  # type: ignore[typeddict-unknown-key] # not a key of ASGI
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(cycle, app)
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._task = task

    def _start_next(self) -> None:
        """Start the next pipelined request, unless one runs or the client has not read the last answer."""
        if self.pipeline and not self.flow.write_paused and (self._running is None or self._running.response_complete):
            self._start_asgi_task(*self.pipeline.pop())

    # ── bounds in bytes ──────────────────────────────────────────────────────────────────────

    def _await_rest(self) -> None:
        """Limit the rest of an incomplete request, in bytes and in time."""
        current = self._current()
        try:
            if current is None:
                self._await_head()
            elif not current.response_complete:
                self._await_body()
        except BrokerError as error:
            self._reject(error)

    def _await_head(self) -> None:
        if not self._begun:
            return
        if self._head_bytes == 0:
            self._expect_within(self.limits.header_timeout_ms)
        self._head_bytes += self._read_bytes
        self._hold_head(self._read_bytes)
        check_target(self.url, self.limits)
        # The bytes read may include the target and, in the first read, the end of an earlier body.
        check_fields(self._head_bytes - self.limits.url_bytes - _MAX_READ_BYTES, len(self.headers), self.limits)

    def _await_body(self) -> None:
        now = self.loop.time()
        if self._body_bytes == 0:
            self._body_start = now
        self._body_bytes += self._read_bytes
        self._bytes_since_body += self._read_bytes
        # The parser collects trailers without a limit.
        check_fields(self._bytes_since_body - _MAX_READ_BYTES, len(self.headers), self.limits)
        slowest = self._body_start + self._body_bytes / self.limits.body_bytes_per_s
        self._set_deadline(min(now, slowest) + self.limits.body_timeout_ms / 1000)

    # ── bounds in time ───────────────────────────────────────────────────────────────────────

    def _expect_within(self, timeout_ms: int) -> None:
        self._set_deadline(self.loop.time() + timeout_ms / 1000)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._arm(deadline)

    def _arm(self, when: float) -> None:
        self._timer_at = when
        self._timer = self.loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._deadline == math.inf or self.transport.is_closing():
            return
        if self._deadline - self.loop.time() > _CLOCK_RESOLUTION_S:
            self._arm(self._deadline)
        elif self._error is not None:
            self.transport.abort()
        else:
            self._expire()

    def _expire(self) -> None:
        limits = self.limits
        current = self._current()
        if current.response_complete if current is not None else not self._begun:
            self._close_after_writes()
        elif current is None:
            self._reject(RequestTimedOut(f"Send the head of a request within {limits.header_timeout_ms} ms."))
        elif self.flow.read_paused or current.waiting_for_100_continue:
            self._body_bytes = 0
            self._expect_within(limits.body_timeout_ms)
        else:
            pause, speed = limits.body_timeout_ms, limits.body_bytes_per_s
            detail = f"Send the body without a pause of {pause} ms, at {speed} bytes a second or more."
            self._reject(RequestTimedOut(detail))

    def _close_after_writes(self) -> None:
        """Close when the client has read its answer; abort if it has read nothing since the last call."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0:
            self.transport.close()
        elif unsent < self._unsent_bytes:
            self._unsent_bytes = unsent
            self._expect_within(self.limits.body_timeout_ms)
        else:
            self.transport.abort()

    # ── errors ─────────────────────────────────────────────────────────────────────────

    def _ignore_upgrade(self, rest: memoryview) -> None:
        """Parse a request without its Upgrade header, as RFC 9110 §7.8 allows.

        Java's HttpClient offers h2c with its first request. After an Upgrade, httptools does not parse the body, so
        the head is parsed again without that header.
        """
        while True:
            head = head_without_upgrade(self.parser, self.url, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(head)
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return

    @property
    def _begun(self) -> bool:
        """Whether a request, or a part of one, has arrived."""
        return cast("HTTPScope | None", self.scope) is not None

    def _current(self) -> RequestResponseCycle | None:
        """Return the newest request, or None if the head of another request has begun after it."""
        newest = self._newest
        return newest if newest is not None and newest.scope is self.scope else None

    def _reject(self, error: BrokerError) -> None:
        """Stop reading, and send the problem document after the answers of earlier requests."""
        self._error = error.with_traceback(None)  # whose frames refer to this connection and to what it received
        error.__context__ = None
        self._deadline = math.inf
        self.flow.resume_reading()
        broken = self._current()
        if broken is not None and broken.more_body:
            self._rejected = broken.scope
            broken.scope["millrace.rejected"] = True  # type: ignore[typeddict-unknown-key] # not a key of ASGI
            if self.pipeline and self.pipeline[0][0] is broken:
                self.pipeline.popleft()
                self._release_holding(broken)
            else:
                self._running = None
                self._disconnect(broken)
        if self._running is None or self._running.response_complete:
            self._answer(error)

    def _disconnect(self, cycle: RequestResponseCycle) -> None:
        """Send a disconnect to the application, and close the connection if its response has begun."""
        cycle.disconnected = True
        cycle.scope["millrace.disconnected"] = True  # type: ignore[typeddict-unknown-key] # not a key of ASGI
        cycle.message_event.set()
        if self._task is not None:
            self._task.add_done_callback(partial(self._release, cycle))
        if cycle.response_started:
            self.transport.close()

    def _answer(self, error: BrokerError) -> None:
        if self.transport.is_closing():
            return
        self._running, rejected = None, self._rejected
        identity = uuid4().hex if rejected is None else request_id(cast("dict[str, Any]", rejected))
        self.memory.door.refuse(error.code)
        response = problem_response(error, self.server_state.default_headers, identity)
        self.transport.write(response)
        if self.transport.can_write_eof():  # TLS has no half-closed connections
            self.transport.write_eof()
        self._expect_within(self.limits.linger_ms)
        if self.logs_rejections:
            size_bytes = len(response) - response.index(b"\r\n\r\n") - 4
            log_rejection(rejected, self.client, identity, STATUS[type(error)], size_bytes)


def limited_protocol(
    limits: ProtocolLimits, memory: ServerMemory | None = None, *, access_log: bool = False
) -> type[LimitedProtocol]:
    """Return a protocol class with these limits, for uvicorn's `http` option."""
    attributes = {"limits": limits, "memory": memory or ServerMemory(), "logs_rejections": access_log}
    return type("LimitedProtocol", (LimitedProtocol,), attributes)
