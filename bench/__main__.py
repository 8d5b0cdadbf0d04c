"""`python -m bench`: measure, print, and write RESULTS.md. See README.md."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from bench import groups, machine, noise, rows, servers
from bench.large import p5
from bench.queues import q1, q2
from bench.raw import open_raw
from bench.report import HEAD, Line
from bench.servers import Databases
from bench.starting import starting
from bench.streams import delivery
from bench.throughput import Pace, p1, p2, p3
from bench.waking import p4, p6_polls, p6_streams

_RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
_ALL = ("P1", "P2", "P3", "P4", "P5", "P6", "START", "G1", "G2", "G3", "STREAMS", "Q1", "Q2")


class Plan(argparse.Namespace):
    """What the command line asks for."""

    quick: bool
    only: str
    database: str
    output: Path | None

    @property
    def names(self) -> list[str]:
        """Which figures to measure."""
        return [name for name in _ALL if not self.only or name in self.only.upper().split(",")]

    @property
    def kinds(self) -> list[str]:
        """Which databases to measure on."""
        return ["sqlite", "postgres"] if self.database == "both" else [self.database]

    @property
    def pace(self) -> Pace:
        """How long the rounds are."""
        return Pace(2, 0.7, 0.2) if self.quick else Pace(3, 3.0, 0.5)


def main() -> int:
    """Measure what the command line asks for. Return 1 if something could not be measured."""
    plan = _parse()
    lines: list[Line] = []
    failures: list[str] = []
    facts: list[tuple[str, str]] = []
    began = time.perf_counter()
    for kind in plan.kinds:
        with Databases(kind) as databases:
            facts = facts if facts and kind == "sqlite" else machine.describe(databases.maintenance_url)
            for name, measure in _measures(plan, databases):
                started, others = time.perf_counter(), noise.Others()
                try:
                    found = measure()
                except Exception as error:  # noqa: BLE001 - the other figures are still worth having
                    traceback.print_exc()
                    failures.append(f"{name}, {kind}: {type(error).__name__}: {error}")
                    continue
                found = [replace(line, detail=line.detail + noise.remark(others.share())) for line in found]
                lines += found
                _print(name, kind, found, time.perf_counter() - started)
    report = _report(plan, lines, failures, facts, time.perf_counter() - began)
    print("\n" + report)
    if plan.output is not None:
        plan.output.write_text(report)
        print(f"written to {plan.output}")
    return 1 if failures else 0


def _print(name: str, kind: str, lines: list[Line], took_s: float) -> None:
    print(f"{name} on {kind}, {took_s:.0f} s", flush=True)
    for line in lines:
        print("  " + line.summary(), flush=True)


def _parse() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds and a small log: two minutes, rough figures")
    parser.add_argument("--only", default="", help=f"some of {','.join(_ALL)}, with commas between")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--output", type=Path, help="write here; a full run writes to bench/RESULTS.md by default")
    plan = parser.parse_args(namespace=Plan())
    if unknown := set(plan.only.upper().split(",")) - {"", *_ALL}:
        parser.error(f"--only knows {', '.join(_ALL)}, not {', '.join(sorted(unknown))}")
    if plan.output is None and not plan.quick and not plan.only and plan.database == "both":
        plan.output = _RESULTS
    return plan


def _measures(plan: Plan, databases: Databases) -> Iterable[tuple[str, Callable[[], list[Line]]]]:
    """Return what to measure, in order."""
    large = (200_000, Pace(2, 0.6, 0.2)) if plan.quick else (5_000_000, Pace(5, 1.5, 0.3))
    idle_s = 1.5 if plan.quick else 5.0
    measures: list[tuple[str, Callable[[], list[Line]]]] = [
        ("START", lambda: starting(databases, 3 if plan.quick else 5)),
        ("P1", lambda: _throughput(plan, databases, "P1")),
        ("P2", lambda: _throughput(plan, databases, "P2")),
        ("P3", lambda: _throughput(plan, databases, "P3")),
        ("P4", lambda: _waking(plan, databases)),
        ("P5", lambda: p5(databases, *large)),
        ("P6", lambda: p6_polls(databases, idle_s)),
        ("G1", lambda: groups.heartbeats(databases, 5.0 if plan.quick else 20.0)),
        ("G2", lambda: groups.polls(databases, 40 if plan.quick else 200)),
        ("G3", lambda: groups.assignment(databases.kind)),
        ("STREAMS", lambda: [*p6_streams(databases, idle_s), delivery(databases, 3, 2.0 if plan.quick else 5.0)]),
        ("Q1", lambda: _queues(plan, databases)),
        ("Q2", lambda: [q2(databases, large[0], large[1])]),
    ]
    return [(name, measure) for name, measure in measures if name in plan.names]


def _throughput(plan: Plan, databases: Databases, name: str) -> list[Line]:
    url, scratch = databases.new(), databases.new()
    with servers.running(servers.millrace(url)) as server:
        servers.create_topic(server.port, rows.TOPIC, rows.PARTITIONS)
        if name == "P1":
            with servers.running(servers.bare()) as bare, servers.running(servers.bare(plain=True)) as plain:
                return [p1(server, bare, plain, databases.kind, plan.pace)]
        raw = open_raw(scratch, url, servers.partition_ids(url, rows.TOPIC))
        try:
            return [(p2 if name == "P2" else p3)(server, raw, databases.kind, plan.pace)]
        finally:
            raw.close()


def _waking(plan: Plan, databases: Databases) -> list[Line]:
    with servers.running(servers.millrace(databases.new())) as server:
        return [p4(server, databases.kind, rounds=5, each=60 if plan.quick else 200)]


def _queues(plan: Plan, databases: Databases) -> list[Line]:
    with servers.running(servers.millrace(databases.new())) as server:
        servers.create_topic(server.port, rows.TOPIC, rows.PARTITIONS)
        return [q1(server, databases.kind, plan.pace)]


def _report(plan: Plan, lines: list[Line], failures: list[str], facts: list[tuple[str, str]], took_s: float) -> str:
    missed = sum("missed" in line.verdict for line in lines)
    aimed = sum(line.verdict == "aim met" for line in lines)
    command = "python -m bench" + (" --quick" if plan.quick else "")
    rest = len(lines) - aimed - missed
    return "\n".join(
        [
            "# Results",
            "",
            f"Written by `{command}` in {took_s / 60:.1f} minutes; README.md tells how to read it.",
            f"{len(lines)} figures: {aimed} reach the aim, {rest} what must be, {missed} miss it.",
            "",
            HEAD,
            *(line.row() for line in sorted(lines, key=lambda line: line.name.lower())),
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
