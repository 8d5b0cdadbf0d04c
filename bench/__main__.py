"""`python -m bench`: measure, print, and write RESULTS.md. See README.md."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from bench import machine, other_processes, servers, workload
from bench.figures import groups, webhooks
from bench.figures.large_log import p5
from bench.figures.long_polls import p4, p6_polls, p6_streams
from bench.figures.overheads import a1, a2
from bench.figures.queues import q1, q2
from bench.figures.sources import SECRET_KEY, w4
from bench.figures.start import start
from bench.figures.streams import delivery
from bench.figures.throughput import Schedule, p1, p2, p3
from bench.raw_driver import open_raw
from bench.report import HEAD, Figure
from bench.servers import Databases

_RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
_OTHERS = ("START", "G1", "G2", "G3", "STREAMS", "Q1", "Q2", "W1", "W2", "W3", "W4", "A1", "A2")
_ALL = ("P1", "P2", "P3", "P4", "P5", "P6", *_OTHERS)


class Options(argparse.Namespace):
    """The options of the command line."""

    quick: bool
    only: str
    database: str
    output: Path | None

    @property
    def names(self) -> list[str]:
        """The figures to measure."""
        return [name for name in _ALL if not self.only or name in self.only.upper().split(",")]

    @property
    def kinds(self) -> list[str]:
        """The databases to measure on."""
        return ["sqlite", "postgres"] if self.database == "both" else [self.database]

    @property
    def schedule(self) -> Schedule:
        """The rounds of P1 to P3 and Q1."""
        return Schedule(2, 0.7, 0.2) if self.quick else Schedule(3, 3.0, 0.5)


def main() -> int:
    """Measure the requested figures. Return 1 if one could not be measured."""
    options = _parse()
    figures: list[Figure] = []
    failures: list[str] = []
    facts: list[tuple[str, str]] = []
    began = time.perf_counter()
    for kind in options.kinds:
        with Databases(kind) as databases:
            facts = facts if facts and kind == "sqlite" else machine.describe(databases.maintenance_url)
            for name, measure in _measures(options, databases):
                started, others = time.perf_counter(), other_processes.OtherProcesses()
                try:
                    found = measure()
                except Exception as error:  # noqa: BLE001 - the other figures are still measured
                    traceback.print_exc()
                    failures.append(f"{name}, {kind}: {type(error).__name__}: {error}")
                    continue
                found = [
                    replace(figure, detail=figure.detail + other_processes.note(others.share())) for figure in found
                ]
                figures += found
                _print(name, kind, found, time.perf_counter() - started)
    report = _report(options, figures, failures, facts, time.perf_counter() - began)
    print("\n" + report)
    if options.output is not None:
        options.output.write_text(report)
        print(f"written to {options.output}")
    return 1 if failures else 0


def _print(name: str, kind: str, figures: list[Figure], took_s: float) -> None:
    print(f"{name} on {kind}, {took_s:.0f} s", flush=True)
    for figure in figures:
        print("  " + figure.summary(), flush=True)


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds and a small log: two minutes, rough figures")
    parser.add_argument("--only", default="", help=f"a comma-separated list of {','.join(_ALL)}")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--output", type=Path, help="the file to write; bench/RESULTS.md by default for a full run")
    options = parser.parse_args(namespace=Options())
    if unknown := set(options.only.upper().split(",")) - {"", *_ALL}:
        parser.error(f"--only takes {', '.join(_ALL)}, not {', '.join(sorted(unknown))}")
    if options.output is None and not options.quick and not options.only and options.database == "both":
        options.output = _RESULTS
    return options


def _measures(options: Options, databases: Databases) -> Iterable[tuple[str, Callable[[], list[Figure]]]]:
    """Return the requested measurements in order."""
    large = (200_000, Schedule(2, 0.6, 0.2)) if options.quick else (5_000_000, Schedule(5, 1.5, 0.3))
    idle_s = 1.5 if options.quick else 5.0
    measures: list[tuple[str, Callable[[], list[Figure]]]] = [
        ("START", lambda: start(databases, 3 if options.quick else 5)),
        ("P1", lambda: _throughput(options, databases, "P1")),
        ("P2", lambda: _throughput(options, databases, "P2")),
        ("P3", lambda: _throughput(options, databases, "P3")),
        ("P4", lambda: _waking(options, databases)),
        ("P5", lambda: p5(databases, *large)),
        ("P6", lambda: p6_polls(databases, idle_s)),
        ("G1", lambda: groups.heartbeats(databases, 5.0 if options.quick else 20.0)),
        ("G2", lambda: groups.polls(databases, 40 if options.quick else 200)),
        ("G3", lambda: groups.assignment(databases.kind)),
        ("STREAMS", lambda: [*p6_streams(databases, idle_s), delivery(databases, 3, 2.0 if options.quick else 5.0)]),
        ("Q1", lambda: _queues(options, databases)),
        ("Q2", lambda: [q2(databases, large[0], large[1])]),
        ("W1", lambda: [webhooks.w1(databases, options.schedule, by_key=each) for each in (False, True)]),
        ("W2", lambda: webhooks.w2(databases, 5.0 if options.quick else 20.0)),
        ("W3", lambda: [webhooks.w3(databases, options.schedule)]),
        ("W4", lambda: _sources(options, databases)),
        ("A1", lambda: a1(databases, Schedule(1, 0.4, 0.1) if options.quick else Schedule(1, 1.5, 0.3))),
        ("A2", lambda: a2(databases, Schedule(1, 0.4, 0.1) if options.quick else Schedule(1, 1.5, 0.3))),
    ]
    return [(name, measure) for name, measure in measures if name in options.names]


def _throughput(options: Options, databases: Databases, name: str) -> list[Figure]:
    url, scratch = databases.new(), databases.new()
    with servers.running(servers.millrace(url)) as server:
        servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        if name == "P1":
            with servers.running(servers.bare()) as bare, servers.running(servers.bare(plain=True)) as plain:
                return [p1(server, bare, plain, databases.kind, options.schedule)]
        raw = open_raw(scratch, url, servers.partition_ids(url, workload.TOPIC))
        try:
            return [(p2 if name == "P2" else p3)(server, raw, databases.kind, options.schedule)]
        finally:
            raw.close()


def _waking(options: Options, databases: Databases) -> list[Figure]:
    with servers.running(servers.millrace(databases.new())) as server:
        return [p4(server, databases.kind, rounds=5, each=60 if options.quick else 200)]


def _sources(options: Options, databases: Databases) -> list[Figure]:
    with servers.running(servers.millrace(databases.new(), MILLRACE_SECRET_KEY=SECRET_KEY)) as server:
        servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        return [w4(server, databases.kind, options.schedule)]


def _queues(options: Options, databases: Databases) -> list[Figure]:
    with servers.running(servers.millrace(databases.new())) as server:
        servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        return [q1(server, databases.kind, options.schedule)]


def _report(
    options: Options, figures: list[Figure], failures: list[str], facts: list[tuple[str, str]], took_s: float
) -> str:
    missed = sum("missed" in figure.verdict for figure in figures)
    aimed = sum(figure.verdict == "aim met" for figure in figures)
    command = "python -m bench" + (" --quick" if options.quick else "")
    rest = len(figures) - aimed - missed
    return "\n".join(
        [
            "# Results",
            "",
            f"Written by `{command}` in {took_s / 60:.1f} minutes; README.md explains the figures.",
            f"{len(figures)} figures: {aimed} meet the aim, {rest} only what must be met, {missed} neither.",
            "",
            HEAD,
            *(figure.row() for figure in sorted(figures, key=lambda figure: figure.name.lower())),
            "",
            *(f"- could not be measured: {each.splitlines()[0]}" for each in failures),
            *([""] if failures else []),
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
