"""Connections: pipelining, disconnects and timeouts."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from typing import TYPE_CHECKING

import pytest
import uvicorn

from app.server.limits import ProtocolLimits
from app.server.uvicorn import Server, limited_protocol
from tests.server.tiny_server_process import (
    CHUNKED,
    DEADLINE_S,
    GET,
    POST,
    TinyServer,
    closing,
    drip,
    json_bodies,
    parse,
    problem,
    read_to_end,
    read_until,
    running,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


def test_http_1_0_needs_no_host_and_closes(server: TinyServer) -> None:
    response = parse(server.exchange(b"GET /old HTTP/1.0\r\n\r\n"))

    assert response.status == 200
    assert json.loads(response.body) == {"path": "/old", "version": "1.0", "names": [], "body": ""}


def test_requests_may_arrive_byte_by_byte_on_one_connection(server: TinyServer) -> None:
    with server.connect() as client:
        for _ in range(3):
            for i in range(len(POST)):
                client.sendall(POST[i : i + 1])
            client.sendall(b"hello")
            received = read_until(client, b"}")

            assert json.loads(parse(received).body)["body"] == "hello"


def test_pipelined_requests_are_answered_in_order(server: TinyServer) -> None:
    paths = [f"/{i}" for i in range(20)]
    requests = b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths)

    received = server.exchange(requests + closing("/last"))

    assert [json.loads(part)["path"] for part in json_bodies(received)] == [*paths, "/last"]


def test_the_rejection_of_a_pipelined_request_follows_the_earlier_answers(server: TinyServer) -> None:
    received = server.exchange(GET + GET + b"GET / HTTP/1.1\r\n\r\n" + GET)

    assert received.count(b"HTTP/1.1 200") == 2
    assert received.count(b"HTTP/1.1 4") == 1
    problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_an_invalid_pipelined_body_is_rejected_after_the_earlier_answer(server: TinyServer) -> None:
    received = server.exchange(GET + CHUNKED + b"nonsense\r\n")

    assert received.count(b"HTTP/1.1 200") == 1
    problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_the_number_of_pipelined_requests_is_limited(server: TinyServer) -> None:
    received = server.exchange(GET * 200)

    assert received.count(b"HTTP/1.1 200") == 101
    assert "100 requests" in problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_an_upgrade_header_is_ignored_and_the_body_is_read(server: TinyServer) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"

    received = server.exchange(POST[:-2] + offer + b"hello" + POST[:-2] + offer + b"again" + closing("/"))

    assert [json.loads(part)["body"] for part in json_bodies(received)] == ["hello", "again", ""]


def test_an_invalid_request_after_an_upgrade_header_is_rejected(server: TinyServer) -> None:
    offer = POST[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

    received = server.exchange(offer + b"hello" + b"GET / HTTP/1.1\r\n\r\n")

    assert received.count(b"HTTP/1.1 200") == 1
    assert "Host" in problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_an_answer_before_the_end_of_the_body_keeps_the_connection(server: TinyServer) -> None:
    with server.connect() as client:
        client.sendall(POST.replace(b" / ", b" /too-large "))
        received = read_until(client, b"too large")
        client.sendall(b"hello" + closing("/next"))
        following = parse(read_to_end(client))

    assert parse(received).status == 413
    assert json.loads(following.body)["path"] == "/next"


def test_the_application_receives_the_disconnect_of_its_client() -> None:
    with running() as server:
        with server.connect() as client:
            client.sendall(b"GET /disconnect HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
            assert server.out.readline() == "reading\n"
            client.sendall(GET)

        assert server.out.readline() == "disconnected\n"


def test_a_connection_without_a_request_is_closed_without_a_response(short_timeouts: TinyServer) -> None:
    assert short_timeouts.exchange() == b""


def test_an_idle_connection_is_closed_without_another_response(short_timeouts: TinyServer) -> None:
    received = short_timeouts.exchange(GET)

    assert received.count(b"HTTP/1.1") == 1
    assert parse(received).status == 200


def test_empty_lines_do_not_keep_a_connection_open(short_timeouts: TinyServer) -> None:
    with short_timeouts.connect() as client:
        client.settimeout(0.05)
        received = drip(client, b"\r\n")

    assert received == b""


def test_an_incomplete_head_is_408(short_timeouts: TinyServer) -> None:
    assert "200 ms" in problem(short_timeouts.exchange(b"GET / HT"), 408, "REQUEST_TIMED_OUT")


def test_a_slow_head_is_408(short_timeouts: TinyServer) -> None:
    with short_timeouts.connect() as client:
        client.settimeout(0.05)
        client.sendall(b"GET / HTTP/1.1\r\n")
        received = drip(client, b"X: a\r\n")

    problem(received, 408, "REQUEST_TIMED_OUT")


def test_an_incomplete_body_is_408_and_a_disconnect_for_the_application(short_timeouts: TinyServer) -> None:
    before = len(short_timeouts.events())

    received = short_timeouts.exchange(POST + b"hel")

    assert "200 ms" in problem(received, 408, "REQUEST_TIMED_OUT")
    assert short_timeouts.events()[before:] == ["disconnect"]


def test_a_slow_body_is_408(short_timeouts: TinyServer) -> None:
    with short_timeouts.connect() as client:
        client.settimeout(0.05)
        client.sendall(POST.replace(b": 5", b": 100"))
        received = drip(client, b"b")

    problem(received, 408, "REQUEST_TIMED_OUT")


def test_the_timeout_of_a_second_request_starts_with_its_first_byte(short_timeouts: TinyServer) -> None:
    received = short_timeouts.exchange(GET + b"GET / HT")

    assert received.startswith(b"HTTP/1.1 200")
    problem(received[received.rindex(b"HTTP/1.1 408") :], 408, "REQUEST_TIMED_OUT")


def test_a_complete_request_has_no_timeout(short_timeouts: TinyServer) -> None:
    with short_timeouts.connect() as client:
        client.settimeout(0.5)
        client.sendall(b"GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n")

        with pytest.raises(TimeoutError):
            client.recv(1)


@pytest.mark.anyio
async def test_a_request_is_freed_without_a_garbage_collection() -> None:
    freed: asyncio.Queue[object] = asyncio.Queue()
    requests: list[weakref.ref[object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        requests.append(weakref.ref(scope["millrace.answer"].args[0], freed.put_nowait))
        assert scope["millrace.answer"](200, b"content-length: 2\r\n", b"ok")

    listening = socket.create_server(("127.0.0.1", 0))
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = uvicorn.Config(app, http=limited_protocol(ProtocolLimits()), lifespan="off", log_level="error")
    server = Server(config, on_stop=lambda: None, on_ready=ready.set_result)
    gc.disable()
    try:
        serving = asyncio.create_task(server.serve([listening]))
        reader, writer = await asyncio.open_connection("127.0.0.1", await ready)
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        # The connection refers to its last request.
        async with asyncio.timeout(DEADLINE_S):
            await freed.get()
            await freed.get()
        assert [each() for each in requests[:-1]] == [None, None]
        writer.close()
        server.stop()
        await serving
    finally:
        gc.enable()
