"""Answers to HTTP/1.0, which has neither chunks nor interim answers (RFC 9112 §6.1, RFC 9110 §15.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def without_chunks(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """Return the application for one request of HTTP/1.0: a body without a length ends with the connection.

    uvicorn closes the connection after each answer to HTTP/1.0.
    """
    cycle.waiting_for_100_continue = False

    async def run(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        until_close = False

        async def send_unchunked(message: ASGISendEvent) -> None:
            nonlocal until_close
            if message["type"] == "http.response.start":
                until_close = all(name.lower() != b"content-length" for name, _ in message["headers"])
                if until_close:
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and until_close:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return run
