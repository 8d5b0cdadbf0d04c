"""Write answers and chunks to the socket directly, without ASGI messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def write_answer(cycle: RequestResponseCycle, status: int, head: bytes, body: bytes) -> bool:
    """Write a whole answer in one write; ASGI's two messages would need two.

    Args:
        cycle: The request.
        status: HTTP status.
        head: Encoded header fields with their line ends; they include content-length.
        body: The whole body.

    Returns:
        False if the answer must be sent as ASGI messages.
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


def write_chunk(cycle: RequestResponseCycle, chunk: bytes) -> bool:
    """Write a chunk of a response that has begun; several responses may share the same bytes.

    Args:
        cycle: The request.
        chunk: The encoded chunk, with its length and line ends.

    Returns:
        False if the chunk must be sent as an ASGI message: the socket's buffer is full, or the client disconnected.
    """
    if cycle.disconnected or cycle.flow.write_paused or not cycle.chunked_encoding or cycle.response_complete:
        return False
    cycle.transport.write(chunk)
    return True
