"""The server starts and stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess

import pytest

from tests.server.tiny_server_process import (
    DEADLINE_S,
    GET,
    POST,
    PROGRAM,
    ROOT,
    TinyServer,
    closing,
    parse,
    read_to_end,
    read_until,
    running,
)


def finish(server: TinyServer) -> tuple[int, str, str]:
    """Wait for the exit; return the exit code, stdout and stderr."""
    out, err = server.process.communicate(timeout=DEADLINE_S)
    return server.process.returncode, out, err


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_waiting_requests_with_an_answer_and_exits_with_0(sent: signal.Signals) -> None:
    with running() as server, server.connect() as idle, server.connect() as client:
        idle.sendall(GET)
        read_until(idle, b"}")
        client.sendall(b"GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.out.readline() == "waiting\n"

        server.process.send_signal(sent)
        response = parse(read_to_end(client))
        rest = read_to_end(idle)
        code, out, err = finish(server)

    assert (response.status, response.body, response.headers["connection"]) == (200, b"stopping", "close")
    assert rest == b""
    assert (code, out, err) == (0, "cleaned up\n", "")


def test_a_request_that_does_not_end_is_aborted_without_a_traceback() -> None:
    with running() as server, server.connect() as client:
        client.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.out.readline() == "stuck\n"

        server.process.terminate()
        received = read_to_end(client)
        code, out, err = finish(server)

    assert (code, out) == (0, "cleaned up\n")
    assert received == b""
    assert err == "Cut off 1 requests that did not end within 500 ms: GET /stuck\n"


def test_a_second_signal_aborts_at_once() -> None:
    with running(grace_ms=60_000) as server, server.connect() as client:
        client.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.out.readline() == "stuck\n"

        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        code, out, err = finish(server)

    assert (code, out) == (0, "cleaned up\n")
    assert "Traceback" not in err


def test_a_stop_refuses_requests_whose_body_is_incomplete() -> None:
    with running() as server, server.connect() as client, server.connect() as other:
        client.sendall(GET + b"GET / HT")
        read_until(client, b"}")
        other.sendall(POST + b"hel")

        server.process.terminate()
        refused = parse(read_to_end(other))
        code, out, err = finish(server)

    assert (code, out, err) == (0, "cleaned up\n", "")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert json.loads(refused.body)["retriable"] is True


def test_a_port_in_use_is_reported_in_one_sentence() -> None:
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


def test_an_address_of_another_machine_is_reported_in_one_sentence() -> None:
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
        "millrace: 192.0.2.1 is not an address of this machine: "
        "use --host 127.0.0.1, or 0.0.0.0 for all its interfaces.\n"
    )


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_host_may_be_an_ipv6_address(host: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with running(host) as server, server.connect("::1") as client:
        client.sendall(closing("/six"))

        assert parse(read_to_end(client)).status == 200
