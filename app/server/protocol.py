"""HTTP/1.1 as Millrace accepts it: uvicorn's httptools protocol, with limits and deadlines.

ASGI middleware cannot hold them: it runs when a request has been parsed.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import httptools
from typing_extensions import override
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.server.direct_write import answer_at_once, chunk_at_once
from app.server.limits import ProtocolLimits
from app.server.rejections import (
    CHUNKS,
    TARGET,
    HeaderFieldsTooLargeError,
    RefusedError,
    TimedOutError,
    UriTooLongError,
    malformed,
    problem_response,
)

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application, HTTPScope
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

_READ_BYTES = 256 * 1024
"""The most that the event loop hands over in one piece."""
_CLOCK_S = 0.001
"""The resolution of uvloop's clock."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection, held to `limits`.

    A request that arrives in one piece costs no timer. The connection has a single one, which looks at the
    deadline when it fires and sleeps again until then; it stands in for uvicorn's timer per response as well.
    """

    limits: ClassVar[ProtocolLimits] = ProtocolLimits()

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
        self._refused: RefusedError | None = None
        self._read_bytes = 0
        self._unsent_bytes = math.inf
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_start = 0.0
        self._bodiless_bytes = 0

    # ── the connection ───────────────────────────────────────────────────────────────────────

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn too narrows it
        super().connection_made(transport)
        self._expect_within(self.limits.header_timeout_ms)

    @override
    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
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
            self._refuse(self._explain(error))
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
        # uvicorn tells only the newest of pipelined requests, not the one that runs.
        if self._running is not None and not self._running.response_complete:
            self._disconnect(self._running)
        self.pipeline.clear()
        super().connection_lost(exc)

    @override
    def shutdown(self) -> None:
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is None or last.response_complete:
            self.transport.close()
        else:
            last.keep_alive = False

    # ── callbacks of the parser ──────────────────────────────────────────────────────────────

    @override
    def on_headers_complete(self) -> None:
        limits = self.limits
        names = [name for name, _ in self.headers]
        if (
            names.count(b"host") != 1
            or b"transfer-encoding" in names
            or len(names) > limits.header_count
            or len(self.url) > limits.url_bytes
            or self._head_bytes + self._read_bytes > limits.header_bytes
            or len(self.pipeline) >= limits.pipelined_requests
            or not self.url.startswith(b"/")
        ):
            self._examine_head(names)
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        if self.pipeline:
            # uvicorn stops reading here, and would not see that the client leaves; the pipeline has its bound.
            self.flow.resume_reading()
        self._newest = self.cycle
        self._head_bytes = self._body_bytes = self._bodiless_bytes = 0
        # Trailers come through on_header too; they must not join the headers that the application reads.
        self.headers = []

    @override
    def on_body(self, body: bytes) -> None:
        self._bodiless_bytes = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
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
            # The scope refers to the request and the request to the scope: only a garbage collection would free them.
            self._running.scope.pop("millrace.answer", None)  # type: ignore[typeddict-item] # ours
            self._running.scope.pop("millrace.chunk", None)  # type: ignore[typeddict-item] # ours
        self._unsent_bytes = math.inf
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refused is not None:
            self._answer(self._refused)
        elif (current := self._current()) is not None:
            # After an answer before the end of the body (a 413, say) the rest is dropped, but not for ever.
            limits = self.limits
            self._expect_within(limits.body_timeout_ms if current.more_body else limits.keep_alive_ms)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.scope["millrace.answer"] = partial(answer_at_once, cycle)  # type: ignore[typeddict-unknown-key] # ours
        cycle.scope["millrace.chunk"] = partial(chunk_at_once, cycle)  # type: ignore[typeddict-unknown-key] # ours
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    # ── bounds in bytes ──────────────────────────────────────────────────────────────────────

    def _examine_head(self, names: list[bytes]) -> None:
        self._check_target()
        self._check_fields(sum(len(name) + len(value) + 4 for name, value in self.headers))
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            raise RefusedError("Use HTTP/1.1 and send exactly one Host header field.")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and codings != [b"chunked"]:
            raise RefusedError("Use no Transfer-Encoding but chunked; compress with Content-Encoding.")
        if self.parser.get_method() == b"CONNECT" or httptools.parse_url(self.url).path is None:
            raise RefusedError(TARGET)
        bound = self.limits.pipelined_requests
        if len(self.pipeline) >= bound:
            raise RefusedError(f"Send no more than {bound} requests ahead of their answers.")

    def _check_target(self) -> None:
        bound = self.limits.url_bytes
        if len(self.url) > bound:
            raise UriTooLongError(f"Send a target of at most {bound} bytes; large values go into the body.")

    def _check_fields(self, header_bytes: int) -> None:
        limits = self.limits
        if header_bytes > limits.header_bytes:
            raise HeaderFieldsTooLargeError(f"Send at most {limits.header_bytes} bytes of header fields.")
        if len(self.headers) > limits.header_count:
            raise HeaderFieldsTooLargeError(f"Send at most {limits.header_count} header fields.")

    def _await_rest(self) -> None:
        """Bound what is still to come of a request, in bytes and in time."""
        current = self._current()
        try:
            if current is None:
                self._await_head()
            elif not current.response_complete:
                self._await_body()
        except RefusedError as refused:
            self._refuse(refused)

    def _await_head(self) -> None:
        if not self._begun:
            return
        if self._head_bytes == 0:
            self._expect_within(self.limits.header_timeout_ms)
        self._head_bytes += self._read_bytes
        self._check_target()
        # The target is no field, nor is the end of an earlier body, which the first read may have held.
        self._check_fields(self._head_bytes - self.limits.url_bytes - _READ_BYTES)

    def _await_body(self) -> None:
        now = self.loop.time()
        if self._body_bytes == 0:
            self._body_start = now
        self._body_bytes += self._read_bytes
        self._bodiless_bytes += self._read_bytes
        # Trailers: the parser would collect an endless one.
        self._check_fields(self._bodiless_bytes - _READ_BYTES)
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
        if self._deadline - self.loop.time() > _CLOCK_S:
            self._arm(self._deadline)
        elif self._refused is not None:
            self.transport.abort()
        else:
            self._expire()

    def _expire(self) -> None:
        limits = self.limits
        current = self._current()
        if current.response_complete if current is not None else not self._begun:
            self._close_once_read()
        elif current is None:
            self._refuse(TimedOutError(f"Send the head of a request within {limits.header_timeout_ms} ms."))
        elif self.flow.read_paused or current.waiting_for_100_continue:
            self._body_bytes = 0
            self._expect_within(limits.body_timeout_ms)
        else:
            pause, speed = limits.body_timeout_ms, limits.body_bytes_per_s
            detail = f"Send the body without a pause of {pause} ms, at {speed} bytes a second or more."
            self._refuse(TimedOutError(detail))

    def _close_once_read(self) -> None:
        """Close, but wait for a client that still reads its answer, and only for one that does."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0:
            self.transport.close()
        elif unsent < self._unsent_bytes:
            self._unsent_bytes = unsent
            self._expect_within(self.limits.body_timeout_ms)
        else:
            self.transport.abort()

    # ── what is not read ─────────────────────────────────────────────────────────────────────

    def _ignore_upgrade(self, rest: memoryview) -> None:
        """Read a request that offers another protocol as if it did not (RFC 9110 §7.8).

        Java's HttpClient offers h2c with its first request. httptools then leaves the body to the other
        protocol, so the head is parsed again without the offer.
        """
        while True:
            version = self.parser.get_http_version().encode()
            lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
            lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"\r\n".join([*lines, b"\r\n"]))
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return

    def _explain(self, error: httptools.HttpParserError) -> RefusedError:
        """Turn an error of the parser into a refusal.

        Raises:
            Exception: Of a callback, where it is a fault of ours and not of the request.
        """
        if isinstance(error, httptools.HttpParserCallbackError):
            cause = error.__context__
            if isinstance(cause, RefusedError):
                return cause
            if isinstance(cause, (httptools.HttpParserInvalidURLError, UnicodeError)):
                return RefusedError(TARGET)
            raise cause or error
        return malformed(str(error)) if self._current() is None else RefusedError(CHUNKS)

    @property
    def _begun(self) -> bool:
        """Whether a request has come, or a part of one."""
        return cast("HTTPScope | None", self.scope) is not None

    def _current(self) -> RequestResponseCycle | None:
        """Find the newest request, unless the head of another has begun after it."""
        newest = self._newest
        return newest if newest is not None and newest.scope is self.scope else None

    def _refuse(self, refused: RefusedError) -> None:
        """Read no further, and answer the refusal when the requests before it have had their answers."""
        self._refused = refused
        self._deadline = math.inf
        self.flow.resume_reading()
        broken = self._current()
        if broken is not None and broken.more_body:
            if self.pipeline and self.pipeline[0][0] is broken:
                self.pipeline.popleft()
            else:
                self._running = None
                self._disconnect(broken)
        if self._running is None or self._running.response_complete:
            self._answer(refused)

    def _disconnect(self, cycle: RequestResponseCycle) -> None:
        """Let the application see that its request will never be whole; cut a response that has begun."""
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            self.transport.close()

    def _answer(self, refused: RefusedError) -> None:
        if self.transport.is_closing():
            return
        self._running = None
        self.transport.write(problem_response(refused, self.server_state.default_headers))
        self.transport.write_eof()
        self._expect_within(self.limits.linger_ms)


def limited_protocol(limits: ProtocolLimits) -> type[LimitedProtocol]:
    """Make the protocol class that holds each connection to these limits; uvicorn takes it as `http=`."""
    return type("LimitedProtocol", (LimitedProtocol,), {"limits": limits})
