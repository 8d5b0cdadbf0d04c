"""Processes of the tests: the server, and the commands that use it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pytest

from app.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROGRAM = [sys.executable, "-W", "error", "-m", "app.cli"]
BUILDS_THE_SERVER = {"serve", "migrate", "openapi", "secrets"}
MILLRACE = shlex.join(PROGRAM)
DEADLINE_S = 20


def environment(**more: str) -> dict[str, str]:
    """Return the environment without `MILLRACE_` variables, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    return kept | {"NO_COLOR": "1", "COLUMNS": "120", "TERM": "xterm"} | more


@contextmanager
def killed_at_deadline(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the process at the end of the context, or at the deadline."""
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    try:
        with process:
            try:
                yield
            finally:
                process.kill()
    finally:
        watchdog.cancel()


@dataclass
class Serving:
    """A running `millrace serve`."""

    process: subprocess.Popen[bytes]
    banner: str

    @property
    def url(self) -> str:
        found = re.search(r"API +(https?://\S+)/v1", self.banner)
        assert found is not None, self.banner
        return found[1]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


@contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[Serving]:
    """Run `millrace serve` in a folder, which also contains its database, with these environment variables."""
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*PROGRAM, "serve", *options], cwd=folder, env=environment(**variables), stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        banner = ""
        while "Try:" not in banner:
            line = process.stdout.readline().decode()
            assert line, (folder / "server.log").read_text()
            banner += line
        yield Serving(process, banner)
    finally:
        process.terminate()
        process.communicate()


@dataclass
class Done:
    """Result of a command."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[bytes]:
        return self.out.splitlines()


@dataclass
class Cli:
    """Runs commands against a server, in one folder."""

    folder: Path
    url: str
    variables: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, stdin: bytes = b"") -> Done:
        """Run a command: a client command in this process, which saves a third of a second each time."""
        if words and words[0] in BUILDS_THE_SERVER:
            return self._in_process(*map(str, words))
        with (
            pytest.MonkeyPatch.context() as patch,
            TemporaryFile() as stdin_file,
            TemporaryFile() as out,
            TemporaryFile() as err,
        ):
            stdin_file.write(stdin)
            stdin_file.seek(0)
            for name in set(os.environ) - set(self.environment):
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "excepthook", sys.excepthook)
            patch.setattr(sys, "argv", ["millrace", *map(str, words)])
            for name, file in (("stdin", stdin_file), ("stdout", out), ("stderr", err)):
                patch.setattr(sys, name, TextIOWrapper(file, encoding="utf-8", write_through=True))
            with pytest.raises(SystemExit) as ended:
                main()
            out.seek(0)
            err.seek(0)
            assert isinstance(ended.value.code, int)
            return Done(ended.value.code, out.read(), err.read().decode())

    def _in_process(self, *words: str) -> Done:
        done = subprocess.run(
            [*PROGRAM, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def ok(self, *words: str | Path, stdin: bytes = b"") -> Done:
        done = self(*words, stdin=stdin)
        assert done.code == 0, done.err
        return done

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [*PROGRAM, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with killed_at_deadline(process):
            yield process

    def shell(self, script: str) -> Done:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    @property
    def environment(self) -> dict[str, str]:
        return environment(MILLRACE_URL=self.url, **self.variables)


def wait_until(condition: Callable[[], bool]) -> float:
    """Wait until a condition is true that no event signals. Return how many seconds that took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < DEADLINE_S
        os.sched_yield()
    return time.monotonic() - began_s


def await_line(process: subprocess.Popen[bytes], *, containing: str) -> str:
    """Wait for a line on standard error that contains a text. Return the line."""
    assert process.stderr is not None
    for line in process.stderr:
        if containing in line.decode():
            return line.decode()
    raise AssertionError(f"ended without printing {containing!r}")


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
