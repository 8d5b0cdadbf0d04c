"""Requests that are not the HTTP this server reads: what is wrong, in our words, as a problem document.

They never reach the application, so `app/server/protocol.py` writes the whole answer. A message says what to do and
never quotes the request.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

if TYPE_CHECKING:
    from collections.abc import Iterable


class RefusedError(Exception):
    """A request that is not handed to the application; its message is the `detail` of the problem."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "BAD_REQUEST"
    title: ClassVar[str] = "Bad request"


class HeaderFieldsTooLargeError(RefusedError):
    """More header fields, or more bytes of them, than the limits allow."""

    status = 431
    code = "REQUEST_HEADER_FIELDS_TOO_LARGE"
    title = "Request header fields too large"


class UriTooLongError(RefusedError):
    """A request target of more bytes than the limits allow."""

    status = 414
    code = "URI_TOO_LONG"
    title = "URI too long"


class TimedOutError(RefusedError):
    """A request that did not arrive whole in time."""

    status = 408
    code = "REQUEST_TIMED_OUT"
    title = "Request timed out"


TARGET = "Write the request line as METHOD /path HTTP/1.1, with spaces and non-ASCII characters percent-encoded."
FRAMING = "Give the body one length: one Content-Length in digits, or Transfer-Encoding: chunked, not both."
CHUNKS = "Send each chunk as its length in hexadecimal, CRLF, its bytes, CRLF; end with a chunk of length 0."
_METHOD = "Begin with a method such as GET or POST; this port speaks plain HTTP/1.1, neither TLS nor HTTP/2."
_FIELD = "Write each header field as `Name: value` on one line of its own, without control characters."
_MALFORMED = "Send a request line, the header fields and an empty line, each ended by CRLF."

# What llhttp says, and what its reader can do about it; the first match counts.
_CURES = (
    ("Content-Length", FRAMING),
    ("Transfer-Encoding", FRAMING),
    ("method", _METHOD),
    ("PRI", _METHOD),
    ("url", TARGET),
    ("Expected HTTP/", TARGET),
    ("version", "Use HTTP/1.1, and CRLF at the end of each line of the head."),
    ("header", _FIELD),
)


def malformed(reason: str) -> RefusedError:
    """Refuse a head that llhttp could not read.

    Args:
        reason: What llhttp says: matched, never repeated.
    """
    return RefusedError(next((cure for part, cure in _CURES if part in reason), _MALFORMED))


def problem_response(refused: RefusedError, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write a whole HTTP/1.1 response: an RFC 9457 problem that announces the close of the connection.

    Args:
        refused: What to say.
        headers: Fields to put first, such as Date.
    """
    request_id = uuid.uuid4().hex
    problem = {
        "type": "/problems/" + refused.code.lower().replace("_", "-"),
        "title": refused.title,
        "status": refused.status,
        "detail": str(refused),
        "code": refused.code,
        "retriable": False,
        "request_id": request_id,
    }
    body = json.dumps(problem, separators=(",", ":")).encode() + b"\n"
    fields = (
        *headers,
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    )
    lines = [b"%b: %b\r\n" % field for field in fields]
    return b"".join([STATUS_LINE[refused.status], *lines, b"\r\n", body])
