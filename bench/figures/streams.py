"""P6, streams: the time from a produce to its event, with one writer and 1,000 readers of one partition."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench import servers, workload
from bench.load_generator import BadAnswer, Connection
from bench.report import Figure, Target
from bench.servers import Databases, Process

DELIVERY = Target(2.0, 1.5, higher=False)

_READERS = 1_000
_RATE = 20
_TOPIC = "live"
_SETTLE_S = 0.5
_PATH = f"/v1/topics/{_TOPIC}/partitions/0/records"


@dataclass
class _Side:
    """One of the two servers: its producer, and the latencies of its readers by round."""

    producer: Connection
    rounds_ms: list[list[float]] = field(default_factory=list)
    sent: int = 0


def delivery(databases: Databases, rounds: int, seconds: float) -> Figure:
    """Measure produce sent → event read, compared with a bare server that writes the same bytes to as many streams.

    Rounds alternate, and all streams stay open. Each reader must receive each record once and in order.
    """
    with (
        servers.running(servers.millrace(databases.new())) as server,
        servers.running(servers.bare_streams()) as bare,
    ):
        servers.create_topic(server.port, _TOPIC, 1)
        buffer = bytearray(1 << 16)
        millrace, baseline = _Side(Connection(server.port, buffer)), _Side(Connection(bare.port, buffer))
        cpu_shares: list[float] = []
        with _readers(server, bare) as readers:
            for side, make in ((millrace, _produce), (baseline, _event)):
                _send(side, make, 5, readers, cpu_shares)
                side.rounds_ms.clear()
            cpu_shares.clear()
            for _ in range(rounds):
                _send(millrace, _produce, round(seconds * _RATE), readers, cpu_shares)
                _send(baseline, _event, round(seconds * _RATE), readers, cpu_shares)
    return _line(databases.kind, millrace, baseline, max(cpu_shares))


def _line(kind: str, millrace: _Side, baseline: _Side, cpu_share: float) -> Figure:
    pairs = zip(millrace.rounds_ms, baseline.rounds_ms, strict=True)
    ratios = [statistics.median(one) / statistics.median(other) for one, other in pairs]
    ours, bare = (sorted(latency for each in side.rounds_ms for latency in each) for side in (millrace, baseline))
    detail = (
        f"median {statistics.median(ours):.2f} ms (99 %: {ours[len(ours) * 99 // 100]:.2f} ms), "
        f"bare {statistics.median(bare):.2f} ms; {_RATE} records/s, each to {_READERS:,} readers, once and in order; "
        f"the readers' process used {cpu_share:.0%} of a core"
    )
    what = "1,000 streams: delivery : bare"
    return Figure("P6", what, kind, statistics.median(ratios), DELIVERY, (min(ratios), max(ratios)), detail)


@contextlib.contextmanager
def _readers(*servers_read: Process) -> Iterator[subprocess.Popen[str]]:
    """Run the process with the readers of some servers."""
    command = [
        sys.executable,
        "-m",
        "bench.stream_readers",
        str(_READERS),
        *(f"{server.port}={_PATH}" for server in servers_read),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise BadAnswer("the readers' process did not open its streams")
            yield process
        finally:
            process.kill()


def _send(
    side: _Side, make: Callable[[int], bytes], number: int, readers: subprocess.Popen[str], cpu_shares: list[float]
) -> None:
    """Send records at the rate, and note the latencies that the readers report."""
    began = time.perf_counter()
    for turn in range(number):
        time.sleep(max(0.0, began + turn / _RATE - time.perf_counter()))
        side.producer.call(make(side.sent))
        side.sent += 1
    time.sleep(_SETTLE_S)
    assert readers.stdin is not None
    assert readers.stdout is not None
    readers.stdin.write("report\n")
    readers.stdin.flush()
    report = json.loads(readers.stdout.readline())
    found = [each for each in report["servers"] if each["latencies_ns"]]
    delivered = sum(len(each["latencies_ns"]) for each in found)
    if len(found) != 1 or delivered != number * _READERS or any(each["faults"] for each in report["servers"]):
        raise BadAnswer(f"{number} records to {_READERS} readers: {delivered} were delivered, or not in order")
    cpu_shares.append(report["cpu_s"] / (time.perf_counter() - began))
    side.rounds_ms.append([latency / 1e6 for latency in found[0]["latencies_ns"]])


def _value(number: int) -> bytes:
    value = workload.samples()[number % 1000].value
    return b'{"n":%d,"sent":%d,%b' % (number, time.perf_counter_ns(), value[1:])


def _produce(number: int) -> bytes:
    return workload.post(_PATH, b'{"key":"UA1","value":%b}' % _value(number))


def _event(number: int) -> bytes:
    """Return a request on which the bare server writes the same event as Millrace."""
    event = b'id: kwEAAppN\ndata: {"partition":0,"offset":%d,"timestamp_ms":%d,"key":"UA1","value":%b}\n\n'
    return workload.post("/", event % (number, time.time_ns() // 1_000_000, _value(number)))
