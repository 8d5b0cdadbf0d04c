"""HTTP/1.0: bodies without chunks end with the connection, and no interim answer is sent."""

from __future__ import annotations

import json

import pytest

from tests.server.tiny_server_process import TinyServer, parse, read_to_end, read_until

EXPECT = b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"


def test_a_stream_is_not_chunked_and_ends_with_the_connection(server: TinyServer) -> None:
    answer = parse(server.exchange(b"GET /parts HTTP/1.0\r\n\r\n"))

    assert (answer.status, answer.body) == (200, b"one two three")
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"


def test_a_part_of_a_stream_arrives_at_once(server: TinyServer) -> None:
    with server.connect() as client:
        client.sendall(b"GET /stream HTTP/1.0\r\n\r\n")

        assert read_until(client, b"begun").endswith(b"\r\n\r\nbegun")


@pytest.mark.parametrize("fields", [b"", b"Connection: keep-alive\r\n", b"TE: chunked\r\n"])
def test_a_stream_to_a_client_of_http_1_1_is_chunked_and_to_1_0_never(server: TinyServer, fields: bytes) -> None:
    old = server.exchange(b"GET /parts HTTP/1.0\r\nHost: a\r\n" + fields + b"\r\n")
    new = server.exchange(b"GET /parts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert parse(old).body == b"one two three"
    assert b"transfer-encoding: chunked" in new
    assert new.endswith(b"0\r\n\r\n")


def test_head_of_a_stream_has_no_body(server: TinyServer) -> None:
    answer = parse(server.exchange(b"HEAD /parts HTTP/1.0\r\n\r\n"))

    assert (answer.status, answer.body) == (200, b"")
    assert "transfer-encoding" not in answer.headers


def test_whole_answers_keep_their_length(server: TinyServer) -> None:
    answer = parse(server.exchange(b"POST /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"))

    assert answer.headers["content-length"] == str(len(answer.body))
    assert json.loads(answer.body)["body"] == "hello"


def test_no_interim_answer_is_sent(server: TinyServer) -> None:
    answer = parse(server.exchange(b"POST /x HTTP/1.0\r\n" + EXPECT, b"hello"))

    assert answer.status == 200
    assert json.loads(answer.body)["body"] == "hello"


def test_a_client_of_http_1_1_still_gets_the_interim_answer(server: TinyServer) -> None:
    with server.connect() as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + EXPECT)
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")

        assert json.loads(parse(read_to_end(client)).body)["body"] == "hello"
