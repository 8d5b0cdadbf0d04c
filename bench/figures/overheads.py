"""A1 and A2: what access control and metrics cost: P1 and P2 with them, compared with the same build without."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import servers, workload
from bench.figures.throughput import P2_CONNECTIONS, Schedule, produce_batches, produce_single
from bench.load_generator import LoadResult
from bench.report import Figure, Target, per_s, ratio_figure
from bench.servers import Databases, Process

A1 = Target(0.95, 0.98), Target(1.05, 1.02, higher=False)
A2 = Target(0.97, 0.99), Target(1.03, 1.01, higher=False)
"""Of the rates, and of the CPU time of a request."""
PAIRS = 9
_ADMIN_KEY = "key-of-the-admin-of-the-benchmark-0123456789"
_OTHER_ACLS = 100
_OFF = {"MILLRACE_METRICS": "false"}


@dataclass
class _Side:
    """The rounds of one of the two servers."""

    server: Process
    key: str | None = None
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def run(self, load: Callable[[_Side], LoadResult]) -> None:
        """Run one round."""
        before = self.server.cpu_s()
        result = load(self)
        self.rates.append(result.rate)
        self.cpu_us.append((self.server.cpu_s() - before) / max(1, result.acknowledged) * 1e6)


def a1(databases: Databases, schedule: Schedule) -> list[Figure]:
    """Measure P1 and P2 of a principal with a key and ACLs, beside many others, and without access control."""
    with (
        servers.running(servers.millrace(databases.new(), MILLRACE_ADMIN_KEY=_ADMIN_KEY)) as keyed,
        servers.running(servers.millrace(databases.new(), MILLRACE_AUTH="none")) as free,
    ):
        key = _prepare_keyed(keyed)
        servers.create_topic(free.port, workload.TOPIC, workload.PARTITIONS)
        return _compare(databases.kind, schedule, ("A1", "a key and ACLs", A1), _Side(keyed, key), _Side(free))


def a2(databases: Databases, schedule: Schedule) -> list[Figure]:
    """Measure P1 and P2 of a server that counts, and of the same build that does not."""
    with (
        servers.running(servers.millrace(databases.new())) as counting,
        servers.running(servers.millrace(databases.new(), **_OFF)) as silent,
    ):
        for server in (counting, silent):
            servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        return _compare(databases.kind, schedule, ("A2", "metrics", A2), _Side(counting), _Side(silent))


def _prepare_keyed(server: Process) -> str:
    """Create the topic, a key of the principal that produces, and ACLs of it and of many others. Return the key."""

    def call(method: str, path: str, body: object) -> Any:  # noqa: ANN401 - JSON
        return servers.call(server.port, method, path, body, key=_ADMIN_KEY)

    servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS, _ADMIN_KEY)
    allow = {"principal": "bench", "operation": "all"}
    call("POST", "/v1/acls", allow | {"resource": {"type": "topic", "name": "fli", "pattern": "prefixed"}})
    for number in range(_OTHER_ACLS):
        resource = {"type": "topic", "name": f"other-{number}"}
        call("POST", "/v1/acls", {"principal": f"other-{number}", "operation": "read", "resource": resource})
    return str(call("POST", "/v1/keys", {"name": "bench", "principal": "bench"})["key"])


def _compare(
    kind: str, schedule: Schedule, figure: tuple[str, str, tuple[Target, Target]], on: _Side, off: _Side
) -> list[Figure]:
    """Measure in alternating pairs; the first of a pair is the second of the next one."""
    loads: dict[str, Callable[[_Side], LoadResult]] = {
        "P1": lambda side: produce_single(side.server, schedule, side.key),
        "P2": lambda side: produce_batches(side.server, schedule, P2_CONNECTIONS[0], side.key),
    }
    return [
        found
        for name, load in loads.items()
        for found in _figures(name, kind, figure, _Side(on.server, on.key), _Side(off.server, off.key), load)
    ]


def _figures(
    name: str,
    kind: str,
    figure: tuple[str, str, tuple[Target, Target]],
    on: _Side,
    off: _Side,
    load: Callable[[_Side], LoadResult],
) -> tuple[Figure, Figure]:
    """Return the ratio of the rates, and that of the CPU time of a request, which other processes disturb less."""
    for pair in range(PAIRS):
        for side in (on, off) if pair % 2 == 0 else (off, on):
            side.run(load)
    rates = f"with {per_s(on.rates)}, without {per_s(off.rates)}; {PAIRS} pairs"
    cpu = f"with {statistics.median(on.cpu_us):.1f} µs, without {statistics.median(off.cpu_us):.1f} µs; {PAIRS} pairs"
    number, of, (target, cpu_target) = figure
    what = f"{name} with {of} : without"
    return (
        ratio_figure(number, what, kind, on.rates, off.rates, target, rates),
        ratio_figure(number, f"CPU of a request, {what}", kind, on.cpu_us, off.cpu_us, cpu_target, cpu),
    )
