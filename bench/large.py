"""P5: P1 to P3 with millions of records in the log, beside the same on a log that began empty."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench import rows, servers
from bench.load import Outcome
from bench.raw import fill
from bench.report import Line, Target, per_s, ratio_line
from bench.servers import Databases, Process
from bench.throughput import P2_CONNECTIONS, P3_CONNECTIONS, Pace, fetch_pages, produce_batches, produce_single

P5 = Target(0.85, 0.95)
_EARLY_BATCHES = 40


def p5(databases: Databases, records: int, pace: Pace) -> list[Line]:
    """Fill one log by the driver, leave another nearly empty, and load both in turn."""
    large, small = databases.new(), databases.new()
    began = time.perf_counter()
    for url, count in ((large, records), (small, _EARLY_BATCHES * rows.BATCH)):
        with servers.running(servers.millrace(url)) as server:
            servers.create_topic(server.port, rows.TOPIC, rows.PARTITIONS)
        fill(url, servers.partition_ids(url, rows.TOPIC), count)
    print(f"filled {records:,} records in {time.perf_counter() - began:.0f} s", flush=True)
    with servers.running(servers.millrace(large)) as full, servers.running(servers.millrace(small)) as empty:
        found = sum(servers.log_end_offsets(full.port, rows.TOPIC))
        assert found == records, f"the log has {found} records, not {records}"
        lines = [_compare(databases.kind, name, load, full, empty, records, pace) for name, load in _loads(full, empty)]
    databases.drop(large)
    databases.drop(small)
    return lines


def _loads(full: Process, empty: Process) -> list[tuple[str, Callable[[Process, Pace], Outcome]]]:
    places = {each.port: rows.page_fetches(servers.log_end_offsets(each.port, rows.TOPIC)) for each in (full, empty)}
    return [
        ("P1", produce_single),
        ("P2", lambda server, pace: produce_batches(server, pace, P2_CONNECTIONS[0])),
        ("P3", lambda server, pace: fetch_pages(server, pace, P3_CONNECTIONS[0], places[server.port])),
    ]


def _compare(
    kind: str,
    name: str,
    load: Callable[[Process, Pace], Outcome],
    full: Process,
    empty: Process,
    records: int,
    pace: Pace,
) -> Line:
    subject: list[float] = []
    twin: list[float] = []
    for turn in range(pace.rounds):
        # In alternating order, so that neither log is always the first.
        order = ((full, subject), (empty, twin))
        for server, rates in order if turn % 2 else order[::-1]:
            rates.append(load(server, pace).rate)
    detail = f"{per_s(subject)} requests, {per_s(twin)} on the small log"
    return ratio_line("P5", f"{name} with {records:,} records : empty", kind, subject, twin, P5, detail)
