"""Start to first answer, and the memory of a server that has nothing to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench import servers
from bench.report import Line, Target
from bench.servers import Databases

START = Target(1.5, 0.8, higher=False, unit="s")
MEMORY = Target(120, 80, higher=False, unit="MB")
_SETTLE_S = 1.0


def starting(databases: Databases, times: int) -> list[Line]:
    """Measure starts on current tables, on SQLite also on no file at all, and resident memory after a start."""
    url = databases.new()
    lines = [_start("start", "spawn → first 200 of /healthz", databases.kind, lambda: url, times)]
    if databases.kind == "sqlite":
        lines.append(_start("start", "the same, the database still to be made", databases.kind, databases.empty, times))
    with servers.running(servers.millrace(url)) as server:
        time.sleep(_SETTLE_S)
        megabytes = server.rss_bytes() / 1e6
    lines.append(Line("memory", "resident after start", databases.kind, megabytes, MEMORY))
    return lines


def _start(name: str, what: str, kind: str, url: Callable[[], str], rounds: int) -> Line:
    times: list[float] = []
    for _ in range(rounds):
        with servers.running(servers.millrace(url())) as server:
            times.append(server.start_s)
    median = statistics.median(times)
    return Line(name, what, kind, median, START, (min(times), max(times)), f"median of {rounds}")
