"""G1 to G3: what consumer groups cost: heartbeats, polls beside fetch and commit, and computing an assignment."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count, cycle

from app.domain.groups.assignor import Subscriber, uniform
from app.domain.log.cursor import Cursor, decode_cursor, encode_cursor
from bench import rows, servers
from bench.load import Connection
from bench.report import Line, Target
from bench.servers import Databases, Process

G1 = Target(10, 5, higher=False, unit="%")
G2 = Target(1.3, 1.0, higher=False)
G3 = Target(100, 50, higher=False, unit="ms")

_GROUPS = 100
_MEMBERS = 10
_BEAT_EVERY_S = 5.0
_BEATS_UNTIL_STABLE = 6
_SESSION_MS = 30_000
_BATCHES = 80
_PLACES = 20


def heartbeats(databases: Databases, seconds: float) -> list[Line]:
    """Measure the CPU of a server to which 1,000 members in 100 groups beat every 5 s, and a heartbeat's latency."""
    with servers.running(servers.millrace(databases.new())) as server, servers.running(servers.bare()) as bare:
        servers.create_topic(server.port, rows.TOPIC, 100)
        beats = _beats([_join(server, f"group-{number % _GROUPS}") for number in range(_GROUPS * _MEMBERS)])
        # A second after the first join the groups are assigned; a partition then moves from beat to beat: its holder
        # hears of it, confirms, and the next hears that it is free. What is measured begins when all are stable.
        _pace(server.port, beats, _BEATS_UNTIL_STABLE * _BEAT_EVERY_S)
        idle = _cpu_share(server, lambda: time.sleep(2))
        latencies: list[float] = []
        busy = _cpu_share(server, lambda: latencies.extend(_pace(server.port, beats, seconds)))
        twin = _pace(bare.port, beats, min(seconds, 5.0))
    detail = (
        f"{len(latencies) / seconds:.0f} beats/s over {seconds:.0f} s, sessions of {_SESSION_MS // 1000} s; "
        f"a beat takes {_ms(latencies)}, a bare round trip {_ms(twin)}; without beats {idle:.1f} %"
    )
    return [Line("G1", "1,000 members in 100 groups: CPU", databases.kind, busy, G1, detail=detail)]


def polls(databases: Databases, each: int) -> list[Line]:
    """Measure a poll that commits and finds 500 records beside a fetch of as many and a commit, in turns."""
    with servers.running(servers.millrace(databases.new())) as server:
        servers.create_topic(server.port, rows.TOPIC, rows.PARTITIONS)
        client = Connection(server.port, bytearray(1 << 20))
        batches = cycle(rows.batch_produces())
        for _ in range(_BATCHES):
            client.ask(next(batches))
        ends = servers.log_end_offsets(server.port, rows.TOPIC)
        starts = [[(end - rows.BATCH) * step // _PLACES for end in ends] for step in range(_PLACES)]
        took_s: dict[str, list[float]] = {"poll": [], "fetch": [], "commit": []}
        for place in _taken(_requests(server, starts), each):
            for name, request in place.items():
                began = time.perf_counter()
                body = client.ask(request)
                took_s[name].append(time.perf_counter() - began)
                assert name == "commit" or body.count(b'"offset":') >= rows.BATCH, "too few records were read"
        client.sock.close()
    middle = {name: statistics.median(values) for name, values in took_s.items()}
    figure = middle["poll"] / (middle["fetch"] + middle["commit"])
    detail = ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in middle.items()) + f"; {each} of each in turns"
    return [Line("G2", "poll of 500 records : fetch and commit", databases.kind, figure, G2, detail=detail)]


def assignment(kind: str) -> list[Line]:
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
        Line("G3", "assign 1,000 partitions to 199 of 200", kind, statistics.median(took_s) * 1000, G3, detail=detail)
    ]


def _join(server: Process, group: str) -> tuple[str, dict[str, object]]:
    body = {"topics": [rows.TOPIC], "session_timeout_ms": _SESSION_MS}
    joined = servers.call(server.port, "POST", f"/v1/groups/{group}/members", body)
    return f"/v1/groups/{group}/members/{joined['member_id']}/heartbeat", joined


Beat = Callable[[Connection], None]


def _beats(members: list[tuple[str, dict[str, object]]]) -> Iterator[Beat]:
    """Yield the members' beats in turn, each with what its last answer said."""

    def beat(path: str, known: dict[str, object], client: Connection) -> None:
        body = {"member_epoch": known["member_epoch"], "owned": known["assignment"]}
        answer = client.ask(rows.post(path, json.dumps(body).encode()))
        if b"member_epoch" in answer:
            known |= json.loads(answer)

    for path, known in cycle(members):
        yield lambda client, path=path, known=known: beat(path, known, client)  # type: ignore[misc]


def _pace(port: int, beats: Iterator[Beat], seconds: float) -> list[float]:
    """Send the beats of all members at their pace for a time. Return the latencies in seconds."""
    client = Connection(port, bytearray(1 << 20))
    pause, began = _BEAT_EVERY_S / (_GROUPS * _MEMBERS), time.perf_counter()
    latencies: list[float] = []
    for number in count():
        now = time.perf_counter()
        if now - began >= seconds:
            break
        time.sleep(max(0.0, began + number * pause - now))
        sent_at = time.perf_counter()
        next(beats)(client)
        latencies.append(time.perf_counter() - sent_at)
    client.sock.close()
    return latencies


def _cpu_share(server: Process, work: Callable[[], None]) -> float:
    began, cpu_s = time.perf_counter(), server.cpu_s()
    work()
    return (server.cpu_s() - cpu_s) / (time.perf_counter() - began) * 100


def _ms(latencies: list[float]) -> str:
    ordered = sorted(latencies)
    return f"{statistics.median(ordered) * 1000:.2f} ms (99 %: {ordered[len(ordered) * 99 // 100] * 1000:.2f} ms)"


def _requests(server: Process, starts: list[list[int]]) -> Iterator[dict[str, bytes]]:
    """Yield a poll, and the fetch and commit that do the same, at one place after the other."""
    path, member = "/v1/groups/readers/members", "reader"
    joined = servers.call(server.port, "POST", path, {"topics": [rows.TOPIC], "member_id": member})
    epoch = joined["member_epoch"]
    page = servers.call(server.port, "GET", f"/v1/topics/{rows.TOPIC}/records?max_records=1")
    topic_id = decode_cursor(page["next_cursor"]).topic_id
    for place in cycle(starts):
        offsets = [{"topic": rows.TOPIC, "partition": number, "offset": at} for number, at in enumerate(place)]
        poll = {"member_epoch": epoch, "commit": offsets, "max_records": rows.BATCH, "max_wait_ms": 0}
        commit = {"member_id": member, "member_epoch": epoch, "offsets": offsets}
        cursor = encode_cursor(Cursor(topic_id, place))
        yield {
            "poll": rows.post(f"{path}/{member}/poll", json.dumps(poll).encode()),
            "fetch": rows.get(f"/v1/topics/{rows.TOPIC}/records?cursor={cursor}&max_records={rows.BATCH}"),
            "commit": rows.post("/v1/groups/readers/offsets", json.dumps(commit).encode()),
        }


def _taken(requests: Iterator[dict[str, bytes]], number: int) -> Iterator[dict[str, bytes]]:
    for _, request in zip(range(number), requests, strict=False):
        yield request
