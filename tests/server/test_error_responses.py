"""Invalid HTTP is rejected with a problem document."""

from __future__ import annotations

import json

import pytest

from tests.server.tiny_server_process import CHUNKED, GET, POST, TinyServer, parse, problem, read_to_end, read_until


def test_twenty_thousand_header_fields_are_rejected(server: TinyServer) -> None:
    fields = b"".join(b"X-%d: a\r\n" % i for i in range(20_000))

    detail = problem(server.exchange(GET[:-2], fields, b"\r\n"), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")

    assert "32768 bytes" in detail or "100 header fields" in detail


def test_a_hundred_and_one_small_header_fields_are_431(server: TinyServer) -> None:
    fields = b"".join(b"X-%d: a\r\n" % i for i in range(100))

    detail = problem(server.exchange(GET[:-2] + fields + b"\r\n"), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")

    assert detail == "Send at most 100 header fields."


def test_a_hundred_header_fields_are_accepted(server: TinyServer) -> None:
    fields = b"".join(b"X-%d: a\r\n" % i for i in range(98))

    response = parse(server.exchange(GET[:-2] + fields + b"Connection: close\r\n\r\n"))

    assert response.status == 200
    assert len(json.loads(response.body)["names"]) == 100


@pytest.mark.parametrize("size", [33_000, 5_000_000])
def test_a_header_field_that_is_too_large_is_431(server: TinyServer, size: int) -> None:
    received = server.exchange(GET[:-2] + b"X: ", b"a" * size, b"\r\n\r\n")

    detail = problem(received, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")

    assert detail == "Send at most 32768 bytes of header fields."


def test_an_endless_head_is_rejected_at_its_size_limit(server: TinyServer) -> None:
    received = server.exchange(GET[:-2] + b"X: ", b"a" * 1_000_000)

    problem(received, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")


def test_a_large_body_in_the_same_read_does_not_count_as_header(server: TinyServer) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"

    response = parse(server.exchange(head + b"b" * 100_000))

    assert response.status == 200
    assert json.loads(response.body)["body"] == "b" * 100_000


def test_a_request_target_that_is_too_long_is_414(server: TinyServer) -> None:
    received = server.exchange(b"GET /?" + b"q" * 16 * 1024 + b" HTTP/1.1\r\nHost: a\r\n\r\n")

    assert "16384 bytes" in problem(received, 414, "URI_TOO_LONG")


@pytest.mark.parametrize(
    ("request_bytes", "hint"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "Host"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "Host"),
        (b"GET /\r\n\r\n", "HTTP/1.1"),
        (b"GET / HTTP/3.7\r\nHost: a\r\n\r\n", "HTTP/1.1"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "CRLF"),
        (b"GRAB / HTTP/1.1\r\nHost: a\r\n\r\n", "method"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "percent-encoded"),
        ("GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), "percent-encoded"),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "percent-encoded"),
        (b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "/path"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "/path"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", "control characters"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "header"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "header"),
        (CHUNKED[:-2] + b"Content-Length: 3\r\n\r\nabc", "one length"),
        (POST[:-2] + b"Transfer-Encoding: chunked\r\n\r\nabcde", "one length"),
        (POST[:-2] + b"Content-Length: 5\r\n\r\nabcde", "one length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "one length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "chunked"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "chunked"),
        (CHUNKED + b"secret\r\nabc", "chunk"),
    ],
)
def test_invalid_http_is_a_problem_with_a_cure(server: TinyServer, request_bytes: bytes, hint: str) -> None:
    detail = problem(server.exchange(request_bytes), 400, "BAD_REQUEST")

    assert hint.lower() in detail.lower()
    assert "secret" not in detail


def test_the_application_receives_a_disconnect_after_an_invalid_chunk(server: TinyServer) -> None:
    before = len(server.events())

    received = server.exchange(CHUNKED, b"3\r\nabc\r\n", b"nonsense\r\n")

    assert "hexadecimal" in problem(received, 400, "BAD_REQUEST")
    assert server.events()[before:] == ["disconnect"]


def test_a_response_that_has_begun_is_aborted_without_a_problem(server: TinyServer) -> None:
    with server.connect() as client:
        client.sendall(CHUNKED.replace(b" / ", b" /stream "))
        received = read_until(client, b"begun\r\n")
        client.sendall(b"nonsense\r\n")
        received += read_to_end(client)

    assert b"begun" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert b"problem" not in received


def test_trailers_are_not_headers_and_have_a_size_limit(server: TinyServer) -> None:
    trailed = CHUNKED[:-2] + b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: a\r\n\r\n"
    endless = CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: "

    facts = json.loads(parse(server.exchange(trailed)).body)
    received = server.exchange(endless, b"a" * 1_000_000)

    assert facts["names"] == ["host", "transfer-encoding", "connection"]
    assert facts["body"] == "abc"
    problem(received, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")
