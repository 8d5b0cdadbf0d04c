"""Run `tiny_server.py` as a process and exchange raw bytes with it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-W", "error", "-m", "tests.server.tiny_server"]
DEADLINE_S = 10
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class TinyServer:
    """A running process of `tiny_server.py`."""

    process: subprocess.Popen[str]
    port: int
    out: IO[str]
    tls: ssl.SSLContext | None = None

    def connect(self, host: str = "127.0.0.1", *, source: str = "") -> socket.socket:
        """Open a connection, from another address of this machine if one is given; with `tls`, one of HTTPS."""
        plain = socket.create_connection((host, self.port), DEADLINE_S, (source, 0) if source else None)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname=host)

    def exchange(self, *parts: bytes) -> bytes:
        """Send the parts on one connection, and return what the server sends until it closes."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
            return read_to_end(client)

    def events(self) -> Any:
        """Return the disconnects that the application has received."""
        return json.loads(self.exchange(closing("/events")).partition(b"\r\n\r\n")[2])


@dataclass
class Response:
    """A response; header names and values are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def closing(path: str) -> bytes:
    """Return a GET request that closes its connection."""
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


def read_to_end(client: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Read until the received bytes end with `end`."""
    received = b""
    while not received.endswith(end):
        piece = client.recv(65536)
        assert piece, received
        received += piece
    return received


def parse(received: bytes) -> Response:
    """Parse one response."""
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    return Response(int(status.split()[1]), headers, body)


def problem(received: bytes, status: int, code: str) -> str:
    """Check that the bytes are one complete problem response, and return its detail."""
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
def running(host: str = "127.0.0.1", **limits: int | str | Sequence[int]) -> Iterator[TinyServer]:
    """Run a server with these limits; the others have their defaults."""
    command = [*PROGRAM, host, "0", json.dumps(limits)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield TinyServer(process, int(process.stdout.readline()), process.stdout)
        finally:
            process.kill()


def json_bodies(received: bytes) -> list[bytes]:
    """Return the bodies of the 200 responses."""
    return [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK\r\n")[1:]]


def drip(client: socket.socket, piece: bytes) -> bytes:
    """Send `piece` after each timeout of the client until the server closes; return what the server sent."""
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
    pytest.fail("the server did not close the connection")
