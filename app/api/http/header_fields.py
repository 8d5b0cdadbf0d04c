"""The header fields of requests and answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.api.http.call import Reply

Header = tuple[bytes, bytes]

COMMON_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Headers of every answer, unless the answer has another value."""
_ENCODED_COMMON_HEADERS = b"".join(b"%b: %b\r\n" % field for field in COMMON_HEADERS)


def combined(headers: Iterable[Header]) -> dict[bytes, bytes]:
    """Return the headers with the values of repeated ones joined by commas (RFC 9110 §5.3)."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        values[name] = value if name not in values else values[name] + b", " + value
    return values


def encoded_fields(reply: Reply, identity: bytes) -> bytes:
    """Return the header fields of an answer, encoded."""
    head = b"%bx-request-id: %b\r\n" % (_ENCODED_COMMON_HEADERS, identity)
    if reply.status != 204:
        head += b"content-type: %b\r\ncontent-length: %d\r\n" % (reply.content_type, len(reply.body))
    for field in reply.headers:
        head += b"%b: %b\r\n" % field
    return head


def fields_of(identity: bytes, reply: Reply) -> list[Header]:
    """Return the header fields of an answer for ASGI."""
    fields: list[Header] = [*COMMON_HEADERS, (b"x-request-id", identity)]
    if reply.status != 204:
        fields.append((b"content-type", reply.content_type))
        if reply.stream is None:
            fields.append((b"content-length", b"%d" % len(reply.body)))
    return fields + reply.headers
