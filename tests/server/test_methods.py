"""Every method with every form of target gets an answer."""

from __future__ import annotations

import pytest

from tests.server.tiny_server_process import TinyServer, parse, problem

METHODS = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "ACL", "BIND", "CHECKOUT", "COPY",
    "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "PROPFIND",
    "PROPPATCH", "PURGE", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK",
    "UNSUBSCRIBE", "QUERY", "PRI", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER",
    "FLUSH",
]  # fmt: skip
TARGETS = ["/", "/x?y=1", "*", "a:80", "http://a/x", "http://a", "//", "?", "/%", "/%2F"]
UPGRADES = ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_every_target_is_answered(server: TinyServer, method: str) -> None:
    for target in TARGETS:
        for upgrade in UPGRADES:
            for version in ("1.1", "1.0"):
                head = f"{method} {target} HTTP/{version}\r\nHost: a\r\n{upgrade}".encode()
                received = server.exchange(head + b"Content-Length: 0\r\n\r\n" + b"GET / HTTP/1.0\r\n\r\n")

                assert received.startswith(b"HTTP/1.1 "), (head, received)
                assert 200 <= parse(received).status < 500, head


@pytest.mark.parametrize("target", ["/x", "/", "a:80", "http://a/x"])
def test_connect_is_refused_with_a_cure(server: TinyServer, target: str) -> None:
    for rest in (b"\r\n", b"\r\nabc", b"Content-Length: 3\r\n\r\nabc"):
        received = server.exchange(f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n".encode() + rest)

        assert "proxy" in problem(received, 400, "BAD_REQUEST")


def test_answers_that_the_server_writes_itself_forbid_sniffing(server: TinyServer) -> None:
    answer = parse(server.exchange(b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n"))

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
