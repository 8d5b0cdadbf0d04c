"""`EventSource` in a real browser reads a topic across restarts of the server without a gap.

The test needs Chromium (Debian: `apt-get install chromium`), named by MILLRACE_TEST_CHROMIUM or found in the path, and
is skipped without it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx2

from tests.e2e.browser import chromium
from tests.e2e.support.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 60
PAGE = """<!doctype html><title>reader</title><script>
const report = (event) => fetch("/events", {method: "POST", body: JSON.stringify(event)});
const source = new EventSource("STREAM");
source.onopen = () => report({open: true});
source.onmessage = (event) => report({value: JSON.parse(event.data).value, id: event.lastEventId, type: event.type});
source.onerror = (event) => report({error: source.readyState, data: event.data || null});
</script>
"""

pytestmark = chromium.REQUIRED


class PageReport:
    """The events that the page reports: the values in order, the number of connections, the errors."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.ids: list[str] = []
        self.opened = 0
        self.errors: list[Any] = []
        self.inbox: queue.Queue[Any] = queue.Queue()

    def until(self, *, values: int = 0, opened: int = 0, errors: int = 0) -> None:
        """Wait until the page has reported so many events."""
        while len(self.values) < values or self.opened < opened or len(self.errors) < errors:
            event = self.inbox.get(timeout=DEADLINE_S)
            if "value" in event:
                assert event["type"] == "message"
                self.values.append(event["value"])
                self.ids.append(event["id"])
            elif "open" in event:
                self.opened += 1
            else:
                self.errors.append(event)


@contextlib.contextmanager
def page_server(report: PageReport) -> Iterator[ThreadingHTTPServer]:
    """Serve the page, and receive its events."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(server.page.encode() if self.path == "/" else b"")

        def do_POST(self) -> None:
            report.inbox.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        page = ""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_page_reads_a_topic_across_restarts_without_a_gap(sqlite_url: str, tmp_path: Path) -> None:
    report, port = PageReport(), free_port()
    with page_server(report) as pages:
        origin = f"http://127.0.0.1:{pages.server_port}"
        stream = f"http://127.0.0.1:{port}/v1/topics/orders/records"
        pages.page = PAGE.replace("STREAM", stream)  # type: ignore[attr-defined] # for its handler
        with ServerProcess(sqlite_url, tmp_path, port=port, settings={"cors_origins": origin}) as node:

            def produce(first: int, number: int) -> None:
                records = [{"value": value, "key": str(value)} for value in range(first, first + number)]
                for record in records:
                    assert httpx2.post(stream, json=record).status_code == 201

            httpx2.put(f"{node.url}/v1/topics/orders", json={"partitions": 3})
            produce(-3, 3)
            with chromium.browser(origin, tmp_path):
                report.until(opened=1)
                # The server is killed before the page has a record: it resumes at the id of the first event.
                node.kill()
                node.start()
                produce(0, 30)
                report.until(opened=2, values=30)
                node.terminate()
                assert node.exit_code() == 0
                node.start()
                produce(30, 30)
                report.until(opened=3, values=60)
                before = len(report.errors)
                httpx2.delete(f"{node.url}/v1/topics/orders")
                report.until(errors=before + 3)

    assert sorted(report.values) == list(range(60))
    assert len(set(report.ids)) == 60
    assert report.opened == 3
    assert {error["error"] for error in report.errors[:before]} == {0}
    (problem,) = [error["data"] for error in report.errors if error["data"]]
    assert json.loads(problem)["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert 2 in {error["error"] for error in report.errors[before:]}, "the browser has not given up"
    assert "Traceback" not in node.log
