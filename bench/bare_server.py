"""The bare baseline: a few lines of ASGI with the uvicorn settings of Millrace.

`python -m bench.bare_server PORT [plain|streams]`. One application answers a constant; the other writes each posted
body to all open streams.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from app.server.uvicorn import serve

_BODY = b'{"offsets":[{"partition":0,"offset":17,"timestamp_ms":1517363399650}]}\n'
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))],
}


async def bare(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer a constant."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await receive()
    await send(_START)
    await send({"type": "http.response.body", "body": _BODY})


_streams: list[Callable[[dict[str, Any]], Awaitable[None]]] = []
_OPEN = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


async def streams(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Open a stream for each GET but `/`; write the body of each POST to all streams."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    message = await receive()
    if scope["method"] == "POST":
        event = {"type": "http.response.body", "body": message["body"], "more_body": True}
        for write in _streams:
            await write(event)
    elif scope["path"] != "/":
        await send(_OPEN)
        await send({"type": "http.response.body", "body": b"id: 0\n\n", "more_body": True})
        _streams.append(send)
        await receive()
        _streams.remove(send)
        return
    await send(_START)
    await send({"type": "http.response.body", "body": _BODY})


async def _lifespan(
    receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def main() -> None:
    """Serve until SIGTERM."""
    port = int(sys.argv[1])
    if sys.argv[2:] == ["plain"]:
        uvicorn.run(
            bare,
            host="127.0.0.1",
            port=port,
            loop="uvloop",
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        return
    serve(
        streams if sys.argv[2:] == ["streams"] else bare,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=port,
        on_stop=lambda: None,
        on_ready=lambda _: None,
    )


if __name__ == "__main__":
    main()
