"""Q1 and Q2: workers that acquire and accept, beside producers; and the same with few and with many records waiting."""

from __future__ import annotations

import gc
import re
import selectors
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from bench import rows, servers
from bench.load import BadAnswer, Connection, drive
from bench.raw import fill
from bench.report import Line, Target, per_s, ratio_line
from bench.servers import Databases, Process
from bench.throughput import Pace

Q1 = Target(0.35, 0.5)
Q2 = Target(0.85, 0.95)
WORKERS = 10
EACH = 10

_QUEUE = "workers"
_PATH = f"/v1/queues/{_QUEUE}"
_ACQUIRE = rows.post(f"{_PATH}/acquire", b'{"max_records":%d}' % EACH)
_DELIVERY = re.compile(rb'"delivery_id":"([0-9.]+)"')
_ACCEPT = b'{"delivery_id":"%b","outcome":"accept"}'
_FEW = 1_000
_ANSWER_S = 30.0


def q1(server: Process, kind: str, pace: Pace) -> Line:
    """Measure records accepted by 10 workers, 10 a request, beside records produced so over 10 connections."""
    requests = _produces()
    _create(server)
    produced: list[float] = []
    accepted: list[float] = []
    for _ in range(pace.rounds):
        outcome = drive(server.port, requests, connections=WORKERS, seconds=pace.seconds, warm_up=pace.warm_up)
        produced.append(outcome.rate * EACH)
        accepted.append(_work(server, pace))
    detail = f"{per_s(accepted)} accepted, {per_s(produced)} produced; {WORKERS} workers, each cycle two requests"
    return ratio_line("Q1", "acquire and accept : produce, 10 a request", kind, accepted, produced, Q1, detail)


def q2(databases: Databases, waiting: int, pace: Pace) -> Line:
    """Measure produce, acquire, accept with `waiting` records in the queue beside the same with a thousand."""
    urls = databases.new(), databases.new()
    for url, count in zip(urls, (waiting, _FEW), strict=True):
        with servers.running(servers.millrace(url)) as server:
            servers.create_topic(server.port, rows.TOPIC, rows.PARTITIONS)
        fill(url, servers.partition_ids(url, rows.TOPIC), count)
    many: list[float] = []
    few: list[float] = []
    with servers.running(servers.millrace(urls[0])) as full, servers.running(servers.millrace(urls[1])) as small:
        began = time.perf_counter()
        _create(full)
        created_ms = (time.perf_counter() - began) * 1000
        _create(small)
        for turn in range(pace.rounds):
            order = ((full, many), (small, few))
            for server, rates in order if turn % 2 else order[::-1]:
                rates.append(_work(server, pace, produce=True))
    for url in urls:
        databases.drop(url)
    detail = (
        f"{per_s(many)} records, {per_s(few)} with {_FEW:,}; the queue over {waiting:,} was made in {created_ms:.0f} ms"
    )
    what = f"produce, acquire, accept with {waiting:,} waiting : {_FEW:,}"
    return ratio_line("Q2", what, databases.kind, many, few, Q2, detail)


def _create(server: Process) -> None:
    settings = {"topic": rows.TOPIC, "lock_duration_ms": 60_000}
    servers.call(server.port, "PUT", _PATH, settings)


def _produces() -> list[bytes]:
    pool = rows.samples()
    return [
        rows.post(
            f"/v1/topics/{rows.TOPIC}/records",
            b'{"records":[%b]}' % b",".join(map(rows.record_json, pool[start : start + EACH])),
        )
        for start in range(0, len(pool), EACH)
    ]


def _counts(server: Process) -> dict[str, Any]:
    counts: dict[str, Any] = servers.call(server.port, "GET", _PATH)["counts"]
    return counts


def _work(server: Process, pace: Pace, *, produce: bool = False) -> float:
    """Let the workers work, and return records accepted per second; the queue must have counted as many."""
    before = _counts(server)["accepted"]
    buffer = bytearray(1 << 20)
    clients = [Connection(server.port, buffer) for _ in range(WORKERS)]
    accepted: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter() + pace.warm_up
        _cycle(clients, cycle(_produces()) if produce else None, began, began + pace.seconds, accepted)
    finally:
        gc.enable()
        for client in clients:
            client.sock.close()
    grown = _counts(server)["accepted"] - before
    if grown != accepted["all"]:
        raise AssertionError(f"{accepted['all']} acknowledgements answered, {grown} records accepted")
    return accepted["measured"] / pace.seconds


def _cycle(
    clients: list[Connection], produces: Iterator[bytes] | None, begin: float, end: float, accepted: Counter[str]
) -> None:
    """Send each worker's requests one after the other: produce if asked, acquire, accept."""
    stages = dict.fromkeys(clients, "accept")
    under_way = 0
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
            under_way += _next(client, stages, produces, accepted, measured=False)
        while under_way:
            for key, _ in selector.select(_ANSWER_S):
                client: Connection = key.data
                if not client.receive(keep=True):
                    continue
                under_way -= 1
                now = time.perf_counter()
                if now < end or stages[client] == "acquire":
                    under_way += _next(client, stages, produces, accepted, measured=begin <= now < end)
                elif stages[client] == "accept":
                    _took(client, accepted, measured=False)


def _took(client: Connection, accepted: Counter[str], *, measured: bool) -> None:
    number = client.body.count(b'"code":null')
    if client.body.count(b'"code"') != number:
        raise BadAnswer(client.body.decode(errors="replace")[:500])
    accepted["all"] += number
    accepted["measured"] += number * measured


def _next(
    client: Connection,
    stages: dict[Connection, str],
    produces: Iterator[bytes] | None,
    accepted: Counter[str],
    *,
    measured: bool,
) -> int:
    """Send the request that follows on the last answer."""
    stage = stages[client]
    if stage == "acquire":
        ids = _DELIVERY.findall(client.body)
        if ids:
            body = b'{"acknowledgements":[%b]}' % b",".join([_ACCEPT % each for each in ids])
            request, stages[client] = rows.post(f"{_PATH}/acknowledge", body), "accept"
        else:
            request = _ACQUIRE
    else:
        if stage == "accept":
            _took(client, accepted, measured=measured)
        if stage == "accept" and produces is not None:
            request, stages[client] = next(produces), "produce"
        else:
            request, stages[client] = _ACQUIRE, "acquire"
    client.body = b""
    if not client.send(request):
        raise BadAnswer("a short request did not fit into the socket")
    return 1
