"""Chromium without a window, named by MILLRACE_TEST_CHROMIUM or found in the path."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("MILLRACE_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
REQUIRED = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is neither installed nor named by MILLRACE_TEST_CHROMIUM"
)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


@contextlib.contextmanager
def browser(url: str, folder: Path) -> Iterator[None]:
    """Run Chromium on a page."""
    assert CHROMIUM is not None
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", url],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Page:
    """A page that runs expressions, over the pipes of the DevTools protocol."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = os.fdopen(requests, "wb", buffering=0)
        self._replies = os.fdopen(replies, "rb")
        self._number = 0
        self._session: str | None = None

    def close(self) -> None:
        """Close the pipes."""
        self._requests.close()
        self._replies.close()

    def open(self, url: str, color_scheme: str = "light") -> None:
        """Open a page."""
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")
        self._session = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": color_scheme}])
        self._call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """Return the value of an expression; a promise is awaited."""
        result = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _call(self, method: str, **parameters: object) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        while True:
            reply = json.loads(self._next_reply())
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]

    def _next_reply(self) -> bytes:
        text = bytearray()
        while (byte := self._replies.read(1)) not in {b"\0", b""}:
            text += byte
        return bytes(text)


@contextlib.contextmanager
def page(folder: Path) -> Iterator[Page]:
    """Run Chromium with a page that the test controls."""
    assert CHROMIUM is not None
    of_browser, requests = os.pipe()
    replies, to_test = os.pipe()
    log = os.open(folder / "chromium.log", os.O_WRONLY | os.O_CREAT)
    process = os.posix_spawnp(
        CHROMIUM,
        [CHROMIUM, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, of_browser, 3),
            (os.POSIX_SPAWN_DUP2, to_test, 4),
        ],
        setpgroup=0,
    )
    for descriptor in (of_browser, to_test, log):
        os.close(descriptor)
    controlled = Page(requests, replies)
    try:
        yield controlled
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        controlled.close()
