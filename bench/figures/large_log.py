"""P5: P1 to P3 on a log of millions of records, compared with a small log."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench import servers, workload
from bench.figures.throughput import (
    P2_CONNECTIONS,
    P3_CONNECTIONS,
    Schedule,
    fetch_pages,
    produce_batches,
    produce_single,
)
from bench.load_generator import LoadResult
from bench.raw_driver import fill
from bench.report import Figure, Target, per_s, ratio_figure
from bench.servers import Databases, Process

P5 = Target(0.85, 0.95)
_SMALL_LOG_BATCHES = 40


def p5(databases: Databases, records: int, schedule: Schedule) -> list[Figure]:
    """Fill one log through the driver, leave another nearly empty, and load both in turns."""
    large, small = databases.new(), databases.new()
    began = time.perf_counter()
    for url, count in ((large, records), (small, _SMALL_LOG_BATCHES * workload.BATCH)):
        with servers.running(servers.millrace(url)) as server:
            servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        fill(url, servers.partition_ids(url, workload.TOPIC), count)
    print(f"filled {records:,} records in {time.perf_counter() - began:.0f} s", flush=True)
    with servers.running(servers.millrace(large)) as full, servers.running(servers.millrace(small)) as empty:
        found = sum(servers.log_end_offsets(full.port, workload.TOPIC))
        assert found == records, f"the log has {found} records, not {records}"
        lines = [
            _compare(databases.kind, name, load, full, empty, records, schedule) for name, load in _loads(full, empty)
        ]
    databases.drop(large)
    databases.drop(small)
    return lines


def _loads(full: Process, empty: Process) -> list[tuple[str, Callable[[Process, Schedule], LoadResult]]]:
    page_starts = {
        each.port: workload.page_starts(servers.log_end_offsets(each.port, workload.TOPIC)) for each in (full, empty)
    }
    return [
        ("P1", produce_single),
        ("P2", lambda server, schedule: produce_batches(server, schedule, P2_CONNECTIONS[0])),
        ("P3", lambda server, schedule: fetch_pages(server, schedule, P3_CONNECTIONS[0], page_starts[server.port])),
    ]


def _compare(
    kind: str,
    name: str,
    load: Callable[[Process, Schedule], LoadResult],
    full: Process,
    empty: Process,
    records: int,
    schedule: Schedule,
) -> Figure:
    subject: list[float] = []
    baseline: list[float] = []
    for turn in range(schedule.rounds):
        # The order alternates, so that neither log is always first.
        order = ((full, subject), (empty, baseline))
        for server, rates in order if turn % 2 else order[::-1]:
            rates.append(load(server, schedule).rate)
    detail = f"{per_s(subject)} requests, {per_s(baseline)} on the small log"
    return ratio_figure("P5", f"{name} with {records:,} records : empty", kind, subject, baseline, P5, detail)
