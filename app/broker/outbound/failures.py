"""What went wrong in a request to another server, and whose fault it is."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import httpcore2

from app.broker.outbound.connections import AnswerTooLong, NotConnected
from app.broker.outbound.exchange import NotSent, SendBlocked, SendFailed, SendTimedOut

_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_MAX_REASON = 200
_REASONS: tuple[tuple[type[BaseException], Callable[[Any], str]], ...] = (
    (AnswerTooLong, lambda _: "the headers of the answer are too long"),
    (ssl.SSLCertVerificationError, lambda error: f"the certificate is not accepted: {error.verify_message}"),
    (ssl.SSLError, lambda error: f"TLS failed: {error.reason or 'handshake failure'}"),
    (ConnectionRefusedError, lambda _: "the connection was refused"),
    (ConnectionResetError, lambda _: "the connection was reset"),
    (
        httpcore2.ProtocolError,
        lambda error: f"the answer is not HTTP, or not complete: {str(error).partition(': b')[0]}",
    ),
)


def failure_of(error: Exception, timeout_s: float) -> SendFailed:
    """Return a failure of the HTTP library or of a socket in words for the owner of the receiver.

    They name no address of this side, and quote nothing of the answer: who may read attempts may not read answers.
    """
    if isinstance(error, NotConnected):
        return error.failure
    if isinstance(error, TimeoutError | httpcore2.TimeoutException):
        return SendTimedOut(f"no complete answer within {timeout_s:g} s")
    if isinstance(error, httpcore2.ProxyError):
        return _proxy_failure(str(error)[:3])
    return _connection_failure(error)


def _connection_failure(error: Exception) -> SendFailed:
    causes = list(_chain(error))
    if any(isinstance(each, OSError) and each.errno in _OURS for each in causes):
        return NotSent("this server has no socket left for the request")
    for cause in causes:
        for kind, reason in _REASONS:
            if isinstance(cause, kind):
                return SendFailed(reason(cause)[:_MAX_REASON])
    if isinstance(error, httpcore2.ConnectError):
        return SendFailed("no connection could be made")
    return SendFailed("the connection was closed before the answer was complete")


def _proxy_failure(status: str) -> SendFailed:
    """Return what it means that the proxy refuses a tunnel; some proxies refuse receivers with 407."""
    if status == "403":
        return SendBlocked("the egress proxy refuses this receiver with 403")
    if status == "407":
        return SendFailed("the egress proxy refuses this receiver, or its own credentials, with 407")
    if status.startswith("5"):
        return SendFailed(f"the egress proxy does not reach the receiver, and answers {status}")
    return NotSent(f"the egress proxy makes no tunnel, and answers {status}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
