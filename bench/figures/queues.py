"""Q1 and Q2: workers that acquire and accept, compared with producers; and with many records compared with few."""

from __future__ import annotations

import gc
import re
import selectors
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from bench import servers, workload
from bench.figures.throughput import Schedule
from bench.load_generator import BadAnswer, Connection, generate_load
from bench.raw_driver import fill
from bench.report import Figure, Target, per_s, ratio_figure
from bench.servers import Databases, Process

Q1 = Target(0.35, 0.5)
Q2 = Target(0.85, 0.95)
WORKERS = 10
RECORDS_PER_REQUEST = 10

_QUEUE = "workers"
_PATH = f"/v1/queues/{_QUEUE}"
_ACQUIRE = workload.post(f"{_PATH}/acquire", b'{"max_records":%d}' % RECORDS_PER_REQUEST)
_DELIVERY = re.compile(rb'"delivery_id":"([0-9.]+)"')
_ACCEPT = b'{"delivery_id":"%b","outcome":"accept"}'
_FEW_RECORDS = 1_000
_ANSWER_S = 30.0


def q1(server: Process, kind: str, schedule: Schedule) -> Figure:
    """Measure records accepted by 10 workers, 10 a request, compared with records produced the same way."""
    requests = _produces()
    _create(server)
    produced: list[float] = []
    accepted: list[float] = []
    for _ in range(schedule.rounds):
        result = generate_load(
            server.port, requests, connections=WORKERS, seconds=schedule.seconds, warm_up=schedule.warm_up
        )
        produced.append(result.rate * RECORDS_PER_REQUEST)
        accepted.append(_run_workers(server, schedule))
    detail = f"{per_s(accepted)} accepted, {per_s(produced)} produced; {WORKERS} workers, each cycle two requests"
    return ratio_figure("Q1", "acquire and accept : produce, 10 a request", kind, accepted, produced, Q1, detail)


def q2(databases: Databases, waiting: int, schedule: Schedule) -> Figure:
    """Measure produce, acquire and accept with `waiting` records in the queue, compared with a thousand."""
    urls = databases.new(), databases.new()
    for url, count in zip(urls, (waiting, _FEW_RECORDS), strict=True):
        with servers.running(servers.millrace(url)) as server:
            servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        fill(url, servers.partition_ids(url, workload.TOPIC), count)
    many: list[float] = []
    few: list[float] = []
    with servers.running(servers.millrace(urls[0])) as full, servers.running(servers.millrace(urls[1])) as small:
        began = time.perf_counter()
        _create(full)
        created_ms = (time.perf_counter() - began) * 1000
        _create(small)
        for turn in range(schedule.rounds):
            order = ((full, many), (small, few))
            for server, rates in order if turn % 2 else order[::-1]:
                rates.append(_run_workers(server, schedule, produce=True))
    for url in urls:
        databases.drop(url)
    detail = (
        f"{per_s(many)} records, {per_s(few)} with {_FEW_RECORDS:,}; "
        f"the queue over {waiting:,} was made in {created_ms:.0f} ms"
    )
    what = f"produce, acquire, accept with {waiting:,} waiting : {_FEW_RECORDS:,}"
    return ratio_figure("Q2", what, databases.kind, many, few, Q2, detail)


def _create(server: Process) -> None:
    settings = {"topic": workload.TOPIC, "lock_duration_ms": 60_000}
    servers.call(server.port, "PUT", _PATH, settings)


def _produces() -> list[bytes]:
    pool = workload.samples()
    return [
        workload.post(
            f"/v1/topics/{workload.TOPIC}/records",
            b'{"records":[%b]}' % b",".join(map(workload.record_json, pool[start : start + RECORDS_PER_REQUEST])),
        )
        for start in range(0, len(pool), RECORDS_PER_REQUEST)
    ]


def _counts(server: Process) -> dict[str, Any]:
    counts: dict[str, Any] = servers.call(server.port, "GET", _PATH)["counts"]
    return counts


def _run_workers(server: Process, schedule: Schedule, *, produce: bool = False) -> float:
    """Run the workers, and return records accepted per second; the count of the queue must agree."""
    before = _counts(server)["accepted"]
    buffer = bytearray(1 << 20)
    clients = [Connection(server.port, buffer) for _ in range(WORKERS)]
    accepted: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter() + schedule.warm_up
        _cycle(clients, cycle(_produces()) if produce else None, began, began + schedule.seconds, accepted)
    finally:
        gc.enable()
        for client in clients:
            client.sock.close()
    grown = _counts(server)["accepted"] - before
    if grown != accepted["all"]:
        raise AssertionError(f"{accepted['all']} acknowledgements answered, {grown} records accepted")
    return accepted["measured"] / schedule.seconds


def _cycle(
    clients: list[Connection], produces: Iterator[bytes] | None, begin: float, end: float, accepted: Counter[str]
) -> None:
    """Send the requests of each worker one after the other: optionally produce, then acquire and accept."""
    stages = dict.fromkeys(clients, "accept")
    in_flight = 0
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
            in_flight += _send_next(client, stages, produces, accepted, measured=False)
        while in_flight:
            for key, _ in selector.select(_ANSWER_S):
                client = key.data
                if not client.receive(keep=True):
                    continue
                in_flight -= 1
                now = time.perf_counter()
                if now < end or stages[client] == "acquire":
                    in_flight += _send_next(client, stages, produces, accepted, measured=begin <= now < end)
                elif stages[client] == "accept":
                    _count_accepted(client, accepted, measured=False)


def _count_accepted(client: Connection, accepted: Counter[str], *, measured: bool) -> None:
    number = client.body.count(b'"code":null')
    if client.body.count(b'"code"') != number:
        raise BadAnswer(client.body.decode(errors="replace")[:500])
    accepted["all"] += number
    accepted["measured"] += number * measured


def _send_next(
    client: Connection,
    stages: dict[Connection, str],
    produces: Iterator[bytes] | None,
    accepted: Counter[str],
    *,
    measured: bool,
) -> int:
    """Send the request after the last answer; return 1, the number of requests sent."""
    stage = stages[client]
    if stage == "acquire":
        ids = _DELIVERY.findall(client.body)
        if ids:
            body = b'{"acknowledgements":[%b]}' % b",".join([_ACCEPT % each for each in ids])
            request, stages[client] = workload.post(f"{_PATH}/acknowledge", body), "accept"
        else:
            request = _ACQUIRE
    else:
        if stage == "accept":
            _count_accepted(client, accepted, measured=measured)
        if stage == "accept" and produces is not None:
            request, stages[client] = next(produces), "produce"
        else:
            request, stages[client] = _ACQUIRE, "acquire"
    client.body = b""
    if not client.send(request):
        raise BadAnswer("a short request did not fit into the socket")
    return 1
