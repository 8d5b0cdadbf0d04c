"""Answers to invalid HTTP: whole responses with problem documents.

Such requests do not reach the application; `app/server/protocol.py` writes the whole response. A message says what
to do, and does not quote the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.api.http import problems
from app.api.http.header_fields import COMMON_HEADERS
from app.errors.broker_error import BrokerError
from app.errors.http import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

TARGET_CURE = "Write the request line as METHOD /path HTTP/1.1, with spaces and non-ASCII characters percent-encoded."
CONNECT_CURE = "This server is not a proxy: send GET, POST or another method with a /path instead of CONNECT."
CHUNKS_CURE = "Send each chunk as its length in hexadecimal, CRLF, its bytes, CRLF; end with a chunk of length 0."
_LENGTH_CURE = "Give the body one length: one Content-Length in digits, or Transfer-Encoding: chunked, not both."
_METHOD_CURE = "Begin with a method such as GET or POST; this port speaks plain HTTP/1.1, neither TLS nor HTTP/2."
_FIELD_CURE = "Write each header field as `Name: value` on one line of its own, without control characters."
_HEAD_CURE = "Send a request line, the header fields and an empty line, each ended by CRLF."

_CURES = (
    ("Content-Length", _LENGTH_CURE),
    ("Transfer-Encoding", _LENGTH_CURE),
    ("method", _METHOD_CURE),
    ("PRI", _METHOD_CURE),
    ("url", TARGET_CURE),
    ("Expected HTTP/", TARGET_CURE),
    ("version", "Use HTTP/1.1, and CRLF at the end of each line of the head."),
    ("header", _FIELD_CURE),
)
"""A part of llhttp's message, and what to do; the first match counts."""


def malformed_head(message: str) -> BadRequest:
    """Return the error for a head that llhttp cannot parse.

    Args:
        message: llhttp's message; it selects the detail, which does not contain it.
    """
    return BadRequest(next((cure for part, cure in _CURES if part in message), _HEAD_CURE))


def problem_response(error: BrokerError, headers: Iterable[tuple[bytes, bytes]], request_id: str) -> bytes:
    """Return a whole HTTP/1.1 response with a problem document; `Connection: close` is one of its fields.

    Args:
        error: The error of the problem document.
        headers: Fields before all others, such as Date.
        request_id: Of the request; a new one if its head is invalid.
    """
    body = msgspec.json.encode(problems.document(error, request_id)) + b"\n"
    fields = (
        *headers,
        (b"content-type", problems.MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        *COMMON_HEADERS,
        *problems.headers(error),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    )
    lines = [b"%b: %b\r\n" % field for field in fields]
    return b"".join([STATUS_LINE[problems.STATUS[type(error)]], *lines, b"\r\n", body])


def error_of(error: httptools.HttpParserError, *, in_head: bool) -> BrokerError:
    """Return the error for the client, for an error of the parser.

    Args:
        error: The error.
        in_head: Whether the head is not complete.

    Raises:
        Exception: The exception of a callback that is an internal error.
    """
    if isinstance(error, httptools.HttpParserCallbackError):
        cause = error.__context__
        if isinstance(cause, BrokerError):
            return cause
        if isinstance(cause, (httptools.HttpParserInvalidURLError, UnicodeError)):
            return BadRequest(TARGET_CURE)
        raise cause or error
    return malformed_head(str(error)) if in_head else BadRequest(CHUNKS_CURE)
