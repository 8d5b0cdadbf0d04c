"""Limits of a connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """The limits of a connection. A request that exceeds one is rejected, and the connection is closed.

    Args:
        header_bytes: Names and values of the header fields of a request, plus 4 bytes per field.
        header_count: Header fields of a request.
        url_bytes: The request target with its query.
        header_timeout_ms: From the first byte of a request to the end of its head, and from connecting to the
            first byte.
        body_timeout_ms: Longest pause within a body. Time in which the application does not read is not counted.
        body_bytes_per_s: Lowest average rate of a body after its first `body_timeout_ms`.
        write_timeout_ms: Longest time in which a client reads nothing of what waits to be sent to it.
        keep_alive_ms: Longest idle time after a response. Longer than the 60 s after which common load balancers
            close an idle connection, so that none sends a request while the server closes the connection.
        linger_ms: Time before the close after an error. An immediate close would reset the connection before a
            client that is still sending has read the answer.
        pipelined_requests: Requests that wait for the answer to an earlier request.
    """

    header_bytes: int = 32 * 1024
    header_count: int = 100
    url_bytes: int = 16 * 1024
    header_timeout_ms: int = 10_000
    body_timeout_ms: int = 30_000
    body_bytes_per_s: int = 16 * 1024
    write_timeout_ms: int = 30_000
    keep_alive_ms: int = 75_000
    linger_ms: int = 1_000
    pipelined_requests: int = 100
