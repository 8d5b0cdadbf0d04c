"""Checks of the head of a request that httptools leaves to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from app.errors.http import BadRequest, HeaderFieldsTooLarge, UriTooLong
from app.server.error_responses import CONNECT_CURE, TARGET_CURE

if TYPE_CHECKING:
    from app.server.limits import ProtocolLimits

_FIELD_OVERHEAD_BYTES = 4
"""The colon, the space and the line end of a header field."""


def check_head(
    parser: httptools.HttpRequestParser,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
    pipelined: int,
    limits: ProtocolLimits,
) -> None:
    """Reject a head that breaks a limit or a rule of HTTP/1.1.

    Args:
        parser: After it has parsed the head.
        target: The request target.
        headers: Names in lower case, and values.
        pipelined: Requests of the connection that wait for an answer.
        limits: The limits of the connection.

    Raises:
        BadRequest, UriTooLong, HeaderFieldsTooLarge
    """
    check_target(target, limits)
    field_bytes = sum(len(name) + len(value) + _FIELD_OVERHEAD_BYTES for name, value in headers)
    check_fields(field_bytes, len(headers), limits)
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and parser.get_http_version() != "1.0"):
        raise BadRequest("Use HTTP/1.1 and send exactly one Host header field.")
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and codings != [b"chunked"]:
        raise BadRequest("Use no Transfer-Encoding but chunked; compress with Content-Encoding.")
    if parser.get_method() == b"CONNECT":
        raise BadRequest(CONNECT_CURE)
    if httptools.parse_url(target).path is None:
        raise BadRequest(TARGET_CURE)
    if pipelined >= limits.pipelined_requests:
        raise BadRequest(f"Send no more than {limits.pipelined_requests} requests ahead of their answers.")


def check_target(target: bytes, limits: ProtocolLimits) -> None:
    """Reject a request target that is too long.

    Raises:
        UriTooLong: With the limit.
    """
    if len(target) > limits.url_bytes:
        raise UriTooLong(f"Send a target of at most {limits.url_bytes} bytes; large values go into the body.")


def check_fields(field_bytes: int, field_count: int, limits: ProtocolLimits) -> None:
    """Reject header fields that are too many or too large.

    Raises:
        HeaderFieldsTooLarge: With the limit.
    """
    if field_bytes > limits.header_bytes:
        raise HeaderFieldsTooLarge(f"Send at most {limits.header_bytes} bytes of header fields.")
    if field_count > limits.header_count:
        raise HeaderFieldsTooLarge(f"Send at most {limits.header_count} header fields.")


def head_without_upgrade(
    parser: httptools.HttpRequestParser, target: bytes, headers: list[tuple[bytes, bytes]]
) -> bytes:
    """Return the head that a parser has parsed, without its Upgrade header."""
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), target, parser.get_http_version().encode())]
    lines += [b"%b: %b" % field for field in headers if field[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"\r\n"])
