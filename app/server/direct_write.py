"""Answers and chunks in one write to the socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def answer_at_once(cycle: RequestResponseCycle, status: int, head: bytes, body: bytes) -> bool:
    """Write a whole answer in one piece, where ASGI's two messages would be two writes to the socket.

    Args:
        cycle: The request.
        status: HTTP status.
        head: Header fields as they go over the wire, content-length among them, each with its line end.
        body: The whole body.

    Returns:
        False if the answer must go the ordinary way.
    """
    if cycle.disconnected or cycle.response_started or cycle.flow.write_paused:
        return False
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    parts = [STATUS_LINE[status]]
    for name, value in cycle.default_headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(head)
    parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    if cycle.scope["method"] != "HEAD":
        parts.append(body)
    cycle.transport.write(b"".join(parts))
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def chunk_at_once(cycle: RequestResponseCycle, chunk: bytes) -> bool:
    """Write a chunk of a response under way, which many responses may share.

    Args:
        cycle: The request.
        chunk: With its length and line ends, as it goes over the wire.

    Returns:
        False if it must go the ordinary way: the client is behind, or gone.
    """
    if cycle.disconnected or cycle.flow.write_paused or not cycle.chunked_encoding or cycle.response_complete:
        return False
    cycle.transport.write(chunk)
    return True
