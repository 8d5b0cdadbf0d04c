"""What one connection may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """The bounds of a connection: beyond them a request is refused and the connection closed.

    Args:
        header_bytes: Names and values of the header fields of a request, and 4 more for each field.
        header_count: Header fields of a request.
        url_bytes: The request target with its query.
        header_timeout_ms: From the first byte of a request to the end of its head; also from connecting to
            the first byte.
        body_timeout_ms: Without a byte of the body. While the application does not read, it is not counted.
        body_bytes_per_s: The least average speed of a body after its first `body_timeout_ms`, so that it
            cannot drip for ever.
        keep_alive_ms: Idle after a response. Longer than the 60 s after which common load balancers close an
            idle connection, so that none sends into one that is being closed.
        linger_ms: Reading on after a refusal: closing at once would reset the connection before a client that
            is still sending has read the answer.
        pipelined_requests: Requests that wait for the answer of the one before them.
    """

    header_bytes: int = 32 * 1024
    header_count: int = 100
    url_bytes: int = 16 * 1024
    header_timeout_ms: int = 10_000
    body_timeout_ms: int = 30_000
    body_bytes_per_s: int = 1024
    keep_alive_ms: int = 75_000
    linger_ms: int = 1_000
    pipelined_requests: int = 100
