"""An HTTP proxy that drops answers of a server, or requests to it."""

from __future__ import annotations

import http.client
import itertools
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HOP_BY_HOP = {"connection", "host", "transfer-encoding"}


@contextmanager
def lossy_proxy(
    url: str, is_lost: Callable[[int], bool], is_unavailable: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    """Forward requests to a server. Give the proxy's URL.

    Args:
        url: URL of the server.
        is_lost: Whether to drop the answer with this number, from 0, after the server has handled the request.
        is_unavailable: Whether to drop a request before the server receives it.
    """
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if is_unavailable():
                self.close_connection = True
                return
            number = next(numbers)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            upstream = http.client.HTTPConnection(urlsplit(url).netloc)
            upstream.request(self.command, self.path, body, forwarded(self.headers.items()))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if is_lost(number):
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in forwarded(answer.getheaders()).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET  # noqa: N815 - names that http.server requires

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore that a client has left: the message would go to the standard error of another test's command."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def forwarded(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in HOP_BY_HOP}
