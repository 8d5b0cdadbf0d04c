"""Run the attacks on a server, and check its memory and its answers to a client that behaves.

`make attacks` runs all of them; `python -m bench.attacks NAME…` some.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

from bench.attacks.floods import ATTACKS

MIB = 1024 * 1024
BUDGET_BYTES = 512 * MIB
SETTLED_BYTES = 96 * MIB
"""What may stay above the memory before an attack once the memory is given back."""
FULL = {"mix"}
"""Attacks from so many addresses that they fill the budget together: others may get 503, the memory stays bounded."""
_ALONE_S = 3.0
_LONGEST_P99_MS = 250
_RECORD = json.dumps({"value": {"name": "healthy", "number": 1}}).encode()


class Result(NamedTuple):
    """What one attack did to the server.

    Attributes:
        refused: Answers to the healthy client that were not 2xx.
    """

    before_bytes: int
    peak_bytes: int
    after_bytes: int
    alone_ms: float
    p99_ms: float
    requests: int
    refused: list[str]
    statuses: dict[str, int]


class Server:
    """A server in a process of its own, on an SQLite file."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
        command += ["--database-url", f"sqlite:///{folder / 'millrace.db'}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = 0
        for line in self._process.stdout:
            if line.split()[:1] == ["API"]:
                self.port = int(line.rpartition(":")[2].removesuffix("/v1\n"))
            if line.startswith("Try"):
                break

    @property
    def memory_bytes(self) -> int:
        """The resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError

    def stop(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


class HealthyClient(threading.Thread):
    """Produces and fetches one small record after the other, and samples the server's memory."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._stop_event = threading.Event()
        self.latencies_ms: list[float] = []
        self.refused: list[str] = []
        self.peak_bytes = 0

    def run(self) -> None:
        """Send requests until `stop`."""
        connection = HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        while not self._stop_event.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._server.memory_bytes)
            self._send(connection, "POST", "/v1/topics/healthy/records", _RECORD)
            self._send(connection, "GET", "/v1/topics/healthy/partitions/0/records?offset=-1", None)
        connection.close()

    def _send(self, connection: HTTPConnection, method: str, path: str, body: bytes | None) -> None:
        began = time.perf_counter()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 300:
                self.refused.append(str(answer.status))
        except (OSError, HTTPException) as error:
            self.refused.append(type(error).__name__)
            connection.close()
        self.latencies_ms.append((time.perf_counter() - began) * 1000)

    def stop(self) -> float:
        """Stop, and return the 99th percentile of the latencies."""
        self._stop_event.set()
        self.join()
        return sorted(self.latencies_ms)[int(len(self.latencies_ms) * 0.99)]


def fill(port: int) -> None:
    """Append 64 MiB to the topic that the attacks read."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = b'{"records":[' + b",".join([b'{"value":"%b"}' % (b"x" * 4000)] * 4_000) + b"]}"
    for _ in range(4):
        connection.request("POST", "/v1/topics/attacked/records", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        answer.read()
    connection.close()


def attack(name: str, connections: int, seconds: float, alone_s: float = _ALONE_S) -> Result:
    """Run one attack on a fresh server, beside a healthy client."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            fill(server.port)
            alone = HealthyClient(server)
            alone.start()
            time.sleep(alone_s)
            alone_ms = alone.stop()
            before = server.memory_bytes
            beside = HealthyClient(server)
            beside.start()
            command = [sys.executable, "-m", "bench.attacks.floods", name, str(server.port), str(connections)]
            flood = subprocess.run([*command, str(seconds)], stdout=subprocess.PIPE, check=True, timeout=seconds + 90)
            p99_ms = beside.stop()
            deadline = time.monotonic() + 90
            while server.memory_bytes > before + SETTLED_BYTES and time.monotonic() < deadline:
                time.sleep(0.1)
            statuses = json.loads(flood.stdout)
            return Result(
                before,
                beside.peak_bytes,
                server.memory_bytes,
                alone_ms,
                p99_ms,
                len(beside.latencies_ms),
                beside.refused,
                statuses,
            )
        finally:
            server.stop()


def faults_of(name: str, result: Result) -> list[str]:
    """Return what the attack broke."""
    faults = []
    if result.peak_bytes > result.before_bytes + BUDGET_BYTES:
        faults.append("memory above the budget")
    if result.after_bytes > result.before_bytes + SETTLED_BYTES:
        faults.append("memory not given back")
    if refused := [each for each in result.refused if each != "503" or name not in FULL]:
        faults.append(f"healthy client refused: {', '.join(refused[:3])}")
    return faults


def main(names: Sequence[str]) -> int:
    """Run attacks, print a line for each, and return the number of those that broke something."""
    broken = 0
    print(f"{'attack':20}{'before':>8}{'peak':>8}{'after':>8} MiB {'alone':>8}{'beside':>9} ms p99  answers")
    for name in names or ATTACKS:
        result = attack(name, ATTACKS[name][1], 8.0)
        faults = faults_of(name, result)
        if name not in FULL and result.p99_ms > max(5 * result.alone_ms, _LONGEST_P99_MS):
            faults.append("healthy client slow")
        broken += bool(faults)
        sizes = "".join(f"{size // MIB:8}" for size in result[:3])
        print(
            f"{name:20}{sizes}     {result.alone_ms:8.1f}{result.p99_ms:9.1f} {result.requests:6}  {result.statuses}",
            *faults,
            flush=True,
        )
    return broken


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
