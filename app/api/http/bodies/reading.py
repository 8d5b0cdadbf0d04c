"""Read the body of a request."""

from __future__ import annotations

from starlette.types import Message, Receive

from app.api.http.bodies import gzip_bodies

MAX_BYTES_DECODED_IN_LOOP = 256 * 1024
"""Larger bodies are decoded in a worker thread: about a millisecond of the event loop."""
_MAX_ITEMS_DECODED_IN_LOOP = 4_000
_FEW_BYTES = 8 * 1024


class ClientDisconnected(Exception):
    """The client disconnected before it had an answer; none is sent."""


async def read_rest(begin: bytes | bytearray, receive: Receive, limit: int) -> bytearray:
    """Return a whole body whose begin is known.

    Args:
        begin: The first part.
        receive: The other messages of the request.
        limit: The most bytes.

    Raises:
        BodyTooLarge: The body is larger than the limit.
        ClientDisconnected: The client disconnected.
    """
    if len(begin) > limit:
        raise gzip_bodies.too_large(limit)
    body = bytearray(begin)
    more = True
    while more:
        message = await receive()
        body += part_of(message)
        if len(body) > limit:
            raise gzip_bodies.too_large(limit)
        more = message.get("more_body", False)
        del message  # not kept during the wait
    return body


def is_decoded_fast(body: bytes | bytearray) -> bool:
    """Return whether the event loop may decode a body: it is small, and has not too many lines or objects."""
    if len(body) <= _FEW_BYTES:
        return True
    return (
        len(body) <= MAX_BYTES_DECODED_IN_LOOP
        and body.count(b"\n") <= _MAX_ITEMS_DECODED_IN_LOOP
        and body.count(b"{") <= _MAX_ITEMS_DECODED_IN_LOOP
    )


def part_of(message: Message) -> bytes:
    """Return the bytes of a message.

    Raises:
        ClientDisconnected: The client disconnected.
    """
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return bytes(message.get("body", b""))
