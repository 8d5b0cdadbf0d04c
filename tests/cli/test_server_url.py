"""A URL that leads to no server is answered with the URL or the setting that is probably meant."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2
import pytest

from app.cli.server_url import check_url, describe_failure
from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.processes import Cli

TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"


def parsed(text: str) -> httpx2.URL | None:
    try:
        return httpx2.URL(text)
    except httpx2.InvalidURL:
        return None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost:8400", "http://localhost:8400"),
        ("log.example.com", "http://log.example.com"),
        ("8400", "http://127.0.0.1:8400"),
        (":8400", "http://127.0.0.1:8400"),
        ("//log:8400/", "http://log:8400"),
        ("http:/127.0.0.1:8400", "http://127.0.0.1:8400"),
        ("https//log.example.com/api/", "https://log.example.com/api"),
        ("htp://log:8400", "http://log:8400"),
        ("'http://log:8400'", "http://log:8400"),
        ("[::1]:8400", "http://[::1]:8400"),
    ],
)
def test_a_mistyped_url_is_refused_with_the_url_that_is_meant(given: str, meant: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        check_url(given, parsed(given))
    assert str(caught.value) == f"{given!r} is not the URL of a server: did you mean {meant}?"


@pytest.mark.parametrize("given", ["", "http://", "http://log:99999", "http://log?topic=a", "http://a b", "http://h:p"])
def test_a_text_that_is_no_url_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(CommandFailed, match=r"use one such as http://127\.0\.0\.1:8400$"):
        check_url(given, parsed(given))


@pytest.mark.parametrize("given", ["http://127.0.0.1:8400", "https://log.example.com/events", "HTTP://[::1]:8400"])
def test_the_url_of_a_server_is_accepted(given: str) -> None:
    check_url(given, parsed(given))


def test_https_to_a_server_without_tls_names_the_url_with_http(cli: Cli) -> None:
    url = cli.url.replace("http:", "https:")
    done = cli("topics", "list", "--url", url)
    assert (done.code, done.err) == (
        5,
        f"millrace: cannot reach {url}: the server speaks HTTP without TLS; use {cli.url}\n",
    )


def test_http_to_a_server_with_tls_names_the_url_with_https(cli: Cli) -> None:
    with answering(TLS_ALERT) as port:
        done = cli("topics", "list", "--url", f"http://127.0.0.1:{port}")
    assert done.code == 5
    assert done.err.endswith(f"the answer is not HTTP; if the server speaks TLS, use https://127.0.0.1:{port}\n")


@pytest.mark.parametrize("path", ["v1", "docs", "api/log"])
def test_a_url_with_a_path_that_the_server_does_not_have_names_its_root(cli: Cli, path: str) -> None:
    done = cli("topics", "list", "--url", f"{cli.url}/{path}")
    assert done.code == 3
    assert done.err.endswith(f"without a proxy under /{path} the URL of the server is {cli.url} (NOT_FOUND)\n")


@pytest.mark.parametrize(
    ("reason", "told", "hint"),
    [
        (
            "[Errno -2] Name or service not known",
            "name or service not known",
            "check the name in --url or MILLRACE_URL",
        ),
        (
            "[Errno -3] Temporary failure in name resolution",
            "temporary failure in name resolution",
            "check the name in --url or MILLRACE_URL",
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1016)",
            "certificate verify failed: self-signed certificate",
            "set MILLRACE_CA_FILE to a file with the certificate of its authority",
        ),
    ],
)
def test_a_failed_connection_is_told_with_what_to_do(reason: str, told: str, hint: str) -> None:
    assert describe_failure("https://log.example.com", httpx2.ConnectError(reason)) == (told, hint)


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Answer the first connection to a port with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()
