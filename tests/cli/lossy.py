"""A way to a server on which answers get lost: what was asked was done, and nobody is told."""

from __future__ import annotations

import http.client
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def losing(url: str, is_lost: Callable[[int], bool]) -> Iterator[str]:
    """Serve what another server serves, but for the answers whose numbers, from 0, are lost. Give the URL."""
    numbers: list[str] = []

    class Way(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            number = len(numbers)
            numbers.append(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            there = http.client.HTTPConnection(urlsplit(url).netloc)
            there.request(self.command, self.path, body, {"content-type": "application/json"})
            answer = there.getresponse()
            content = answer.read()
            there.close()
            if is_lost(number):
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET  # noqa: N815 - their names

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Way) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
