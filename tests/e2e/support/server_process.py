"""`millrace serve` as a process of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.checkout import ROOT
from tests.e2e.support.api_calls import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import httpx2

DEADLINE_S = 30.0
PROGRAM = (sys.executable, "-m", "app.cli")
NOTICES_ONLY = {"poll_interval_ms": 60_000}
"""Settings of a node that polls the database so rarely that only a notice wakes a read within 20 s."""
LOG_NUMBERS = itertools.count(1)


class StartFailed(Exception):
    """The process ended before it was ready."""


class ServerProcess:
    """A server process on a database; `start` may follow `kill` or `terminate`.

    Args:
        database_url: The database of the server.
        directory: The working directory of the process, with its log.
        program: The command line up to the subcommand.
        settings: `MILLRACE_` settings by their lower-case names, or whole variables by their upper-case names.
        port: The port of every start; 0 takes a free port at each start.
    """

    def __init__(
        self,
        database_url: str,
        directory: Path,
        *,
        program: Sequence[str] = PROGRAM,
        settings: Mapping[str, object] | None = None,
        port: int = 0,
    ) -> None:
        self.log_path = directory / f"server-{next(LOG_NUMBERS)}.log"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self._directory = directory
        self._program = tuple(program)
        self._port = str(port)
        self._environment = environment(database_url, settings or {})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def spawn(self) -> None:
        """Start the process without waiting for it."""
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [*self._program, "serve", "--port", self._port],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self) -> None:
        """Start the process and wait until it serves.

        Raises:
            StartFailed: The process ended instead; the message has its log.
        """
        self.spawn()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until a spawned process serves.

        Raises:
            StartFailed: The process ended instead; the message has its log.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("  API "):
                self.url = line.split()[1].removesuffix("/v1")
                return
        code = self.exit_code()
        raise StartFailed(f"exit code {code}: {self.log}")

    def kill(self) -> None:
        """End the process by SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.exit_code()

    def terminate(self) -> None:
        """Send SIGTERM to the process."""
        assert self.process is not None
        self.process.terminate()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process is not None
        return self.process.pid

    def exit_code(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        process, self.process = self.process, None
        with process.stdout:  # type: ignore[union-attr] # started with a pipe
            return process.wait(DEADLINE_S)

    @property
    def log(self) -> str:
        """The log of all starts."""
        return self.log_path.read_text(errors="replace")

    def client(self) -> httpx2.AsyncClient:
        """Return a client of the running process."""
        return client_of(self.url)


@contextlib.contextmanager
def running(*nodes: ServerProcess) -> Iterator[None]:
    """Run several nodes, started at the same time."""
    try:
        for node in nodes:
            node.spawn()
        for node in nodes:
            node.wait_until_ready()
        yield
    finally:
        for node in nodes:
            node.kill()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process by SIGSTOP; continue it at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def environment(database_url: str, settings: Mapping[str, object]) -> dict[str, str]:
    """Return the variables of a process that runs from this checkout, with no `MILLRACE_` variable but `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    given = {
        name if name.isupper() else f"MILLRACE_{name.upper()}": str(value)
        for name, value in ({"ballast_bytes": 0} | dict(settings)).items()
    }
    return inherited | {"PYTHONPATH": str(ROOT), "MILLRACE_DATABASE_URL": database_url} | given


def run_millrace(*arguments: str, database_url: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run one `millrace` command to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(database_url, {}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
