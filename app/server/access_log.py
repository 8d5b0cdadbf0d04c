"""The access log: one line for each request, when its answer is complete or its connection ends.

The path is logged without the query, which may have keys of records and cursors, and without the token of a source.
"""

from __future__ import annotations

import logging
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from app.api.http.request_ids import request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)
_TOKEN = re.compile(r"(/v1/sources/[^/:%]*(?::|%3[Aa]))[^/]*")
"""The token in the path of a delivery to a source without signatures."""


class AccessLog:
    """An ASGI application that logs the requests of another one.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id(scope)  # the gateway may copy the scope
        answer = _Answer(scope, send)
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            answer.status = answer.status or 500  # uvicorn sends it
            raise
        finally:
            answer.log()


class _Answer:
    """Counts what is sent to a request."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status: int | None = None
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self._is_complete = False
        self._size_bytes = 0
        for name, counting in (("millrace.answer", self._write_answer), ("millrace.chunk", self._write_chunk)):
            if (write := scope.get(name)) is not None:
                scope[name] = partial(counting, write)

    async def send(self, message: Message) -> None:
        """Send a message of ASGI."""
        await self._send(message)
        if self._scope.get("millrace.disconnected"):  # uvicorn drops the message
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self._size_bytes += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)

    def log(self) -> None:
        """Log the request, unless the server has refused it by itself and logged that."""
        if self._scope.get("millrace.rejected"):
            return
        size_bytes = 0 if self._scope["method"] == "HEAD" else self._size_bytes
        duration_ms = (time.perf_counter() - self._started) * 1000
        _write(self._scope, request_id(self._scope), self.status, size_bytes, duration_ms, complete=self._is_complete)

    def _write_answer(self, write: Callable[[int, bytes, bytes], bool], status: int, head: bytes, body: bytes) -> bool:
        if not write(status, head, body):
            return False
        self.status = status
        self._size_bytes = len(body)
        self._is_complete = True
        return True

    def _write_chunk(self, write: Callable[[bytes], bool], chunk: bytes) -> bool:
        if not write(chunk):
            return False
        self._size_bytes += int(chunk.partition(b"\r\n")[0], 16)
        return True


def log_rejection(
    scope: Mapping[str, Any] | None, client: tuple[str, int] | None, identity: str, status: int, size_bytes: int
) -> None:
    """Log a request that the server refused by itself.

    Args:
        scope: Of the request, or None if its head is invalid.
        client: Address and port of the connection.
        identity: The id in the answer.
        status: The status of the answer.
        size_bytes: Bytes of the body of the answer.
    """
    _write({"client": client} if scope is None else scope, identity, status, size_bytes, None, complete=True)


def _write(
    scope: Mapping[str, Any],
    identity: str,
    status: int | None,
    size_bytes: int,
    duration_ms: float | None,
    *,
    complete: bool,
) -> None:
    method = scope.get("method", "-")
    path = _TOKEN.sub(r"\1…", scope.get("raw_path", b"-").decode("latin-1"))
    client = scope.get("millrace.client") or scope.get("client")
    address = client[0] if client else "-"
    fields = {
        "client": address,
        "method": method,
        "path": path,
        "status": status,
        "bytes": size_bytes,
        "duration_ms": None if duration_ms is None else round(duration_ms, 3),
        "request_id": identity,
        "complete": complete,
    }
    took = "" if duration_ms is None else f" in {duration_ms:.1f} ms"
    cut = "" if complete else ", cut off"
    _log.info(
        "%s %s %s %s, %d bytes%s%s, request %s",
        address,
        method,
        path,
        status or "-",
        size_bytes,
        took,
        cut,
        identity,
        extra={"fields": fields},
    )
