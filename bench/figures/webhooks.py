"""W1 to W3: deliveries of a webhook beside a bare loop, idle webhooks, and a webhook whose receiver hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import cycle
from urllib.request import urlopen

from bench import servers, workload
from bench.figures.sources import SECRET_KEY
from bench.figures.throughput import Schedule
from bench.report import Figure, Target, per_s, ratio_figure
from bench.servers import Databases, Process

W1 = Target(0.5, 0.7)
W1_BY_KEY = Target(0.4, 0.6)
W2_CPU = Target(5.0, 2.0, higher=False, unit="%")
W2_MEMORY = Target(20.0, 10.0, higher=False, unit="KB")
W3 = Target(0.9, 0.95)
_IN_FLIGHT = 16
_IDLE = 1_000
_SETTLE_S = 4.0
_BACKLOG = 40_000
_BATCH = 1_000
_KEYS = 1_000


def millrace(databases: Databases) -> Process:
    """Start a server whose webhooks may post to this machine."""
    return servers.millrace(
        databases.new(), MILLRACE_SECRET_KEY=SECRET_KEY, MILLRACE_WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8"
    )


def w1(databases: Databases, schedule: Schedule, *, by_key: bool) -> Figure:
    """Measure deliveries to a healthy receiver, compared with the same posts in a bare loop."""
    subject, baseline = [], []
    ordering = "key" if by_key else "none"
    for _ in range(schedule.rounds):
        with servers.running(_receiver()) as receiver:
            baseline.append(_bare_rate(receiver, schedule.seconds))
            with servers.running(millrace(databases)) as server:
                _fill(server)
                _create(server, "measured", receiver, ordering)
                subject.append(_rate(receiver, schedule))
    what = "delivery by a webhook in order of 1,000 keys" if by_key else "delivery by a webhook"
    detail = f"{per_s(subject)}; bare loop {per_s(baseline)}; {_IN_FLIGHT} in flight"
    target = W1_BY_KEY if by_key else W1
    name = "W1 by key" if by_key else "W1"
    return ratio_figure(name, f"{what} : the same HTTP client", databases.kind, subject, baseline, target, detail)


def w2(databases: Databases, seconds: float) -> list[Figure]:
    """Measure what webhooks cost that have nothing to do."""
    with servers.running(_receiver()) as receiver, servers.running(millrace(databases)) as server:
        servers.create_topic(server.port, workload.TOPIC, 1)
        time.sleep(_SETTLE_S)
        before = server.rss_bytes()
        for number in range(_IDLE):
            _create(server, f"idle-{number}", receiver, "key", start="latest")
        time.sleep(_SETTLE_S)
        began, used = time.perf_counter(), server.cpu_s()
        time.sleep(seconds)
        share = 100 * (server.cpu_s() - used) / (time.perf_counter() - began)
        kilobytes = (server.rss_bytes() - before) / _IDLE / 1e3
    return [
        Figure("W2", f"{_IDLE:,} idle webhooks, of one core", databases.kind, share, W2_CPU),
        Figure("W2", "memory of an idle webhook", databases.kind, kilobytes, W2_MEMORY),
    ]


def w3(databases: Databases, schedule: Schedule) -> Figure:
    """Measure deliveries beside a webhook whose receiver never answers, compared with those without it."""
    subject, baseline = [], []
    for _ in range(schedule.rounds):
        for hangs, rates in ((False, baseline), (True, subject)):
            with (
                servers.running(_receiver()) as receiver,
                servers.running(_receiver("hang")) as hanging,
                servers.running(millrace(databases)) as server,
            ):
                _fill(server)
                if hangs:
                    _create(server, "hanging", hanging, "none")
                _create(server, "healthy", receiver, "none")
                rates.append(_rate(receiver, schedule))
    detail = f"{per_s(subject)}, alone {per_s(baseline)}"
    what = "delivery beside a receiver that hangs : alone"
    return ratio_figure("W3", what, databases.kind, subject, baseline, W3, detail)


def _receiver(*options: str) -> Process:
    port = servers.free_port()
    return Process([sys.executable, "-m", "bench.receiver", str(port), *options], port, "/")


def _fill(server: Process) -> None:
    servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
    values = cycle([json.loads(sample.value) for sample in workload.samples()[:2_000]])
    for start in range(0, _BACKLOG, _BATCH):
        records = [{"key": f"k{number % _KEYS}", "value": next(values)} for number in range(start, start + _BATCH)]
        servers.call(server.port, "POST", f"/v1/topics/{workload.TOPIC}/records", {"records": records})


def _create(server: Process, name: str, receiver: Process, ordering: str, start: str = "earliest") -> None:
    settings = {
        "url": f"http://127.0.0.1:{receiver.port}/hook",
        "topics": [workload.TOPIC],
        "ordering": ordering,
        "start": start,
        "max_in_flight": _IN_FLIGHT,
    }
    servers.call(server.port, "PUT", f"/v1/webhooks/{name}", settings)


def _bare_rate(receiver: Process, seconds: float) -> float:
    command = [sys.executable, "-m", "bench.poster", str(receiver.port), str(_IN_FLIGHT), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _rate(receiver: Process, schedule: Schedule) -> float:
    """Return the deliveries per second while there is a backlog."""
    _wait_for_more(receiver, _count(receiver))
    time.sleep(schedule.warm_up)
    began, first = time.perf_counter(), _count(receiver)
    time.sleep(schedule.seconds)
    took, last = time.perf_counter() - began, _count(receiver)
    if last >= _BACKLOG:
        raise AssertionError("the backlog ended before the measurement did")
    return (last - first) / took


def _wait_for_more(receiver: Process, count: int) -> int:
    deadline = time.perf_counter() + 20
    while time.perf_counter() < deadline:
        if (now := _count(receiver)) > count:
            return now
        time.sleep(0.01)
    raise AssertionError("nothing was delivered")


def _count(receiver: Process) -> int:
    with urlopen(f"http://127.0.0.1:{receiver.port}/", timeout=5) as answer:
        return int(answer.read())
