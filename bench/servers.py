"""Start the measured servers, the bare server and databases, and read their resource use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

from sqlalchemy import create_engine, select

from app.storage.db import schema
from app.storage.db.opening import open_storage
from app.storage.db.tables import partitions, topics
from tests.postgres import PostgresServer

_ROOT = Path(__file__).resolve().parent.parent
_START_S = 30.0
_POLL_S = 0.002


class Process:
    """A server process on a free port; the constructor returns once it answers `path` with 200.

    Attributes:
        start_s: Time from spawn to the first 200.
    """

    def __init__(self, command: list[str], port: int, path: str, variables: Mapping[str, str] | None = None) -> None:
        self.port = port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        began = time.perf_counter()
        environment = os.environ | dict(variables or {})
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            self._wait(path)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - began

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def state(self) -> str:
        """Whether it runs, as text."""
        code = self._process.poll()
        return f"server {self.pid} on port {self.port} " + ("runs" if code is None else f"ended with {code}")

    def log(self) -> str:
        """Return its output."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def rss_bytes(self) -> int:
        """Return its resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Stop it by SIGTERM, and by SIGKILL if it does not stop in time."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait(self, path: str) -> None:
        deadline = time.perf_counter() + _START_S
        request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode()
        while time.perf_counter() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
                client.sendall(request)
                if client.recv(4096).startswith(b"HTTP/1.1 200"):
                    return
            time.sleep(_POLL_S)
        raise RuntimeError(f"the server did not start:\n{self.log()}")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    """Stop a process at the end; print its output if the block fails."""
    try:
        yield process
    except Exception:
        print(f"{process.state}; its output:\n{process.log()[-4_000:]}", file=sys.stderr)
        raise
    finally:
        process.stop()


def bare(*, plain: bool = False) -> Process:
    """Start the bare server; `plain` with uvicorn's own protocol class."""
    return _bare("plain" if plain else "")


def bare_streams() -> Process:
    """Start the bare server that writes each request body to all streams."""
    return _bare("streams")


def _bare(kind: str) -> Process:
    port = free_port()
    return Process([sys.executable, "-m", "bench.bare_server", str(port), *filter(None, [kind])], port, "/")


def millrace(database_url: str, **variables: str) -> Process:
    """Start Millrace on a database, with further variables of the environment."""
    port = free_port()
    program = str(Path(sys.executable).with_name("millrace"))
    options = ["serve", "--host", "127.0.0.1", "--port", str(port), "--database-url", database_url]
    return Process([program, *options], port, "/healthz", variables)


class Databases:
    """Creates databases of one kind, and removes them at the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._exit = contextlib.ExitStack()
        self.folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="millrace-bench-")))
        self._count = 0
        self._server = None if kind == "sqlite" else self._exit.enter_context(_postgres())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def maintenance_url(self) -> str | None:
        """URL of the PostgreSQL server; None on SQLite."""
        return None if self._server is None else self._server.url

    def empty(self) -> str:
        """Return the URL of a database without tables."""
        self._count += 1
        if self._server is not None:
            return self._server.create_database()
        return f"sqlite:///{self.folder / f'{self._count}.db'}"

    def new(self) -> str:
        """Return the URL of a database with empty tables."""
        url = self.empty()
        migrate(url)
        return url

    def drop(self, url: str) -> None:
        """Remove a database to free its space."""
        if self._server is not None:
            self._server.drop_database(url)
            return
        for path in self.folder.glob(Path(url).name + "*"):
            path.unlink()

    def connections(self, url: str) -> int | None:
        """Return the number of connections to a PostgreSQL database; None on SQLite."""
        if self._server is None:
            return None
        import psycopg  # noqa: PLC0415 - for PostgreSQL only

        name = url.rpartition("/")[2]
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            row = connection.execute(query, (name,)).fetchone()
        return int(row[0]) if row else None


def _postgres() -> PostgresServer:
    return PostgresServer(settings={"shared_buffers": "256MB", "max_wal_size": "4GB"})


def migrate(url: str) -> None:
    """Bring a database's tables to the newest revision."""
    storage = open_storage(url)
    try:
        storage.write_now(schema.upgrade)
    finally:
        storage.close()


def partition_ids(url: str, topic: str) -> list[int]:
    """Return the ids of a topic's partitions, in order."""
    query = (
        select(partitions.c.partition_id)
        .join(topics, topics.c.topic_id == partitions.c.topic_id)
        .where(topics.c.name == topic)
        .order_by(partitions.c.partition)
    )
    # Read-only: on SQLite a running server holds the write lock of the file.
    driver_url = url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true" if "sqlite" in url else url
    engine = create_engine(driver_url)
    try:
        with engine.connect() as connection:
            return list(connection.scalars(query))
    finally:
        engine.dispose()


def call(port: int, method: str, path: str, body: object = None, key: str | None = None) -> Any:  # noqa: ANN401 - JSON
    """Send one request outside any measurement and return the JSON of its 2xx answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"content-type": "application/json"}
        connection.request(method, path, data, headers | ({} if key is None else {"authorization": f"Bearer {key}"}))
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status // 100 != 2:
        raise RuntimeError(f"{method} {path}: {response.status} {content.decode(errors='replace')}")
    return json.loads(content)


def create_topic(port: int, topic: str, partitions: int, key: str | None = None) -> None:
    """Create a topic that keeps everything."""
    body = {"partitions": partitions, "config": {"retention_ms": -1}}
    call(port, "PUT", f"/v1/topics/{topic}", body, key)


def log_end_offsets(port: int, topic: str, key: str | None = None) -> list[int]:
    """Return the log_end_offset of each partition."""
    answer = call(port, "GET", f"/v1/topics/{topic}/partitions?limit=1000", key=key)
    return [each["log_end_offset"] for each in answer["items"]]
