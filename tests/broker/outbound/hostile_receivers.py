"""Receivers that behave badly, and what becomes of an attempt at each: the one table of them."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from tests.broker.outbound.certificates import Authority
    from tests.broker.outbound.receivers import Exchange

    Behaviour = Callable[[Exchange], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\n"
OK_EMPTY = OK + b"content-length: 0\r\n\r\n"
OK_BODY = OK + b"content-length: 2\r\n\r\nok"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(20_000_000))
NOT_HTTP = "the answer is not HTTP"
TOO_LONG = "the headers of the answer are too long"
CLOSED = "was closed|was reset|is not HTTP"


class Hostile(NamedTuple):
    """A receiver that behaves badly.

    Attributes:
        behave: What it does with a request.
        outcome: What becomes of the attempt.
        status: The status of the attempt, if there was an answer.
        error: A pattern of its error.
        tls: Makes its certificate; None for a receiver without TLS.
        is_tls_url: Whether its URL begins with https://.
        reads: Whether it reads requests before it behaves.
        attempts: How many requests are sent to it, one after the other; each has this outcome.
    """

    name: str
    behave: Behaviour
    outcome: str
    status: int | None = None
    error: str = ""
    tls: Callable[[Authority], ssl.SSLContext] | None = None
    is_tls_url: bool = False
    reads: bool = True
    attempts: int = 1

    @property
    def timeout_s(self) -> int:
        """The shortest that a webhook can have if it is to be reached, else the longest."""
        return 1 if self.outcome == "timed_out" else 30


def _flood(start: bytes, part: bytes) -> Behaviour:
    return lambda exchange: exchange.flood(start, part)


def _trickle(start: bytes, part: bytes) -> Behaviour:
    return lambda exchange: exchange.trickle(start, part)


def _answer(status: int, *fields: str, body: bytes = b"") -> Behaviour:
    return lambda exchange: exchange.answer(
        status, *(field.format(canary=exchange.canaries.url) for field in fields), body=body
    )


def _send(*parts: bytes, then: str = "wait") -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(*parts)
        if then == "close":
            exchange.close()
        elif then == "reset":
            exchange.reset()
        else:
            await exchange.until_closed()

    return behave


def _send_all(data: bytes) -> Behaviour:
    return lambda exchange: exchange.send(data)


async def _wait(exchange: Exchange) -> None:
    await exchange.until_closed()


async def _read_nothing(exchange: Exchange) -> None:
    exchange.writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that also reads
    await exchange.trickle(b"", b"")


async def _answer_before_the_body(exchange: Exchange) -> None:
    await exchange.answer(200, "connection: close")
    await exchange.until_closed()


async def _answer_and_close(exchange: Exchange) -> None:
    await exchange.answer(200)
    exchange.close()


async def _close_when_asked_again(exchange: Exchange) -> None:
    if exchange.number == 1:
        await exchange.answer(200)
    else:
        exchange.close()


async def _reset_when_asked_again(exchange: Exchange) -> None:
    if exchange.number == 1:
        await exchange.answer(200)
    else:
        exchange.reset()


async def _leave_in_the_handshake(exchange: Exchange) -> None:
    await exchange.reader.read(1)
    exchange.close()


async def _informational_then_ok(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    await exchange.answer(200)


_PARTS_200 = OK + b"content-length: 100\r\n\r\n"

SLOW = [
    Hostile("says nothing", _wait, "timed_out"),
    Hostile("sends its status line byte by byte", _trickle(b"HTTP/1.1 ", b"2"), "timed_out"),
    Hostile("sends headers without end, slowly", _trickle(OK, b"a: b\r\n"), "timed_out"),
    Hostile(
        "sends one byte of its body now and then", _trickle(OK + b"content-length: 9999\r\n\r\n", b"x"), "timed_out"
    ),
    Hostile("sends one chunk now and then", _trickle(CHUNKED, b"1\r\nx\r\n"), "timed_out"),
    Hostile("sends informational answers now and then", _trickle(b"", b"HTTP/1.1 102 Wait\r\n\r\n"), "timed_out"),
    Hostile("stops in its headers", _send(OK + b"a: b"), "timed_out"),
    Hostile("stops in its body", _send(_PARTS_200 + b"x"), "timed_out"),
    Hostile("stops in a chunk", _send(CHUNKED + b"a\r\nx"), "timed_out"),
    Hostile("reads nothing", _read_nothing, "timed_out", reads=False),
    Hostile("never begins TLS", _wait, "timed_out", is_tls_url=True, reads=False),
]
LARGE = [
    Hostile("sends a body without end", _flood(CHUNKED, b"1000\r\n" + bytes(4096) + b"\r\n"), "delivered", 200),
    Hostile("sends a body without length and end", _flood(OK + b"\r\n", bytes(4096)), "delivered", 200),
    Hostile(
        "fails with a body without end",
        _flood(b"HTTP/1.1 500 No\r\n\r\n", b"no " * 1_000),
        "failed",
        500,
        "the receiver answered 500",
    ),
    Hostile(
        "says that its body has a petabyte",
        _flood(OK + b"content-length: 1000000000000000\r\n\r\n", bytes(4096)),
        "delivered",
        200,
    ),
    Hostile(
        "sends a gzip bomb",
        _send(OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB), BOMB),
        "delivered",
        200,
    ),
    Hostile("sends chunks of one byte without end", _flood(CHUNKED, b"1\r\nx\r\n" * 100), "delivered", 200),
    Hostile("sends a chunk extension without end", _flood(CHUNKED + b"1;a=", b"x" * 4096), "delivered", 200),
    Hostile("sends trailers without end", _flood(CHUNKED + b"0\r\n", b"a: b\r\n" * 100), "delivered", 200),
    Hostile("sends ten megabytes of headers", _flood(OK, b"a: %b\r\n" % (b"x" * 4096)), "failed", None, TOO_LONG),
    Hostile("sends short headers without end", _flood(OK, b"a:\r\n" * 100), "failed", None, TOO_LONG),
    Hostile("sends one header without end", _flood(OK + b"a: ", b"x" * 4096), "failed", None, TOO_LONG),
    Hostile("sends a status line without end", _flood(b"HTTP/1.1 200 ", b"x" * 4096), "failed", None, TOO_LONG),
    Hostile("sends a flood of 100", _flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "failed", None, TOO_LONG),
    Hostile(
        "sends a flood of 103", _flood(b"", b"HTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" * 9), "failed", None, TOO_LONG
    ),
]
MALFORMED = [
    Hostile("sends HTML without headers", _send(b"<html>Hello</html>\r\n", then="close"), "failed", None, NOT_HTTP),
    Hostile("greets like SSH", _send(b"SSH-2.0-Secret_9.6\r\n\r\n"), "failed", None, "illegal status line$"),
    Hostile("sends bytes of no protocol", _send(bytes(range(256)) * 9, then="close"), "failed", None, NOT_HTTP),
    Hostile("speaks HTTP/2", _send(b"\0\0\x12\x04\0\0\0\0\0" + bytes(18), b"\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile("says HTTP/2 in text", _send(b"HTTP/2 200 OK\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile("has the status 099", _send(b"HTTP/1.1 099 Low\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile("has the status 999", _answer(999), "failed", 999, "the receiver answered 999"),
    Hostile("has a status of letters", _send(b"HTTP/1.1 OK\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile("has NUL in a header", _send(OK + b"a: \0\r\n\r\n"), "failed", None, "illegal header line$"),
    Hostile("has a space before a colon", _send(OK + b"a : b\r\n\r\n"), "failed", None, "illegal header line$"),
    Hostile("folds a header", _send_all(OK + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n"), "delivered", 200, attempts=2),
    Hostile("ends its lines with LF", _send_all(OK[:-2] + b"\ncontent-length: 0\n\n"), "delivered", 200, attempts=2),
    Hostile("has a length of letters", _send(OK + b"content-length: ten\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile("has a negative length", _send(OK + b"content-length: -1\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile(
        "has two lengths", _send(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx"), "failed", None, NOT_HTTP
    ),
    Hostile("has a chunk size of letters", _send(CHUNKED + b"zz\r\n"), "failed", None, "illegal chunk header$"),
    Hostile("has a chunk of 2^80 bytes", _send(CHUNKED + b"F" * 20 + b"\r\n", then="close"), "failed", None, NOT_HTTP),
    Hostile("has chunks in an unknown coding", _send(OK + b"transfer-encoding: br\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile("switches protocols", _send(b"HTTP/1.1 101 Go\r\nupgrade: x\r\n\r\n"), "failed", None, NOT_HTTP),
    Hostile("answers 204 with a body", _answer(204, body=b"x" * 100), "delivered", 204, attempts=2),
    Hostile("sends an empty line behind its answer", _send_all(OK_EMPTY + b"\r\n"), "delivered", 200, attempts=3),
    Hostile("sends an empty line behind its body", _send_all(OK_BODY + b"\r\n"), "delivered", 200, attempts=3),
    Hostile("sends two answers", _send_all(OK_BODY + b"HTTP/1.1 500 No\r\n\r\n"), "delivered", 200, attempts=3),
    Hostile("answers as HTTP/1.0", _send(b"HTTP/1.0 200 OK\r\n\r\nok", then="close"), "delivered", 200),
    Hostile(
        "speaks plain HTTP with an https URL", _answer(200), "failed", None, "TLS failed", is_tls_url=True, reads=False
    ),
]
CLOSING = [
    Hostile("closes at once", _send(then="close"), "failed", None, CLOSED),
    Hostile("resets at once", _send(then="reset"), "failed", None, CLOSED),
    Hostile("closes in its headers", _send(OK + b"a: b", then="close"), "failed", None, CLOSED),
    Hostile("resets in its headers", _send(OK + b"a: b", then="reset"), "failed", None, CLOSED),
    Hostile("closes in its body", _send(_PARTS_200 + b"x", then="close"), "failed", None, CLOSED),
    Hostile("resets in its body", _send(_PARTS_200 + b"x", then="reset"), "failed", None, CLOSED),
    Hostile("closes in a chunk", _send(CHUNKED + b"a\r\nx", then="close"), "failed", None, CLOSED),
    Hostile("closes a kept connection", _answer_and_close, "delivered", 200, attempts=3),
    Hostile("closes when asked again", _close_when_asked_again, "delivered", 200, attempts=3),
    Hostile("resets when asked again", _reset_when_asked_again, "delivered", 200, attempts=3),
    Hostile("answers before it reads the body", _answer_before_the_body, "delivered", 200, reads=False),
    Hostile("sends informational answers first", _informational_then_ok, "delivered", 200, attempts=2),
    Hostile("leaves in the handshake", _leave_in_the_handshake, "failed", is_tls_url=True, reads=False),
]
ANSWERING = [
    *(
        Hostile(f"redirects with {status}", _answer(status, "location: {canary}/"), "failed", status, f"{status}$")
        for status in (300, 301, 302, 303, 307, 308)
    ),
    Hostile("redirects in a success", _answer(201, "location: {canary}/", "refresh: 0; {canary}"), "delivered", 201),
    Hostile("moves by Alt-Svc", _answer(200, 'alt-svc: h2="{canary}"', "link: {canary}"), "delivered", 200, attempts=2),
    Hostile("says 304", _answer(304), "failed", 304, "answered 304"),
    Hostile("wants a password", _answer(401, 'www-authenticate: Basic realm="x"'), "failed", 401, "answered 401"),
    Hostile("says that it is a proxy", _answer(407, "proxy-authenticate: Basic"), "failed", 407, "answered 407"),
    Hostile("is gone", _answer(410), "failed", 410, "answered 410"),
    *(
        Hostile(f"says retry after {value[:30]}", _answer(status, f"retry-after: {value}"), "failed", status)
        for status, value in (
            (429, "86400"),
            (429, "-1"),
            (429, "soon"),
            (429, "9" * 400),
            (429, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (429, "Wed, 99 Foo 99999 99:99:99 +9999"),
            (503, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (503, ""),
        )
    ),
    Hostile("says no to all", _answer(500, body=b"\xff\0no"), "failed", 500, "answered 500"),
]  # fmt: skip
TLS = [
    Hostile("has a good certificate", _answer(200), "delivered", 200, "", lambda ca: ca.server_context(), True),
    Hostile(
        "has a certificate for another name",
        _answer(200),
        "failed",
        None,
        "certificate is not accepted.*mismatch",
        lambda ca: ca.server_context("other.example"),
        True,
    ),
    Hostile(
        "has an expired certificate",
        _answer(200),
        "failed",
        None,
        "certificate is not accepted.*expired",
        lambda ca: ca.server_context(days=(-9, -1)),
        True,
    ),
    Hostile(
        "has a certificate from tomorrow on",
        _answer(200),
        "failed",
        None,
        "certificate is not accepted.*not yet valid",
        lambda ca: ca.server_context(days=(1, 9)),
        True,
    ),
    Hostile(
        "has signed its certificate itself",
        _answer(200),
        "failed",
        None,
        "certificate is not accepted.*self.signed",
        lambda ca: ca.server_context(self_signed=True),
        True,
    ),
    Hostile(
        "wants a certificate of the client",
        _answer(200),
        "failed",
        None,
        "",
        lambda ca: ca.server_context(asks_client=True),
        True,
    ),
    Hostile("speaks TLS with an http URL", _answer(200), "failed", None, "", lambda ca: ca.server_context()),
]
HOSTILE = [*SLOW, *LARGE, *MALFORMED, *CLOSING, *ANSWERING, *TLS]
