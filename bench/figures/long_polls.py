"""P4 and P6: waiting reads: the time to wake one, and the memory, CPU and connections that they hold."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from bench import servers, workload
from bench.load_generator import BadAnswer, Connection
from bench.report import Figure, Target
from bench.servers import Databases, Process

P4 = Target(2.0, 1.5, higher=False)
P6_MEMORY = Target(50, 20, higher=False, unit="KB")
P6_CONNECTIONS = Target(0, 0, higher=False, unit="connections")
P6_CPU = Target(5, 5, higher=False, unit="%")

_WATCHED = "watched"
_ALONE = "alone"
_PARTITIONS = 100
_PARKED = 1_000
_PAUSE_S = 0.004
_WAIT_MS = 60_000
_ANSWER_S = 10.0


@dataclass(frozen=True)
class _Latencies:
    """Latencies in seconds of alternating series."""

    alone: list[list[float]]
    woken: list[list[float]]


def p4(server: Process, kind: str, rounds: int, each: int) -> Figure:
    """Measure produce sent → waiting read answered, compared with a durable produce without waiting reads.

    Both produces use one connection, in alternating series, with the same pause before each. The 100 reads wait all
    the time.
    """
    servers.create_topic(server.port, _WATCHED, _PARTITIONS)
    servers.create_topic(server.port, _ALONE, _PARTITIONS)
    buffer = bytearray(1 << 20)
    readers = [Connection(server.port, buffer) for _ in range(_PARTITIONS)]
    producer = Connection(server.port, buffer)
    for partition, reader in enumerate(readers):
        reader.send(_park(_WATCHED, partition, "latest"))
    time.sleep(0.5)
    latencies = _Latencies([], [])
    ends = [0] * _PARTITIONS
    for _ in range(rounds):
        latencies.alone.append([_alone(producer, turn % _PARTITIONS) for turn in range(each)])
        latencies.woken.append([_wake(producer, readers, ends, turn % _PARTITIONS) for turn in range(each)])
    for client in (producer, *readers):
        client.sock.close()
    ratios = [
        statistics.median(woken) / statistics.median(alone)
        for alone, woken in zip(latencies.alone, latencies.woken, strict=True)
    ]
    woken = sorted(latency for series in latencies.woken for latency in series)
    alone_ms = statistics.median(latency for series in latencies.alone for latency in series) * 1000
    detail = (
        f"woken after {statistics.median(woken) * 1000:.2f} ms (99 %: {woken[len(woken) * 99 // 100] * 1000:.2f} ms), "
        f"produce alone {alone_ms:.2f} ms; {rounds} × {each} of each"
    )
    figure = statistics.median(ratios)
    return Figure("P4", "parked read woken : produce alone", kind, figure, P4, (min(ratios), max(ratios)), detail)


def _produce(topic: str, partition: int) -> bytes:
    body = workload.record_json(workload.samples()[partition])
    return workload.post(f"/v1/topics/{topic}/partitions/{partition}/records", body)


def _park(topic: str, partition: int, offset: int | str) -> bytes:
    return workload.get(f"/v1/topics/{topic}/partitions/{partition}/records?offset={offset}&max_wait_ms={_WAIT_MS}")


def _alone(producer: Connection, partition: int) -> float:
    time.sleep(_PAUSE_S)
    request = _produce(_ALONE, partition)
    began = time.perf_counter()
    producer.call(request)
    return time.perf_counter() - began


def _wake(producer: Connection, readers: list[Connection], ends: list[int], partition: int) -> float:
    time.sleep(_PAUSE_S)
    reader, request = readers[partition], _produce(_WATCHED, partition)
    producer.sock.settimeout(_ANSWER_S)
    reader.sock.settimeout(_ANSWER_S)
    reader.body = b""
    began = time.perf_counter()
    producer.sock.sendall(request)
    while not reader.receive(keep=True):
        pass
    took = time.perf_counter() - began
    while not producer.receive():
        pass
    ends[partition] += 1
    assert b'"next_offset":%d' % ends[partition] in reader.body, "a waiting read was answered without its record"
    reader.sock.settimeout(0)
    reader.send(_park(_WATCHED, partition, ends[partition]))
    return took


def p6_polls(databases: Databases, idle_s: float) -> list[Figure]:
    """Measure memory, CPU and database connections of 1,000 waiting long polls on 100 partitions."""
    paths = [
        f"/v1/topics/{_WATCHED}/partitions/{turn % _PARTITIONS}/records?offset=latest&max_wait_ms={_WAIT_MS}"
        for turn in range(_PARKED)
    ]
    return _parked(databases, "long polls", _PARTITIONS, [workload.get(path) for path in paths], idle_s)


def p6_streams(databases: Databases, idle_s: float) -> list[Figure]:
    """Measure memory, CPU and database connections of 1,000 idle streams of one partition."""
    request = workload.get(f"/v1/topics/{_WATCHED}/partitions/0/records", "text/event-stream")
    return _parked(databases, "streams", 1, [request] * _PARKED, idle_s)


def _parked(databases: Databases, name: str, partitions: int, requests: list[bytes], idle_s: float) -> list[Figure]:
    url = databases.new()
    with servers.running(servers.millrace(url)) as server:
        servers.create_topic(server.port, _WATCHED, partitions)
        return _park_all(databases, server, url, name, requests, idle_s)


def _park_all(
    databases: Databases, server: Process, url: str, name: str, requests: list[bytes], idle_s: float
) -> list[Figure]:
    buffer = bytearray(1 << 20)
    kind = databases.kind
    before = server.rss_bytes()
    cpu_before = _cpu_percent(server, idle_s)
    clients = [Connection(server.port, buffer) for _ in range(_PARKED)]
    for request, client in zip(requests, clients, strict=True):
        client.send(request)
    time.sleep(2)
    answers = {answer for client in clients if (answer := _early(client)) is not None}
    each_kb = (server.rss_bytes() - before) / _PARKED / 1000
    cpu = _cpu_percent(server, idle_s)
    connections = databases.connections(url)
    for client in clients:
        client.sock.close()
    time.sleep(1)
    connections_after = databases.connections(url)
    if answers:
        raise BadAnswer(f"parked {name}: {min(answers)}")
    what = f"1,000 parked {name}: "
    rss = f"resident {before / 1e6:.0f} → {before / 1e6 + each_kb:.0f} MB"
    lines = [
        Figure("P6", what + "memory each", kind, each_kb, P6_MEMORY, detail=rss),
        Figure("P6", what + "CPU, idle", kind, cpu, P6_CPU, detail=f"over {idle_s:.0f} s; {cpu_before:.1f} % before"),
    ]
    if connections is not None and connections_after is not None:
        held = max(0, connections - connections_after)
        detail = f"{connections} to the database, {connections_after} when they had gone"
        lines.append(Figure("P6", what + "connections held", kind, held, P6_CONNECTIONS, detail=detail))
    return lines


def _early(client: Connection) -> str | None:
    """Return the first line of an answer that came too early, or None; the head of a stream is not an answer."""
    try:
        head = client.sock.recv(4096)
    except BlockingIOError:
        return None
    if head.startswith(b"HTTP/1.1 200") and b"transfer-encoding: chunked" in head.lower():
        return None
    return head.split(b"\r\n", 1)[0].decode(errors="replace") or "connection closed"


def _cpu_percent(server: Process, seconds: float) -> float:
    began, cpu = time.perf_counter(), server.cpu_s()
    time.sleep(seconds)
    return (server.cpu_s() - cpu) / (time.perf_counter() - began) * 100
