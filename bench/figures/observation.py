"""A2: what metrics cost: P1 and P2 of a server that counts, compared with the same build that does not."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from bench import servers, workload
from bench.figures.throughput import P2_CONNECTIONS, Schedule, produce_batches, produce_single
from bench.load_generator import LoadResult
from bench.report import Figure, Target, per_s, ratio_figure
from bench.servers import Databases, Process

A2 = Target(0.97, 0.99)
A2_CPU = Target(1.03, 1.01, higher=False)
PAIRS = 9
_OFF = {"MILLRACE_METRICS": "false"}


@dataclass
class _Side:
    """The rounds of one of the two servers."""

    server: Process
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def run(self, load: Callable[[Process], LoadResult]) -> None:
        """Run one round."""
        before = self.server.cpu_s()
        result = load(self.server)
        self.rates.append(result.rate)
        self.cpu_us.append((self.server.cpu_s() - before) / max(1, result.acknowledged) * 1e6)


def a2(databases: Databases, schedule: Schedule) -> list[Figure]:
    """Measure P1 and P2 in alternating pairs; the first of a pair is the second of the next one."""
    with (
        servers.running(servers.millrace(databases.new())) as counting,
        servers.running(servers.millrace(databases.new(), **_OFF)) as silent,
    ):
        for server in (counting, silent):
            servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        loads = {
            "P1": lambda server: produce_single(server, schedule),
            "P2": lambda server: produce_batches(server, schedule, P2_CONNECTIONS[0]),
        }
        return [
            figure
            for name, load in loads.items()
            for figure in _figures(name, databases.kind, _Side(counting), _Side(silent), load)
        ]


def _figures(
    name: str, kind: str, on: _Side, off: _Side, load: Callable[[Process], LoadResult]
) -> tuple[Figure, Figure]:
    """Return the ratio of the rates, and that of the CPU time of a request, which other processes disturb less."""
    for pair in range(PAIRS):
        for side in (on, off) if pair % 2 == 0 else (off, on):
            side.run(load)
    rates = f"with {per_s(on.rates)}, without {per_s(off.rates)}; {PAIRS} pairs"
    cpu = f"with {statistics.median(on.cpu_us):.1f} µs, without {statistics.median(off.cpu_us):.1f} µs; {PAIRS} pairs"
    what = f"{name} with metrics : without"
    return (
        ratio_figure("A2", what, kind, on.rates, off.rates, A2, rates),
        ratio_figure("A2", f"CPU of a request, {what}", kind, on.cpu_us, off.cpu_us, A2_CPU, cpu),
    )
