"""Programs that run: the server, and the command line against it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pytest

from app.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = [sys.executable, "-W", "error", "-m", "app.cli"]
BUILDS_THE_SERVER = {"serve", "migrate", "openapi"}
MILLRACE = shlex.join(PROGRAM)
DEADLINE_S = 20


def environment(**more: str) -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    return kept | {"NO_COLOR": "1", "COLUMNS": "120", "TERM": "xterm"} | more


@contextmanager
def ended_in_time(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the process at the end, or when a test hangs on it."""
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
        found = re.search(r"API +(http://\S+)/v1", self.banner)
        assert found is not None, self.banner
        return found[1]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Serving]:
    """Run `millrace serve` in a folder, where its database will be."""
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*PROGRAM, "serve", *options], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=log
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
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[bytes]:
        return self.out.splitlines()


@dataclass
class Cli:
    """Runs commands against a server, in a folder of their own."""

    folder: Path
    url: str
    variables: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, stdin: bytes = b"") -> Done:
        """Run a command: in this process if it is a client's, which saves a third of a second each time."""
        if words[0] in BUILDS_THE_SERVER:
            return self._in_a_process(*map(str, words))
        with (
            pytest.MonkeyPatch.context() as patch,
            TemporaryFile() as given,
            TemporaryFile() as out,
            TemporaryFile() as err,
        ):
            given.write(stdin)
            given.seek(0)
            for name in set(os.environ) - set(self.environment):
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "excepthook", sys.excepthook)
            patch.setattr(sys, "argv", ["millrace", *map(str, words)])
            for name, file in (("stdin", given), ("stdout", out), ("stderr", err)):
                patch.setattr(sys, name, TextIOWrapper(file, encoding="utf-8", write_through=True))
            with pytest.raises(SystemExit) as ended:
                main()
            out.seek(0)
            err.seek(0)
            assert isinstance(ended.value.code, int)
            return Done(ended.value.code, out.read(), err.read().decode())

    def _in_a_process(self, *words: str) -> Done:
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
        with ended_in_time(process):
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


def await_line(process: subprocess.Popen[bytes], *, containing: str) -> str:
    """Wait until the process says something on standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        if containing in line.decode():
            return line.decode()
    raise AssertionError(f"ended without saying {containing!r}")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
