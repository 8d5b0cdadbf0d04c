"""The time from start to the first answer, and the memory of an idle server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench import servers
from bench.report import Figure, Target
from bench.servers import Databases

START = Target(1.5, 0.8, higher=False, unit="s")
MEMORY = Target(120, 80, higher=False, unit="MB")
_SETTLE_S = 1.0


def start(databases: Databases, times: int) -> list[Figure]:
    """Measure starts on current tables, on SQLite also without a file, and resident memory after a start."""
    url = databases.new()
    lines = [_start_time("start", "spawn → first 200 of /healthz", databases.kind, lambda: url, times)]
    if databases.kind == "sqlite":
        lines.append(
            _start_time("start", "the same, the database still to be made", databases.kind, databases.empty, times)
        )
    with servers.running(servers.millrace(url)) as server:
        time.sleep(_SETTLE_S)
        megabytes = server.rss_bytes() / 1e6
    lines.append(Figure("memory", "resident after start", databases.kind, megabytes, MEMORY))
    return lines


def _start_time(name: str, what: str, kind: str, url: Callable[[], str], rounds: int) -> Figure:
    times: list[float] = []
    for _ in range(rounds):
        with servers.running(servers.millrace(url())) as server:
            times.append(server.start_s)
    median = statistics.median(times)
    return Figure(name, what, kind, median, START, (min(times), max(times)), f"median of {rounds}")
