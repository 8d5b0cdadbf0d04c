"""The HTTP server of `millrace listen`."""

from __future__ import annotations

import secrets
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote

import typer

from app.cli.terminal.output import emit, emit_json, printable
from app.domain.sources.delivery import Delivery, Unverified
from app.domain.sources.standard import parse_standard_secret
from app.domain.sources.verification import Verify, verify

_STANDARD = Verify(scheme="standard")
_SECRET_BYTES = 32
_KEY_BYTES = {"shared": range(24, 65), "public": range(32, 33)}
_MAX_BODY_BYTES = 64 * 1024 * 1024
_SHOWN_CHARACTERS = 200


def new_secret() -> str:
    """Return a random secret, as webhooks take it."""
    return f"whsec_{b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def check_secret(secret: str) -> None:
    """Check the form of a secret or public key.

    Raises:
        BadParameter: It is neither.
    """
    try:
        kind, key = parse_standard_secret(secret.encode())
    except Unverified:
        kind, key = "shared", b""
    if len(key) not in _KEY_BYTES[kind]:
        raise typer.BadParameter(
            "must be whsec_… or whpk_…, as the creation of the webhook shows it", param_hint="--secret"
        )


class Attempt(NamedTuple):
    """A request to the receiver.

    Attributes:
        number: From 1, in the order of arrival.
        status: What it is answered with.
        seen: How often its id has arrived.
        problem: Why it is not verified; None if it is.
    """

    number: int
    status: int
    seen: int
    problem: str | None


class Receiver(ThreadingHTTPServer):
    """Takes POST requests of any path, verifies and prints them, and answers.

    Args:
        address: Host and port.
        secret: `whsec_…` or `whpk_…`.
        fail: Every how many attempts are answered with 500; 0 for none.
        number: After how many attempts it ends; None for never.
        show_json: Whether attempts are printed as JSON lines.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, address: tuple[str, int], secret: str, *, fail: int, number: int | None, show_json: bool
    ) -> None:
        super().__init__(address, _Handler)
        self._secret = secret.encode()
        self._fail = fail
        self._number = number
        self._show_json = show_json
        self._lock = threading.Lock()
        self._received = 0
        self._seen: dict[str, int] = {}
        self.is_complete = False

    def receive(self, headers: dict[bytes, bytes], body: bytes) -> int | None:
        """Verify and print an attempt. Return the status of the answer; None once the receiver is at its end."""
        with self._lock:
            if self.is_complete:
                return None
            attempt = self._judge(headers, body)
            try:
                self._print(attempt, headers, body)
            except typer.Exit:  # the reader of the output has left
                self.is_complete = True
            self.is_complete |= attempt.number == self._number
            return attempt.status

    def _judge(self, headers: dict[bytes, bytes], body: bytes) -> Attempt:
        self._received += 1
        number = self._received
        try:
            verify(_STANDARD, [self._secret], Delivery(body, headers), time.time_ns() // 1_000_000_000, _fits)
        except Unverified as error:
            return Attempt(number, 401, 1, str(error))
        identity = headers[b"webhook-id"].decode("latin-1")
        seen = self._seen[identity] = self._seen.get(identity, 0) + 1
        return Attempt(number, 500 if self._fail and number % self._fail == 0 else 204, seen, None)

    def _print(self, attempt: Attempt, headers: dict[bytes, bytes], body: bytes) -> None:
        shown = _fields(attempt, headers, body)
        if self._show_json:
            emit_json(shown)
            return
        place = f"{shown['topic']} {shown['partition']}@{shown['offset']}" if "topic" in shown else ""
        words = [
            f"{attempt.number:>4}",
            str(attempt.status),
            f"not verified: {attempt.problem}" if attempt.problem else "verified",
            f"seen {attempt.seen} times" if attempt.seen > 1 else "",
            place,
            f"key {shown['key']}" if "key" in shown else "",
            shown["body"][:_SHOWN_CHARACTERS],
        ]
        emit(printable("  ".join(filter(None, words))).encode() + b"\n")


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Take an attempt."""
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            self._answer(413)
            return
        body = self.rfile.read(int(length))
        headers = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in self.headers.items()}
        status = self.server.receive(headers, body)
        if status is not None:
            self._answer(status)
        if self.server.is_complete:
            self.close_connection = True
            self.server.shutdown()

    def do_GET(self) -> None:
        """Say what this is."""
        self._answer(405)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: each attempt is printed."""

    def _answer(self, status: int) -> None:
        text = b"" if status == 204 else f"millrace listen answers {status}\n".encode()
        self.send_response(status)
        if text:
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()


def _fields(attempt: Attempt, headers: dict[bytes, bytes], body: bytes) -> dict[str, Any]:
    """Return an attempt as JSON: what the headers say of its record, and its body."""
    fields: dict[str, Any] = {
        "number": attempt.number,
        "status": attempt.status,
        "verified": attempt.problem is None,
        "problem": attempt.problem,
        "webhook": headers.get(b"millrace-webhook", b"").decode("latin-1"),
        "webhook_id": headers.get(b"webhook-id", b"").decode("latin-1"),
        "seen": attempt.seen,
    }
    if b"millrace-topic" in headers:
        fields["topic"] = headers[b"millrace-topic"].decode("latin-1")
        for name in ("partition", "offset"):
            value = headers.get(f"millrace-{name}".encode(), b"").decode("latin-1")
            fields[name] = int(value) if value.isdecimal() else None
    if b"millrace-key" in headers:
        fields["key"] = unquote(headers[b"millrace-key"].decode("latin-1"))
    try:
        fields["body"] = body.decode()
    except UnicodeDecodeError:
        fields["body"] = f"base64:{b64encode(body).decode()}"
    return fields


def _fits(key: bytes, signature: bytes, content: bytes) -> bool:
    """Return whether an ed25519 signature fits."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
