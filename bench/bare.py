"""The bare twin: three lines of ASGI on the uvicorn settings of Millrace. `python -m bench.bare PORT [plain]`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from app.server import serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
        bare,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=port,
        on_stop=lambda: None,
        on_ready=lambda _: None,
    )


if __name__ == "__main__":
    main()
