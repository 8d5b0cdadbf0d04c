"""P1, P2 and P3: requests and records per second, compared with the bare server and the raw driver."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import servers, workload
from bench.load_generator import Connection, LoadResult, generate_load
from bench.raw_driver import Raw
from bench.report import Figure, Target, per_s, ratio_figure
from bench.servers import Process

P1 = {"sqlite": Target(0.35, 0.45), "postgres": Target(0.25, 0.35)}
P2 = Target(0.7, 0.85)
P3 = Target(0.4, 0.6)
P1_CONNECTIONS = 64
P2_CONNECTIONS = (4, 8)
P3_CONNECTIONS = (2, 4)
_LOG_S = 2.0
"""How long P3 produces records before it fetches them."""


@dataclass(frozen=True)
class Schedule:
    """The number and the length of the rounds, in seconds."""

    rounds: int
    seconds: float
    warm_up: float


@dataclass
class Rounds:
    """The results of the rounds of one load."""

    results: list[LoadResult] = field(default_factory=list)

    def add(self, result: LoadResult) -> float:
        """Add a result and return its rate."""
        self.results.append(result)
        return result.rate

    @property
    def rates(self) -> list[float]:
        """Answers per second of each round."""
        return [result.rate for result in self.results]

    @property
    def median_ms(self) -> float:
        """Median over the rounds of the median latency."""
        return statistics.median(result.median_ms for result in self.results)

    @property
    def cpu_share(self) -> str:
        """The share of a core that the generator used, as text."""
        return f"generator {statistics.median(result.cpu_share for result in self.results):.0%} of a core"


def produce_single(server: Process, schedule: Schedule, key: str | None = None) -> LoadResult:
    """Produce one record a request, and check that the log has grown by the acknowledged records."""
    requests = workload.with_key(workload.single_produces(), key)
    return _checked(
        server,
        key,
        1,
        lambda: generate_load(
            server.port, requests, connections=P1_CONNECTIONS, seconds=schedule.seconds, warm_up=schedule.warm_up
        ),
    )


def produce_batches(server: Process, schedule: Schedule, connections: int, key: str | None = None) -> LoadResult:
    """Produce BATCH records a request, and check that the log has grown by the acknowledged records."""
    requests = workload.with_key(workload.batch_produces(), key)
    return _checked(
        server,
        key,
        workload.BATCH,
        lambda: generate_load(
            server.port, requests, connections=connections, seconds=schedule.seconds, warm_up=schedule.warm_up
        ),
    )


def fetch_pages(
    server: Process, schedule: Schedule, connections: int, page_starts: Sequence[tuple[int, int]]
) -> LoadResult:
    """Fetch BATCH records a request."""
    requests = [workload.fetch_request(page_start) for page_start in page_starts]
    return generate_load(
        server.port, requests, connections=connections, seconds=schedule.seconds, warm_up=schedule.warm_up
    )


def _checked(server: Process, key: str | None, records_per_request: int, load: Callable[[], LoadResult]) -> LoadResult:
    before = sum(servers.log_end_offsets(server.port, workload.TOPIC, key))
    result = load()
    grown = sum(servers.log_end_offsets(server.port, workload.TOPIC, key)) - before
    if grown != result.acknowledged * records_per_request:
        raise AssertionError(f"{result.acknowledged * records_per_request} records acknowledged, {grown} in the log")
    return result


def p1(server: Process, bare: Process, plain: Process, kind: str, schedule: Schedule) -> Figure:
    """Measure durable produce of one record a request, compared with the bare server under the same load."""
    subject, baseline, uvicorn_own = Rounds(), Rounds(), Rounds()
    requests = workload.single_produces()
    for _ in range(schedule.rounds):
        for port, rounds in ((bare.port, baseline), (plain.port, uvicorn_own)):
            rounds.add(
                generate_load(
                    port, requests, connections=P1_CONNECTIONS, seconds=schedule.seconds, warm_up=schedule.warm_up
                )
            )
        subject.add(produce_single(server, schedule))
    detail = (
        f"{per_s(subject.rates)}, median {subject.median_ms:.1f} ms, {subject.cpu_share}; "
        f"bare {per_s(baseline.rates)}, {baseline.cpu_share}; "
        f"bare on uvicorn's own protocol class {per_s(uvicorn_own.rates)}"
    )
    return ratio_figure(
        "P1", "produce, 1 record, 64 connections : bare", kind, subject.rates, baseline.rates, P1[kind], detail
    )


def p2(server: Process, raw: Raw, kind: str, schedule: Schedule) -> Figure:
    """Measure durable produce of 500 records a request, compared with the raw bulk insert."""
    subjects = {connections: Rounds() for connections in P2_CONNECTIONS}
    baseline: list[float] = []
    for _ in range(schedule.rounds):
        baseline.append(raw.insert(schedule.seconds))
        for connections, subject in subjects.items():
            subject.add(produce_batches(server, schedule, connections))
    what = "produce, 500 keyed records : raw insert"
    return _best("P2", what, kind, subjects, baseline, P2, raw.method)


def p3(server: Process, raw: Raw, kind: str, schedule: Schedule) -> Figure:
    """Measure fetch of 500 records a request, compared with select and encode in one process."""
    produce_batches(server, Schedule(1, _LOG_S, 0), P2_CONNECTIONS[0])
    page_starts = workload.page_starts(servers.log_end_offsets(server.port, workload.TOPIC))
    check_same_page(server, raw, page_starts[0])
    subjects = {connections: Rounds() for connections in P3_CONNECTIONS}
    baseline: list[float] = []
    for _ in range(schedule.rounds):
        baseline.append(raw.fetch(page_starts, schedule.seconds))
        for connections, subject in subjects.items():
            subject.add(fetch_pages(server, schedule, connections, page_starts))
    what = "fetch, 500 records : raw select and encode"
    return _best("P3", what, kind, subjects, baseline, P3, "one thread, msgspec")


def check_same_page(server: Process, raw: Raw, page_start: tuple[int, int]) -> None:
    """Check that the baseline encodes the same rows as the same JSON."""
    client = Connection(server.port, bytearray(1 << 20))
    page = json.loads(client.call(workload.fetch_request(page_start)))
    client.sock.close()
    assert len(page["records"]) == workload.BATCH
    assert json.loads(raw.page(page_start))["records"] == page["records"], "the raw baseline reads different records"


def _best(
    name: str, what: str, kind: str, subjects: dict[int, Rounds], baseline: list[float], target: Target, method: str
) -> Figure:
    """Return the figure of the best number of connections; the others are in its detail."""
    rates = {n: [rate * workload.BATCH for rate in subject.rates] for n, subject in subjects.items()}
    best = max(rates, key=lambda n: statistics.median(rates[n]))
    others = ", ".join(f"{n} connections {per_s(rates[n])}" for n in rates if n != best)
    detail = (
        f"{best} connections {per_s(rates[best])}, median {subjects[best].median_ms:.1f} ms, "
        f"{subjects[best].cpu_share}; {others}; raw {per_s(baseline)} ({method})"
    )
    return ratio_figure(name, what, kind, rates[best], baseline, target, detail)
