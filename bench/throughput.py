"""P1, P2 and P3: requests and records per second beside the bare server and the raw driver."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import rows, servers
from bench.load import Connection, Outcome, drive
from bench.raw import Raw
from bench.report import Line, Target, per_s, ratio_line
from bench.servers import Process

P1 = {"sqlite": Target(0.35, 0.45), "postgres": Target(0.25, 0.35)}
P2 = Target(0.7, 0.85)
P3 = Target(0.4, 0.6)
P1_CONNECTIONS = 64
P2_CONNECTIONS = (4, 8)
P3_CONNECTIONS = (2, 4)
_LOG_S = 2.0
"""How long P3 produces the log that it then reads."""


@dataclass(frozen=True)
class Pace:
    """How long and how often to measure."""

    rounds: int
    seconds: float
    warm_up: float


@dataclass
class Rounds:
    """What the rounds of one load saw."""

    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> float:
        """Keep an outcome and return its rate."""
        self.outcomes.append(outcome)
        return outcome.rate

    @property
    def rates(self) -> list[float]:
        """Answers per second of each round."""
        return [outcome.rate for outcome in self.outcomes]

    @property
    def median_ms(self) -> float:
        """Median over the rounds of the median latency."""
        return statistics.median(outcome.median_ms for outcome in self.outcomes)

    @property
    def busy(self) -> str:
        """Share of a core that the generator used."""
        return f"generator {statistics.median(outcome.busy for outcome in self.outcomes):.0%} of a core"


def produce_single(server: Process, pace: Pace) -> Outcome:
    """Load with one record a request, and check that the log has grown by what was acknowledged."""
    requests = rows.single_produces()
    return _checked(
        server,
        1,
        lambda: drive(server.port, requests, connections=P1_CONNECTIONS, seconds=pace.seconds, warm_up=pace.warm_up),
    )


def produce_batches(server: Process, pace: Pace, connections: int) -> Outcome:
    """Load with BATCH records a request, and check that the log has grown by what was acknowledged."""
    requests = rows.batch_produces()
    return _checked(
        server,
        rows.BATCH,
        lambda: drive(server.port, requests, connections=connections, seconds=pace.seconds, warm_up=pace.warm_up),
    )


def fetch_pages(server: Process, pace: Pace, connections: int, places: Sequence[tuple[int, int]]) -> Outcome:
    """Load with fetches of BATCH records."""
    requests = [rows.fetch_request(place) for place in places]
    return drive(server.port, requests, connections=connections, seconds=pace.seconds, warm_up=pace.warm_up)


def _checked(server: Process, records_per_request: int, load: Callable[[], Outcome]) -> Outcome:
    before = sum(servers.log_end_offsets(server.port, rows.TOPIC))
    outcome = load()
    grown = sum(servers.log_end_offsets(server.port, rows.TOPIC)) - before
    if grown != outcome.acknowledged * records_per_request:
        raise AssertionError(f"{outcome.acknowledged * records_per_request} records acknowledged, {grown} in the log")
    return outcome


def p1(server: Process, bare: Process, plain: Process, kind: str, pace: Pace) -> Line:
    """Measure durable produce of one record a request beside the bare server at the same load."""
    subject, twin, info = Rounds(), Rounds(), Rounds()
    requests = rows.single_produces()
    for _ in range(pace.rounds):
        for port, rounds in ((bare.port, twin), (plain.port, info)):
            rounds.add(drive(port, requests, connections=P1_CONNECTIONS, seconds=pace.seconds, warm_up=pace.warm_up))
        subject.add(produce_single(server, pace))
    detail = (
        f"{per_s(subject.rates)}, median {subject.median_ms:.1f} ms, {subject.busy}; bare {per_s(twin.rates)}, "
        f"{twin.busy}; bare on uvicorn's own protocol class {per_s(info.rates)}"
    )
    return ratio_line(
        "P1", "produce, 1 record, 64 connections : bare", kind, subject.rates, twin.rates, P1[kind], detail
    )


def p2(server: Process, raw: Raw, kind: str, pace: Pace) -> Line:
    """Measure durable produce of 500 records a request beside the raw bulk insert."""
    subjects = {connections: Rounds() for connections in P2_CONNECTIONS}
    twin: list[float] = []
    for _ in range(pace.rounds):
        twin.append(raw.insert(pace.seconds))
        for connections, subject in subjects.items():
            subject.add(produce_batches(server, pace, connections))
    what = "produce, 500 keyed records : raw insert"
    return _best("P2", what, kind, subjects, twin, P2, raw.method)


def p3(server: Process, raw: Raw, kind: str, pace: Pace) -> Line:
    """Measure fetch of 500 records a request beside select and encode in one process."""
    produce_batches(server, Pace(1, _LOG_S, 0), P2_CONNECTIONS[0])
    places = rows.page_fetches(servers.log_end_offsets(server.port, rows.TOPIC))
    check_same_page(server, raw, places[0])
    subjects = {connections: Rounds() for connections in P3_CONNECTIONS}
    twin: list[float] = []
    for _ in range(pace.rounds):
        twin.append(raw.fetch(places, pace.seconds))
        for connections, subject in subjects.items():
            subject.add(fetch_pages(server, pace, connections, places))
    what = "fetch, 500 records : raw select and encode"
    return _best("P3", what, kind, subjects, twin, P3, "one thread, msgspec")


def check_same_page(server: Process, raw: Raw, place: tuple[int, int]) -> None:
    """Check that the twin makes the same JSON of the same rows."""
    client = Connection(server.port, bytearray(1 << 20))
    page = json.loads(client.ask(rows.fetch_request(place)))
    client.sock.close()
    assert len(page["records"]) == rows.BATCH
    assert json.loads(raw.page(place))["records"] == page["records"], "the raw twin reads other records"


def _best(
    name: str, what: str, kind: str, subjects: dict[int, Rounds], twin: list[float], target: Target, method: str
) -> Line:
    """Return the line of the number of connections that did best; the others are in its detail."""
    rates = {n: [rate * rows.BATCH for rate in subject.rates] for n, subject in subjects.items()}
    best = max(rates, key=lambda n: statistics.median(rates[n]))
    others = ", ".join(f"{n} connections {per_s(rates[n])}" for n in rates if n != best)
    detail = (
        f"{best} connections {per_s(rates[best])}, median {subjects[best].median_ms:.1f} ms, "
        f"{subjects[best].busy}; {others}; raw {per_s(twin)} ({method})"
    )
    return ratio_line(name, what, kind, rates[best], twin, target, detail)
