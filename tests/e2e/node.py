"""`millrace serve` as a process of its own, and the little that every test says to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0
PROGRAM = (sys.executable, "-m", "app.cli")


class NodeEnded(Exception):
    """The process ended before it was ready."""


class Node:
    """A server process on a database; `start` may follow `kill` or `stop`.

    Args:
        database_url: Its database.
        directory: Where it runs and where its log is.
        program: What runs it, up to the subcommand.
        settings: `MILLRACE_` settings by their lower-case names, or whole variables by their upper-case names.
        port: Where it listens, in all its lives; 0 takes a free one in each.
    """

    _number = 0

    def __init__(
        self,
        database_url: str,
        directory: Path,
        *,
        program: Sequence[str] = PROGRAM,
        settings: Mapping[str, object] | None = None,
        port: int = 0,
    ) -> None:
        Node._number += 1
        self.log_path = directory / f"node-{Node._number}.log"
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
        """Start the process, without waiting for it."""
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
            NodeEnded: It ended instead; the message is its log.
        """
        self.spawn()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until a process that was spawned serves.

        Raises:
            NodeEnded: It ended instead; the message is its log.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("  API "):
                self.url = line.split()[1].removesuffix("/v1")
                return
        code = self.exit_code()
        raise NodeEnded(f"exit code {code}: {self.log}")

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.exit_code()

    def terminate(self) -> None:
        """Ask it to end by SIGTERM."""
        assert self.process is not None
        self.process.terminate()

    def exit_code(self) -> int:
        """Wait for its end."""
        assert self.process is not None
        assert self.process.stdout is not None
        process, self.process = self.process, None
        with process.stdout:  # type: ignore[union-attr] # started with a pipe
            return process.wait(DEADLINE_S)

    @property
    def log(self) -> str:
        """What it has logged, over all its lives."""
        return self.log_path.read_text(errors="replace")

    def client(self) -> httpx2.AsyncClient:
        """Give a client of the process as it runs now."""
        return client_of(self.url)


@contextlib.contextmanager
def running(*nodes: Node) -> Iterator[None]:
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


def environment(database_url: str, settings: Mapping[str, object]) -> dict[str, str]:
    """Return the variables of a process that runs from this checkout, with nothing of ours but `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    given = {
        name if name.isupper() else f"MILLRACE_{name.upper()}": str(value)
        for name, value in ({"ballast_bytes": 0} | dict(settings)).items()
    }
    return inherited | {"PYTHONPATH": str(ROOT), "MILLRACE_DATABASE_URL": database_url} | given


def client_of(url: str) -> httpx2.AsyncClient:
    """Give a client with room for many parked reads."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=DEADLINE_S, limits=limits, trust_env=False)


def run_cli(*arguments: str, database_url: str, directory: Path) -> subprocess.CompletedProcess[str]:
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


async def until(look: Callable[[], Awaitable[T]], enough: Callable[[T], bool], seconds: float = DEADLINE_S) -> T:
    """Look again and again until it is enough: for what gives no signal."""
    deadline = time.monotonic() + seconds
    while True:
        found = await look()
        if enough(found):
            return found
        assert time.monotonic() < deadline, f"still {found!r} after {seconds} s"
        await asyncio.sleep(0.01)


async def waiting_reads(client: httpx2.AsyncClient) -> int:
    """Return how many reads are parked on a node."""
    text = (await client.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("millrace_waiting_reads ")]
    return int(float(line.split()[1]))


async def parked(client: httpx2.AsyncClient, number: int) -> None:
    """Wait until a number of reads is parked on a node, or more."""
    await until(lambda: waiting_reads(client), lambda found: found >= number)


async def create_topic(client: httpx2.AsyncClient, topic: str, partitions: int) -> None:
    """Create a topic that is not there yet."""
    answer = await client.put(f"/v1/topics/{topic}", json={"partitions": partitions})
    assert answer.status_code == 201, answer.text


async def produce(client: httpx2.AsyncClient, topic: str, *values: object, **headers: str) -> list[dict[str, Any]]:
    """Append values to partition 0, and return where they lie."""
    answer = await client.post(
        f"/v1/topics/{topic}/partitions/0/records",
        json={"records": [{"value": value} for value in values]},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert answer.status_code == 201, answer.text
    offsets: list[dict[str, Any]] = answer.json()["offsets"]
    return offsets


async def read_partition(client: httpx2.AsyncClient, topic: str, partition: int) -> list[dict[str, Any]]:
    """Read a whole partition, and check that its offsets are dense from its start."""
    records: list[dict[str, Any]] = []
    path = f"/v1/topics/{topic}/partitions/{partition}/records"
    page = await fetch(client, path, offset="earliest")
    start = page["log_start_offset"]
    while page["records"]:
        records += page["records"]
        page = await fetch(client, path, offset=page["next_offset"])
    assert [record["offset"] for record in records] == list(range(start, page["log_end_offset"]))
    return records


async def fetch(client: httpx2.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    """Read a page."""
    answer = await client.get(path, params={"max_records": 10_000, "max_bytes": 33_554_432} | query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def read_topic(client: httpx2.AsyncClient, topic: str, partitions: Iterable[int]) -> list[list[dict[str, Any]]]:
    """Read whole partitions."""
    return [await read_partition(client, topic, partition) for partition in partitions]
