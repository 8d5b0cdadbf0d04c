"""W4: deliveries to a source, compared with plain produce of the same bodies."""

from __future__ import annotations

import hmac
from itertools import cycle, islice

from bench import servers, workload
from bench.figures.throughput import P1_CONNECTIONS, Rounds, Schedule
from bench.load_generator import LoadResult, generate_load
from bench.report import Figure, Target, per_s, ratio_figure
from bench.servers import Process

W4 = Target(0.5, 0.7)
SECRET_KEY = "c2VjcmV0cyBvZiB0aGUgYmVuY2htYXJrcyBvbmx5ISE="  # noqa: S105 - of this benchmark
_SECRET = b"a secret of the benchmarks"
_PATH = "/v1/sources/flights"
_PER_S = 20_000
"""More deliveries per second than a server takes in: each has an id of its own."""


def w4(server: Process, kind: str, schedule: Schedule) -> Figure:
    """Measure deliveries that are verified and looked up by their id, compared with produce of the same bodies."""
    settings = {
        "topic": workload.TOPIC,
        "verify": {"scheme": "github", "secret": _SECRET.decode()},
        "key_from": "header:X-GitHub-Event",
        "headers": ["X-GitHub-Event"],
    }
    servers.call(server.port, "PUT", _PATH, settings)
    subject, baseline = Rounds(), Rounds()
    for number in range(schedule.rounds):
        baseline.add(_run(server, workload.single_produces(), schedule))
        subject.add(_run(server, _deliveries(number, schedule), schedule))
    detail = (
        f"{per_s(subject.rates)}, median {subject.median_ms:.1f} ms, {subject.cpu_share}; "
        f"produce {per_s(baseline.rates)}, {baseline.cpu_share}; {P1_CONNECTIONS} connections"
    )
    return ratio_figure(
        "W4", "delivery to a source : produce, 1 record", kind, subject.rates, baseline.rates, W4, detail
    )


def _run(server: Process, requests: list[bytes], schedule: Schedule) -> LoadResult:
    """Send requests of one record, and check that the log has grown by the acknowledged ones."""
    before = sum(servers.log_end_offsets(server.port, workload.TOPIC))
    result = generate_load(
        server.port, requests, connections=P1_CONNECTIONS, seconds=schedule.seconds, warm_up=schedule.warm_up
    )
    grown = sum(servers.log_end_offsets(server.port, workload.TOPIC)) - before
    if grown != result.acknowledged:
        raise AssertionError(f"{result.acknowledged} requests acknowledged, {grown} records in the log")
    return result


def _deliveries(number: int, schedule: Schedule) -> list[bytes]:
    """Return signed deliveries with different ids, enough for a round."""
    count = int((schedule.seconds + schedule.warm_up) * _PER_S)
    signed = [(sample, hmac.digest(_SECRET, sample.value, "sha256").hex()) for sample in workload.samples()[:2_000]]
    return [
        b"POST %b/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"x-github-event: %b\r\nx-github-delivery: %d-%d\r\nx-hub-signature-256: sha256=%b\r\n\r\n%b"
        % (_PATH.encode(), len(sample.value), sample.key, number, turn, signature.encode(), sample.value)
        for turn, (sample, signature) in enumerate(islice(cycle(signed), count))
    ]
