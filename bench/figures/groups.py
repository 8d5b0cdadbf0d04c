"""G1 to G3: consumer groups: heartbeats, polls compared with fetch and commit, computing an assignment."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count, cycle

from app.domain.groups.assignor import Subscriber, uniform
from app.domain.log.cursor import Cursor, decode_cursor, encode_cursor
from bench import servers, workload
from bench.load_generator import Connection
from bench.report import Figure, Target
from bench.servers import Databases, Process

G1 = Target(10, 5, higher=False, unit="%")
G2 = Target(1.3, 1.0, higher=False)
G3 = Target(100, 50, higher=False, unit="ms")

_GROUPS = 100
_MEMBERS = 10
_HEARTBEAT_INTERVAL_S = 5.0
_HEARTBEATS_UNTIL_STABLE = 6
_SESSION_MS = 30_000
_BATCHES = 80
_STARTS = 20


def heartbeats(databases: Databases, seconds: float) -> list[Figure]:
    """Measure the CPU of a server and the latency of a heartbeat, with 1,000 members that send one every 5 s."""
    with servers.running(servers.millrace(databases.new())) as server, servers.running(servers.bare()) as bare:
        servers.create_topic(server.port, workload.TOPIC, 100)
        member_heartbeats = _heartbeats(
            [_join(server, f"group-{number % _GROUPS}") for number in range(_GROUPS * _MEMBERS)]
        )
        # The groups are assigned a second after the first join. Each partition that moves then takes heartbeats of
        # its owner, which revokes and confirms, and one of its new owner. The measurement starts with stable groups.
        _send_heartbeats(server.port, member_heartbeats, _HEARTBEATS_UNTIL_STABLE * _HEARTBEAT_INTERVAL_S)
        idle = _cpu_percent(server, lambda: time.sleep(2))
        latencies: list[float] = []
        cpu_percent = _cpu_percent(
            server, lambda: latencies.extend(_send_heartbeats(server.port, member_heartbeats, seconds))
        )
        baseline = _send_heartbeats(bare.port, member_heartbeats, min(seconds, 5.0))
    detail = (
        f"{len(latencies) / seconds:.0f} beats/s over {seconds:.0f} s, sessions of {_SESSION_MS // 1000} s; "
        f"a beat takes {_ms(latencies)}, a bare round trip {_ms(baseline)}; without beats {idle:.1f} %"
    )
    return [Figure("G1", "1,000 members in 100 groups: CPU", databases.kind, cpu_percent, G1, detail=detail)]


def polls(databases: Databases, each: int) -> list[Figure]:
    """Measure a poll that commits and returns 500 records, compared with a fetch of as many and a commit, in turns."""
    with servers.running(servers.millrace(databases.new())) as server:
        servers.create_topic(server.port, workload.TOPIC, workload.PARTITIONS)
        client = Connection(server.port, bytearray(1 << 20))
        batches = cycle(workload.batch_produces())
        for _ in range(_BATCHES):
            client.call(next(batches))
        ends = servers.log_end_offsets(server.port, workload.TOPIC)
        starts = [[(end - workload.BATCH) * step // _STARTS for end in ends] for step in range(_STARTS)]
        took_s: dict[str, list[float]] = {"poll": [], "fetch": [], "commit": []}
        for by_name in _taken(_requests(server, starts), each):
            for name, request in by_name.items():
                began = time.perf_counter()
                body = client.call(request)
                took_s[name].append(time.perf_counter() - began)
                assert name == "commit" or body.count(b'"offset":') >= workload.BATCH, "too few records were read"
        client.sock.close()
    medians = {name: statistics.median(values) for name, values in took_s.items()}
    figure = medians["poll"] / (medians["fetch"] + medians["commit"])
    detail = (
        ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in medians.items()) + f"; {each} of each in turns"
    )
    return [Figure("G2", "poll of 500 records : fetch and commit", databases.kind, figure, G2, detail=detail)]


def assignment(kind: str) -> list[Figure]:
    """Measure computing the assignment of 1,000 partitions to 200 members after one of them has left."""
    topics = dict.fromkeys(range(1, 11), 100)
    subscribed = frozenset(topics)
    before = uniform({f"m{n:03}": Subscriber(subscribed, frozenset()) for n in range(200)}, topics)
    left = {name: Subscriber(subscribed, target) for name, target in before.items() if name != "m100"}
    took_s = []
    for _ in range(5):
        began = time.perf_counter()
        after = uniform(left, topics)
        took_s.append(time.perf_counter() - began)
    moved = sum(len(target - left[name].assigned) for name, target in after.items())
    detail = f"{moved} partitions moved, {len(before['m100'])} were free; median of 5"
    return [
        Figure("G3", "assign 1,000 partitions to 199 of 200", kind, statistics.median(took_s) * 1000, G3, detail=detail)
    ]


def _join(server: Process, group: str) -> tuple[str, dict[str, object]]:
    body = {"topics": [workload.TOPIC], "session_timeout_ms": _SESSION_MS}
    joined = servers.call(server.port, "POST", f"/v1/groups/{group}/members", body)
    return f"/v1/groups/{group}/members/{joined['member_id']}/heartbeat", joined


Heartbeat = Callable[[Connection], None]


def _heartbeats(members: list[tuple[str, dict[str, object]]]) -> Iterator[Heartbeat]:
    """Yield the heartbeats of the members in turn, each with the epoch and assignment of its last answer."""

    def heartbeat(path: str, last_answer: dict[str, object], client: Connection) -> None:
        body = {"member_epoch": last_answer["member_epoch"], "owned": last_answer["assignment"]}
        answer = client.call(workload.post(path, json.dumps(body).encode()))
        if b"member_epoch" in answer:
            last_answer |= json.loads(answer)

    for path, last_answer in cycle(members):
        yield lambda client, path=path, last_answer=last_answer: heartbeat(path, last_answer, client)  # type: ignore[misc]


def _send_heartbeats(port: int, heartbeats: Iterator[Heartbeat], seconds: float) -> list[float]:
    """Send the heartbeats of all members at their interval for some time. Return the latencies in seconds."""
    client = Connection(port, bytearray(1 << 20))
    pause, began = _HEARTBEAT_INTERVAL_S / (_GROUPS * _MEMBERS), time.perf_counter()
    latencies: list[float] = []
    for number in count():
        now = time.perf_counter()
        if now - began >= seconds:
            break
        time.sleep(max(0.0, began + number * pause - now))
        sent_at = time.perf_counter()
        next(heartbeats)(client)
        latencies.append(time.perf_counter() - sent_at)
    client.sock.close()
    return latencies


def _cpu_percent(server: Process, work: Callable[[], None]) -> float:
    began, cpu_s = time.perf_counter(), server.cpu_s()
    work()
    return (server.cpu_s() - cpu_s) / (time.perf_counter() - began) * 100


def _ms(latencies: list[float]) -> str:
    ordered = sorted(latencies)
    return f"{statistics.median(ordered) * 1000:.2f} ms (99 %: {ordered[len(ordered) * 99 // 100] * 1000:.2f} ms)"


def _requests(server: Process, starts: list[list[int]]) -> Iterator[dict[str, bytes]]:
    """Yield a poll with the fetch and the commit that do the same, from each of some start offsets in turn."""
    path, member = "/v1/groups/readers/members", "reader"
    joined = servers.call(server.port, "POST", path, {"topics": [workload.TOPIC], "member_id": member})
    epoch = joined["member_epoch"]
    page = servers.call(server.port, "GET", f"/v1/topics/{workload.TOPIC}/records?max_records=1")
    topic_id = decode_cursor(page["next_cursor"]).topic_id
    for start in cycle(starts):
        offsets = [{"topic": workload.TOPIC, "partition": number, "offset": at} for number, at in enumerate(start)]
        poll = {"member_epoch": epoch, "commit": offsets, "max_records": workload.BATCH, "max_wait_ms": 0}
        commit = {"member_id": member, "member_epoch": epoch, "offsets": offsets}
        cursor = encode_cursor(Cursor(topic_id, start))
        yield {
            "poll": workload.post(f"{path}/{member}/poll", json.dumps(poll).encode()),
            "fetch": workload.get(f"/v1/topics/{workload.TOPIC}/records?cursor={cursor}&max_records={workload.BATCH}"),
            "commit": workload.post("/v1/groups/readers/offsets", json.dumps(commit).encode()),
        }


def _taken(requests: Iterator[dict[str, bytes]], number: int) -> Iterator[dict[str, bytes]]:
    for _, request in zip(range(number), requests, strict=False):
        yield request
