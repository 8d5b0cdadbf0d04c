"""The server as a process: what it refuses on the wire, how long it waits, and how it stops."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-W", "error", "-m", "tests.e2e.tiny_server"]
DEADLINE_S = 10
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    out: IO[str]

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), timeout=DEADLINE_S)

    def exchange(self, *parts: bytes) -> bytes:
        """Send, and read until the server closes."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
            return read_to_end(client)

    def seen(self) -> Any:
        return json.loads(self.exchange(closing("/seen")).partition(b"\r\n\r\n")[2])


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


def closing(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


def read_to_end(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def read_until(client: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = client.recv(65536)
        assert piece, received
        received += piece
    return received


def parse(received: bytes) -> Response:
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    return Response(int(status.split()[1]), headers, body)


def problem(received: bytes, status: int, code: str) -> str:
    """Check that this is one whole problem document, and return its detail."""
    response = parse(received)
    document = json.loads(response.body)
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-length"] == str(len(response.body))
    assert response.headers["x-request-id"] == document["request_id"]
    assert response.body.endswith(b"}\n")
    assert list(document) == ["type", "title", "status", "detail", "code", "retriable", "request_id"]
    assert document["type"] == "/problems/" + code.lower().replace("_", "-")
    assert (document["status"], document["code"], document["retriable"]) == (status, code, False)
    assert len(document["request_id"]) == 32
    detail: str = document["detail"]
    return detail


@contextlib.contextmanager
def running(host: str = "127.0.0.1", **limits: int) -> Iterator[Running]:
    command = [*PROGRAM, host, "0", json.dumps(limits)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Running(process, int(process.stdout.readline()), process.stdout)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server with the default limits."""
    with running() as each:
        yield each


@pytest.fixture(scope="module")
def impatient() -> Iterator[Running]:
    """A server that waits 200 ms."""
    with running(header_timeout_ms=200, body_timeout_ms=200, keep_alive_ms=200, linger_ms=200) as each:
        yield each


# ── what is refused ──────────────────────────────────────────────────────────────────────────


def test_twenty_thousand_header_fields_are_431(server: Running) -> None:
    fields = b"".join(b"X-%d: a\r\n" % i for i in range(20_000))

    detail = problem(server.exchange(GET[:-2], fields, b"\r\n"), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")

    assert "32768 bytes" in detail or "100 header fields" in detail


def test_a_hundred_and_one_small_header_fields_are_431(server: Running) -> None:
    fields = b"".join(b"X-%d: a\r\n" % i for i in range(100))

    detail = problem(server.exchange(GET[:-2] + fields + b"\r\n"), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")

    assert detail == "Send at most 100 header fields."


def test_a_hundred_header_fields_are_accepted(server: Running) -> None:
    fields = b"".join(b"X-%d: a\r\n" % i for i in range(98))

    response = parse(server.exchange(GET[:-2] + fields + b"Connection: close\r\n\r\n"))

    assert response.status == 200
    assert len(json.loads(response.body)["names"]) == 100


@pytest.mark.parametrize("size", [33_000, 5_000_000])
def test_a_header_field_that_is_too_large_is_431(server: Running, size: int) -> None:
    received = server.exchange(GET[:-2] + b"X: ", b"a" * size, b"\r\n\r\n")

    detail = problem(received, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")

    assert detail == "Send at most 32768 bytes of header fields."


def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory(server: Running) -> None:
    received = server.exchange(GET[:-2] + b"X: ", b"a" * 1_000_000)

    problem(received, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")


def test_a_large_body_in_the_same_read_does_not_count_as_header(server: Running) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"

    response = parse(server.exchange(head + b"b" * 100_000))

    assert response.status == 200
    assert json.loads(response.body)["body"] == "b" * 100_000


def test_a_request_target_that_is_too_long_is_414(server: Running) -> None:
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
def test_what_is_not_http_is_a_problem_that_says_what_to_do(server: Running, request_bytes: bytes, hint: str) -> None:
    detail = problem(server.exchange(request_bytes), 400, "BAD_REQUEST")

    assert hint.lower() in detail.lower()
    assert "secret" not in detail


def test_the_application_sees_a_disconnect_when_chunks_break_in_mid_body(server: Running) -> None:
    before = len(server.seen())

    received = server.exchange(CHUNKED, b"3\r\nabc\r\n", b"nonsense\r\n")

    assert "hexadecimal" in problem(received, 400, "BAD_REQUEST")
    assert server.seen()[before:] == ["disconnect"]


def test_a_response_that_has_begun_is_cut_and_not_mixed_with_a_problem(server: Running) -> None:
    with server.connect() as client:
        client.sendall(CHUNKED.replace(b" / ", b" /stream "))
        received = read_until(client, b"begun\r\n")
        client.sendall(b"nonsense\r\n")
        received += read_to_end(client)

    assert b"begun" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert b"problem" not in received


def test_trailers_do_not_become_headers_and_have_a_bound(server: Running) -> None:
    trailed = CHUNKED[:-2] + b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: a\r\n\r\n"
    endless = CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: "

    facts = json.loads(parse(server.exchange(trailed)).body)
    received = server.exchange(endless, b"a" * 1_000_000)

    assert facts["names"] == ["host", "transfer-encoding", "connection"]
    assert facts["body"] == "abc"
    problem(received, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")


# ── what is accepted ─────────────────────────────────────────────────────────────────────────


def test_http_1_0_needs_no_host_and_closes(server: Running) -> None:
    response = parse(server.exchange(b"GET /old HTTP/1.0\r\n\r\n"))

    assert response.status == 200
    assert json.loads(response.body) == {"path": "/old", "version": "1.0", "names": [], "body": ""}


def test_a_connection_is_kept_and_may_split_its_bytes_anywhere(server: Running) -> None:
    with server.connect() as client:
        for _ in range(3):
            for i in range(len(POST)):
                client.sendall(POST[i : i + 1])
            client.sendall(b"hello")
            received = read_until(client, b"}")

            assert json.loads(parse(received).body)["body"] == "hello"


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    paths = [f"/{i}" for i in range(20)]
    requests = b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths)

    received = server.exchange(requests + closing("/last"))

    assert [json.loads(part)["path"] for part in json_bodies(received)] == [*paths, "/last"]


def test_a_pipelined_mistake_waits_for_the_answers_before_it(server: Running) -> None:
    received = server.exchange(GET + GET + b"GET / HTTP/1.1\r\n\r\n" + GET)

    assert received.count(b"HTTP/1.1 200") == 2
    assert received.count(b"HTTP/1.1 4") == 1
    problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_a_pipelined_body_that_breaks_is_refused_after_the_answer_before_it(server: Running) -> None:
    received = server.exchange(GET + CHUNKED + b"nonsense\r\n")

    assert received.count(b"HTTP/1.1 200") == 1
    problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_a_pipeline_has_a_bound(server: Running) -> None:
    received = server.exchange(GET * 200)

    assert received.count(b"HTTP/1.1 200") == 101
    assert "100 requests" in problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_an_offer_of_another_protocol_is_ignored_and_the_body_kept(server: Running) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"

    received = server.exchange(POST[:-2] + offer + b"hello" + POST[:-2] + offer + b"again" + closing("/"))

    assert [json.loads(part)["body"] for part in json_bodies(received)] == ["hello", "again", ""]


def test_a_mistake_after_an_offer_of_another_protocol_is_refused(server: Running) -> None:
    offer = POST[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

    received = server.exchange(offer + b"hello" + b"GET / HTTP/1.1\r\n\r\n")

    assert received.count(b"HTTP/1.1 200") == 1
    assert "Host" in problem(received[received.rindex(b"HTTP/1.1 400") :], 400, "BAD_REQUEST")


def test_an_answer_before_the_end_of_the_body_keeps_the_connection(server: Running) -> None:
    with server.connect() as client:
        client.sendall(POST.replace(b" / ", b" /too-large "))
        received = read_until(client, b"too large")
        client.sendall(b"hello" + closing("/next"))
        following = parse(read_to_end(client))

    assert parse(received).status == 413
    assert json.loads(following.body)["path"] == "/next"


def test_the_application_sees_that_its_client_has_left() -> None:
    with running() as server:
        with server.connect() as client:
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
            assert server.out.readline() == "waiting\n"
            client.sendall(GET)

        assert server.out.readline() == "client left\n"


# ── how long it waits ────────────────────────────────────────────────────────────────────────


def test_a_connection_that_says_nothing_is_closed_without_a_word(impatient: Running) -> None:
    assert impatient.exchange() == b""


def test_an_idle_connection_is_closed_without_a_word(impatient: Running) -> None:
    received = impatient.exchange(GET)

    assert received.count(b"HTTP/1.1") == 1
    assert parse(received).status == 200


def test_empty_lines_do_not_keep_a_connection(impatient: Running) -> None:
    with impatient.connect() as client:
        client.settimeout(0.05)
        received = drip(client, b"\r\n")

    assert received == b""


def test_a_head_that_does_not_end_is_408(impatient: Running) -> None:
    assert "200 ms" in problem(impatient.exchange(b"GET / HT"), 408, "REQUEST_TIMED_OUT")


def test_a_head_that_drips_is_408(impatient: Running) -> None:
    with impatient.connect() as client:
        client.settimeout(0.05)
        client.sendall(b"GET / HTTP/1.1\r\n")
        received = drip(client, b"X: a\r\n")

    problem(received, 408, "REQUEST_TIMED_OUT")


def test_a_body_that_stops_is_408_and_a_disconnect_for_the_application(impatient: Running) -> None:
    before = len(impatient.seen())

    received = impatient.exchange(POST + b"hel")

    assert "200 ms" in problem(received, 408, "REQUEST_TIMED_OUT")
    assert impatient.seen()[before:] == ["disconnect"]


def test_a_body_that_drips_is_408(impatient: Running) -> None:
    with impatient.connect() as client:
        client.settimeout(0.05)
        client.sendall(POST.replace(b": 5", b": 100"))
        received = drip(client, b"b")

    problem(received, 408, "REQUEST_TIMED_OUT")


def test_a_second_request_is_timed_from_its_own_beginning(impatient: Running) -> None:
    received = impatient.exchange(GET + b"GET / HT")

    assert received.startswith(b"HTTP/1.1 200")
    problem(received[received.rindex(b"HTTP/1.1 408") :], 408, "REQUEST_TIMED_OUT")


def test_a_request_that_is_whole_may_take_its_time(impatient: Running) -> None:
    with impatient.connect() as client:
        client.settimeout(0.5)
        client.sendall(b"GET /parked HTTP/1.1\r\nHost: a\r\n\r\n")

        with pytest.raises(TimeoutError):
            client.recv(1)


# ── how it starts and stops ──────────────────────────────────────────────────────────────────


def finish(server: Running, started: float) -> tuple[float, int, str, str]:
    """Wait for the end; return the seconds it took, the exit code and what was said."""
    out, err = server.process.communicate(timeout=DEADLINE_S)
    return time.monotonic() - started, server.process.returncode, out, err


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_parked_requests_with_an_answer_and_the_process_with_0(sent: signal.Signals) -> None:
    with running() as server, server.connect() as idle, server.connect() as client:
        idle.sendall(GET)
        read_until(idle, b"}")
        client.sendall(b"GET /parked HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.out.readline() == "parked\n"

        started = time.monotonic()
        server.process.send_signal(sent)
        response = parse(read_to_end(client))
        rest = read_to_end(idle)
        took, code, out, err = finish(server, started)

    assert (response.status, response.body, response.headers["connection"]) == (200, b"stopping", "close")
    assert rest == b""
    assert (code, out, err) == (0, "cleaned up\n", "")
    assert took < 1


def test_a_request_that_does_not_end_is_cut_off_without_a_traceback() -> None:
    with running() as server, server.connect() as client:
        client.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.out.readline() == "stuck\n"

        started = time.monotonic()
        server.process.terminate()
        received = read_to_end(client)
        took, code, out, err = finish(server, started)

    assert (code, out) == (0, "cleaned up\n")
    assert received == b""
    assert err == "Cut off 1 requests that did not end within 500 ms.\n"
    assert took < 1.5


def test_a_second_signal_does_not_wait() -> None:
    with running() as server, server.connect() as client:
        client.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.out.readline() == "stuck\n"

        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        took, code, out, err = finish(server, started)

    assert (code, out) == (0, "cleaned up\n")
    assert "Traceback" not in err
    assert took < 0.5


def test_a_stop_does_not_wait_for_a_client_that_stalls() -> None:
    with running() as server, server.connect() as client, server.connect() as other:
        client.sendall(GET + b"GET / HT")
        read_until(client, b"}")
        other.sendall(POST + b"hel")

        started = time.monotonic()
        server.process.terminate()
        took, code, out, err = finish(server, started)

    assert (code, out) == (0, "cleaned up\n")
    assert "Traceback" not in err
    assert took < 1.5


def test_a_port_in_use_is_one_sentence() -> None:
    with running() as server:
        second = subprocess.run(
            [*PROGRAM, "127.0.0.1", str(server.port), "{}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr == (
        f"millrace: port {server.port} on 127.0.0.1 is in use: "
        "stop the server that uses it, or choose another with --port or MILLRACE_PORT.\n"
    )


def test_a_host_of_another_machine_is_one_sentence() -> None:
    second = subprocess.run(
        [*PROGRAM, "192.0.2.1", "0", "{}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert second.returncode == 1
    assert second.stderr == (
        "millrace: 192.0.2.1 is no address of this machine: use --host 127.0.0.1, or 0.0.0.0 for all its interfaces.\n"
    )


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_literal_is_a_host(host: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with running(host) as server, server.connect("::1") as client:
        client.sendall(closing("/six"))

        assert parse(read_to_end(client)).status == 200


def json_bodies(received: bytes) -> list[bytes]:
    return [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK\r\n")[1:]]


def drip(client: socket.socket, piece: bytes) -> bytes:
    """Send a piece with each of the client's timeouts until the server closes; return what it sent."""
    received = b""
    give_up = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up:
        try:
            part = client.recv(4096)
        except TimeoutError:
            with contextlib.suppress(ConnectionError):
                client.sendall(piece)
        except ConnectionError:
            return received
        else:
            if not part:
                return received
            received += part
    pytest.fail("the server went on reading")
